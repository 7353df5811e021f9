"""Files that the store knows by another name; in: known rows and a scope, out: who they are now.

A file is one row, however it was named: one by one, by a folder, by an import, or by a folder
around these. What a scan of a folder comes to keeps its row, its vector and the user's columns.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from embedsearch.core.paths import part_below
from embedsearch.core.records import ImageRef, Root, RootKind
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.links import is_truly_gone, takes
from embedsearch.indexing.known_rows import KnownRows
from embedsearch.indexing.scope import ScanTarget, Scope


@dataclass(frozen=True)
class SameFiles:
    """Positions of known rows whose file is in a folder that a run scans."""

    claims: dict[tuple[int, str], int] = field(default_factory=dict)  # by the root and key there
    doubles: list[tuple[int, int]] = field(default_factory=list)  # with that of the row there
    listed: frozenset[int] = frozenset()  # of these, the ones that were named one by one

    @classmethod
    def of(
        cls, known: KnownRows, roots: Mapping[int, Root], scope: Scope, rules: WalkRules
    ) -> SameFiles:
        """Return the rows of lists, and of roots that a scanned folder replaces."""
        targets = [target for target in scope.targets if target.root.kind is RootKind.FOLDER]
        lists = {root.id for root in roots.values() if root.kind is RootKind.LIST}
        others = [root for root in roots.values() if root.id in lists | scope.dropped]
        found: dict[tuple[int, str], list[int]] = {}
        listed: set[int] = set()
        for target in targets:
            folder = _whole(target.root, target.scope).strip("/")
            for root in others:
                part = ScanTarget(root, folder if root.id in lists else "")
                for key, position in known.keys(known.below(part)):
                    home = _home(_whole(root, os.fsdecode(key)), [target])
                    if home is None:
                        continue
                    if root.id in lists:
                        if not takes(home[0].path, home[1], rules):
                            continue
                        listed.add(position)
                    found.setdefault((home[0].id, home[1]), []).append(position)
        there = _known_there(known, targets, found)
        claims = {place: found[place][0] for place in found if place not in there}
        doubles = [
            (position, there.get(place, found[place][0]))
            for place, positions in found.items()
            for position in positions[place not in there :]
        ]
        return cls(claims, doubles, frozenset(listed))

    def lost(self, met: Iterable[tuple[int, str]], roots: Mapping[int, Root]) -> list[int]:
        """Return the rows whose file the scan has not met, and which is not there."""
        left = self.claims.keys() - set(met)
        return [
            position
            for place in left
            if (position := self.claims[place]) not in self.listed
            or is_truly_gone(_whole(roots[place[0]], place[1]))
        ]


def is_walked(path: str, scope: Scope, rules: WalkRules) -> bool:
    """Return whether a walk through a folder of the scope comes to a file."""
    homes = (_home(path, [target]) for target in scope.targets if target.root.is_folder_here)
    return any(home is not None and takes(home[0].path, home[1], rules) for home in homes)


def vanished(scope: Scope) -> set[int]:
    """Return the roots on this machine that are no targets and are not there."""
    targets = {target.root.id for target in scope.targets}
    return {
        root.id
        for root in scope.roots
        if root.id not in targets
        and root.kind is not RootKind.LIST
        and not (root.is_remote or os.path.lexists(root.path))
    }


def reached(
    known: KnownRows, known_roots: Collection[int], scope: Scope, new_refs: Iterable[ImageRef]
) -> dict[tuple[int, str], int]:
    """Return the rows outside the targets that are behind links into new roots, by root and key.

    The next walk passes over them there: without a link they are in the new root.
    """
    roots = {root.id: root for root in scope.roots if root.is_folder_here}
    targets = [target for target in scope.targets if target.root.id in roots]
    new = {t.root.id: t.root.path for t in targets if t.root.id not in known_roots}
    if not new:
        return {}
    sizes = {ref.size for ref in new_refs if ref.root in new}
    scanned = {position for target in targets for position in known.below(target).tolist()}

    found: dict[tuple[int, str], int] = {}
    for position in known.of_roots(roots.keys() - new.keys()):
        if known.size(position) in sizes and position not in scanned:
            root = roots[int(known.value("root", position))]
            key = os.fsdecode(bytes(known.value("key", position)))
            path = os.path.realpath(_whole(root, key))
            if (home := _home(path, (t for t in targets if t.root.id in new))) is not None:
                found[home[0].id, home[1]] = position
    return found


def _home(path: str, targets: Iterable[ScanTarget]) -> tuple[Root, str] | None:
    """Return the root and the key under which a target covers a path."""
    for target in targets:
        key = part_below(path, target.root.path)
        if key and target.covers(key):
            return target.root, key
    return None


def _known_there(
    known: KnownRows, targets: Iterable[ScanTarget], places: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """Return the positions of the rows that have these roots and keys."""
    keys: dict[int, set[str]] = {}
    for root, key in places:
        keys.setdefault(root, set()).add(key)
    return {
        (target.root.id, os.fsdecode(key)): position
        for target in {t.root.id: t for t in targets if t.root.id in keys}.values()
        for key, position in known.keys(
            known.below(ScanTarget(target.root, files=frozenset(keys[target.root.id])))
        )
    }


def _whole(root: Root, key: str) -> str:
    return f"{root.path.rstrip('/')}/{key}"
