"""What a run scans; in: requested folders, archives and URLs and the known roots, out: a Scope."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import is_url, local_path
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Root, RootKind
from embedsearch.images.sources.listing import FileList
from embedsearch.images.sources.open import SUFFIXES, kind_of_file, open_source
from embedsearch.images.sources.source import Source
from embedsearch.images.temporary import TemporaryImages


@dataclass(frozen=True)
class ScanTarget:
    """What to scan: the folder `scope` below `root`, or only `files`, keys of it; else all."""

    root: Root
    scope: str = ""
    files: frozenset[str] | None = None

    def covers(self, key: str) -> bool:
        """Return whether the target includes a key of its root."""
        if self.files is not None:
            return key in self.files
        return self.scope in {"", key} or key.startswith(self.scope + "/")


@dataclass(frozen=True)
class Scope:
    """The roots of the store after the run, what to scan, and the roots to drop."""

    roots: tuple[Root, ...]
    targets: tuple[ScanTarget, ...]
    dropped: frozenset[int]


_MAX_HELD_BYTES = 8 << 30  # of fetched archives


class Sources:
    """The sources of a run, opened by root; use as a context manager."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is the maximum size of an image file."""
        self._max_bytes = max_bytes
        self._temporary = TemporaryImages()
        self._open: dict[int, Source] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self._open.values():
            source.close()
        self._temporary.close()

    def open(self, target: ScanTarget, known: Callable[[], Iterable[str]] = tuple) -> Source:
        """Return the source of a target; `known` returns the keys of its known rows."""
        if (root := target.root).kind is RootKind.LIST or target.files is not None:
            keys = known() if target.files is None else target.files
            self._open[root.id] = FileList(root.id, root.path, keys)
        elif root.kind is RootKind.FOLDER or root.id not in self._open:  # archives: once
            self._make_room()
            self._open[root.id] = open_source(root, target.scope, self._temporary, self._max_bytes)
        return self._open[root.id]

    def _make_room(self) -> None:
        """Close the oldest fetched archives; keep the last, which decoders may still read."""
        held = [source for source in self._open.values() if source.held_bytes]
        while len(held) > 1 and sum(source.held_bytes for source in held) > _MAX_HELD_BYTES:
            held.pop(0).close()

    def synced(self, scope: Scope) -> tuple[Root, ...]:
        """Return the roots of a run that has scanned all its targets."""
        sources = {target.root.id: self._open[target.root.id] for target in scope.targets}
        versions = {root: s.version() for root, s in sources.items() if s.is_there()}
        return tuple(replace(r, synced=versions.get(r.id, r.synced)) for r in scope.roots)

    def complaints(self) -> list[str]:
        """Return the message of the first scan failure, if there is one."""
        failures = [failure for source in self._open.values() for failure in source.failures]
        return [f"{failure.reason}: {failure.detail}" for failure in failures[:1]]

    def of(self, ref: ImageRef) -> Source:
        """Return the source that a ref came from."""
        return self._open[ref.root]

    def places(
        self, refs: Iterable[ImageRef], roots: Iterable[Root]
    ) -> Iterator[tuple[ImageRef, ImageLocation | Failure]]:
        """Yield the location of each ref's bytes, or why they cannot be read, root by root."""
        by_id = {root.id: root for root in roots}
        last: list[Source] = []
        for root, group in groupby(refs, lambda ref: ref.root):
            source = self._open.get(root) or self.open(ScanTarget(by_id[root]))
            yield from source.places(group)
            last.append(source)
            if len(last) > 2:  # decoders may still read the previous one
                last.pop(0).close()


