"""Which folders a run looks through; in: folders named and known roots, out: a Scope."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from embedsearch.errors import UsageError
from embedsearch.sources.folder import FolderScan
from embedsearch.store.manifest import Root


@dataclass(frozen=True)
class Target:
    """A folder to scan: `scope` below `root`, empty for the whole root."""

    root: Root
    scope: str


@dataclass(frozen=True)
class Scope:
    """The roots of the store after the run, what to scan of them, and roots that are dropped."""

    roots: tuple[Root, ...]
    targets: tuple[Target, ...]
    dropped: frozenset[int]


def resolve_scope(folders: Sequence[str], known: Sequence[Root]) -> Scope:
    """Match folders to the roots of the store; without folders, take all roots.

    A folder inside a root is a part of it; a folder around a root takes it over. Raises
    UsageError for what is no folder.
    """
    roots = {root.path: root for root in known}
    targets: dict[tuple[int, str], Target] = {}
    next_id = max((root.id for root in known), default=-1) + 1
    dropped: set[int] = set()
    for folder in folders:
        path = real_folder(folder)
        home = next((r for r in roots.values() if _is_inside(path, r.path)), None)
        if home is None:
            home = Root(next_id, path)
            next_id += 1
            for inner in [r for r in roots.values() if _is_inside(r.path, path)]:
                dropped.add(inner.id)
                del roots[inner.path]
            roots[path] = home
        scope = "" if path == home.path else os.path.relpath(path, home.path)
        targets[home.id, scope] = Target(home, scope)
    if not folders:
        targets = {(root.id, ""): Target(root, "") for root in known}
    kept = {root.id for root in roots.values()}
    return Scope(
        roots=tuple(sorted(roots.values(), key=lambda root: root.id)),
        targets=tuple(_outermost(t for t in targets.values() if t.root.id in kept)),
        dropped=frozenset(dropped),
    )


def real_folder(folder: str) -> str:
    """Return the absolute path of a folder, links followed. Raises UsageError."""
    path = os.path.realpath(folder)
    if not os.path.isdir(path):
        words = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UsageError(f"{folder} {words}")
    return path


def holds_image(scope: Scope) -> bool:
    """Return whether there is any image to index; stops at the first."""
    scans = (FolderScan(t.root.id, t.root.path, t.scope) for t in scope.targets)
    return any(True for scan in scans for _ in scan)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(targets: Iterable[Target]) -> Iterator[Target]:
    """Yield the targets that lie in no other, in the order of roots and scopes."""
    listed = sorted(targets, key=lambda t: (t.root.id, t.scope))
    for target in listed:
        others = (t for t in listed if t.root.id == target.root.id and t is not target)
        if not any(not t.scope or target.scope.startswith(t.scope + "/") for t in others):
            yield target