def resolve_scope(
    places: Sequence[str], known: Sequence[Root], files: Iterable[str] | None = None
) -> Scope:
    """Match places to the roots of the store; without places and files, take all roots.

    A folder inside a root is scanned as a part of it; a folder that contains a root replaces it.
    Files are checked one by one. Raises UsageError for what is neither a folder nor an archive.
    """
    roots = {root.path: root for root in known if root.kind is not RootKind.LIST}
    lists = [root for root in known if root.kind is RootKind.LIST]
    targets: dict[tuple[int, str], ScanTarget] = {}
    next_id = max((root.id for root in known), default=-1) + 1
    dropped: set[int] = set()
    for location in places:
        path, kind = _real_location(location, roots)
        if (home := roots.get(path)) is None and kind is RootKind.FOLDER:
            folders = [r for r in roots.values() if r.kind is RootKind.FOLDER]
            home = next((r for r in folders if _is_inside(path, r.path)), None)
            for inner in [r for r in folders if home is None and _is_inside(r.path, path)]:
                dropped.add(inner.id)
                del roots[inner.path]
        if home is None:
            home = roots[path] = Root(next_id, path, kind)
            next_id += 1
        scope = path.removeprefix(home.path).strip("/")
        targets[home.id, scope] = ScanTarget(home, scope)
    if not places and files is None:
        targets = {(root.id, ""): ScanTarget(root) for root in known}
    kept = {root.id for root in (*roots.values(), *lists)}
    found = list(_outermost(t for t in targets.values() if t.root.id in kept))
    if files is not None:
        listed = _by_root(files, roots.values())
        if None in listed and not lists:
            lists = [Root(next_id, "/", RootKind.LIST)]
        homes = {root.id: root for root in roots.values()}
        found += [
            ScanTarget(lists[0] if home is None else homes[home], files=frozenset(keys))
            for home, keys in listed.items()
            if home not in {target.root.id for target in found}
        ]
    return Scope(
        roots=tuple(sorted((*roots.values(), *lists), key=lambda root: root.id)),
        targets=tuple(found),
        dropped=frozenset(dropped),
    )


def _by_root(files: Iterable[str], roots: Iterable[Root]) -> dict[int | None, list[str]]:
    """Return the keys of files by the id of their folder root, None for those outside all roots."""
    folders = [(f"{r.path.rstrip('/')}/", r.id) for r in roots if r.kind is RootKind.FOLDER]
    found: dict[int | None, list[str]] = {}
    for file in files:
        parent, name = os.path.split(local_path(file))
        path = os.path.join(os.path.realpath(parent), name)
        inside, home = next((f for f in folders if path.startswith(f[0])), ("/", None))
        found.setdefault(home, []).append(path.removeprefix(inside))
    return found


def _real_location(location: str, known: Mapping[str, Root]) -> tuple[str, RootKind]:
    """Return the absolute path or URL of a location, links followed, and its kind.

    What is known may have vanished: its images are perhaps elsewhere.
    """
    location = local_path(location)
    if is_url(location):
        from embedsearch.core.remote import normal_url

        url = normal_url(location)
        return url, kind_of_file(url) or RootKind.FOLDER
    path = os.path.realpath(location)
    if path in known and not os.path.lexists(path):
        return path, known[path].kind
    if os.path.isfile(path):
        if (kind := kind_of_file(path)) is not None:
            return path, kind
        raise UsageError(f"{location} is a file: folders are indexed, and {', '.join(SUFFIXES)}")
    return real_folder(location), RootKind.FOLDER


def real_folder(folder: str) -> str:
    """Return the absolute path of a folder, links followed. Raises UsageError."""
    if not os.path.isdir(path := os.path.realpath(local_path(folder))):
        problem = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UsageError(f"{folder} {problem}")
    return path


def holds_image(scope: Scope, sources: Sources) -> bool:
    """Return whether there is any image to index; stops at the first."""
    return any(True for target in scope.targets for _ in sources.open(target))


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(targets: Iterable[ScanTarget]) -> Iterator[ScanTarget]:
    """Yield the targets that no other target contains, in the order of roots and scopes."""
    listed = sorted(targets, key=lambda t: (t.root.id, t.scope))
    for _, group in groupby(listed, lambda t: t.root.id):
        of_root = list(group)
        for target in of_root:
            others = (t for t in of_root if t is not target)
            if not any(not t.scope or target.scope.startswith(t.scope + "/") for t in others):
                yield target
