"""What a run scans; in: requested folders, archives and URLs and the known roots, out: a Scope."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import is_inside, is_url, local_path
from embedsearch.core.records import (
    EmbeddingBatch,
    Failure,
    ImageBatch,
    ImageLocation,
    ImageRef,
    Root,
    RootKind,
)
from embedsearch.core.unknown_fields import replaced
from embedsearch.core.walks import Ignored
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.kinds import Kind, file_starts_an_image, kind_of, reads_raw
from embedsearch.images.sources.links import takes
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

    @cached_property
    def _folders(self) -> frozenset[tuple[int, str]]:
        return frozenset((t.root.id, t.scope) for t in self.targets if t.files is None)

    @cached_property
    def _files(self) -> dict[int, frozenset[str]]:
        return {target.root.id: target.files for target in self.targets if target.files is not None}

    def folder_of(self, root: int, key: str) -> str | None:
        """Return the scanned folder of an image, below its root; None if it is in none."""
        folder = key
        while folder:
            if (root, folder) in self._folders:
                return folder
            folder = folder.rpartition("/")[0]
        is_scanned = (root, "") in self._folders or key in self._files.get(root, ())
        return "" if is_scanned else None


_MAX_HELD_BYTES = 8 << 30  # of fetched archives


class Sources:
    """The sources of a run, opened by root; use as a context manager."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is the maximum size of an image file."""
        self._max_bytes = max_bytes
        self.rules = WalkRules()
        self._temporary = TemporaryImages()
        self._open: dict[int, Source] = {}
        # By root. A download must stay for as long as decoders may read it.
        self._placed, self._answered = Counter[int](), Counter[int]()

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
            self._open[root.id] = open_source(
                root, target.scope, self._temporary, self._max_bytes, self.rules
            )
        return self._open[root.id]

    def _make_room(self) -> None:
        """Close the oldest fetched archives that no decoder reads; keep the last."""
        held = {root: source for root, source in self._open.items() if source.held_bytes}
        for root in [root for root in list(held)[:-1] if self._is_read(root)]:
            if sum(source.held_bytes for source in held.values()) <= _MAX_HELD_BYTES:
                break
            held.pop(root).close()

    def _is_read(self, root: int) -> bool:
        return self._placed[root] == self._answered[root]

    def synced(self, scope: Scope) -> tuple[Root, ...]:
        """Return the roots of a run that has scanned all its targets."""
        sources = {target.root.id: self._open[target.root.id] for target in scope.targets}
        versions = {root: self.version(s) for root, s in sources.items() if s.is_there()}
        return tuple(replaced(r, synced=versions.get(r.id, r.synced)) for r in scope.roots)

    def version(self, source: Source) -> str:
        """Return the version of an archive with what is read of it, "" of other sources."""
        version = source.version()
        return f"{version}+raw" if version and reads_raw() else version

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
        """Yield the location of each ref's bytes, or why they cannot be read, root by root.

        The caller says which of them are `answered`: then downloads can be removed.
        """
        by_id = {root.id: root for root in roots}
        for root, group in groupby(refs, lambda ref: ref.root):
            source = self._open.get(root) or self.open(ScanTarget(by_id[root]))
            for placed in source.places(group):
                self._placed[root] += 1
                yield placed
            for done in [done for done in self._placed if self._is_read(done)]:
                self._open[done].close()

    def answered(self, batch: EmbeddingBatch | ImageBatch, failures: Iterable[Failure]) -> None:
        """Count images that were decoded, and those that could not be."""
        self._answered.update(ref.root for ref in batch.refs)
        self._answered.update(failure.root for failure in failures)


def resolve_scope(
    places: Sequence[str],
    known: Sequence[Root],
    files: Iterable[str] | None = None,
    rules: WalkRules | None = None,
) -> Scope:
    """Match places to the roots of the store; without places and files, take all roots.

    A folder inside a root is scanned as a part of it, if `rules` lead there; a folder that contains
    a root replaces it. Files are checked one by one, and so is a place that is an image. Raises
    UsageError for what is neither an image nor a folder nor an archive.
    """
    rules = rules or WalkRules()
    if named := [place for place in places if _is_image(place)]:
        places = [place for place in places if place not in named]
        files = [*(files or ()), *named]
    roots = {root.path: root for root in known if root.kind is not RootKind.LIST}
    lists = [root for root in known if root.kind is RootKind.LIST]
    targets: dict[tuple[int, str], ScanTarget] = {}
    next_id = max((root.id for root in known), default=-1) + 1
    dropped: set[int] = set()
    for location in places:
        path, kind = _real_location(location, roots)
        if (home := roots.get(path)) is None and kind is RootKind.FOLDER:
            folders = [r for r in roots.values() if r.kind is RootKind.FOLDER]
            home = next((r for r in folders if _leads(r.path, path, rules)), None)
            for inner in [r for r in folders if home is None and _leads(path, r.path, rules)]:
                dropped.add(inner.id)
                del roots[inner.path]
        if home is None:
            home = roots[path] = Root(next_id, path, kind)
            next_id += 1
        scope = path.removeprefix(home.path).strip("/")
        targets[home.id, scope] = ScanTarget(home, scope)
    if not places and files is None:
        targets = {(root.id, ""): ScanTarget(root) for root in known}
    whole = [t.root for t in targets.values() if t.root.kind is RootKind.FOLDER and not t.scope]
    for root in whole:  # an import may have brought a folder inside of one that was there
        for path in [p for p in roots if p != root.path and _leads(root.path, p, rules)]:
            if root.path in roots and roots[path].kind is RootKind.FOLDER:
                dropped.add(roots.pop(path).id)
    kept = {root.id for root in (*roots.values(), *lists)}
    found = list(_outermost(t for t in targets.values() if t.root.id in kept))
    if files is not None:
        listed = _by_root(files, roots.values(), rules)
        if None in listed and not lists:
            lists = [Root(next_id, "/", RootKind.LIST)]
        homes = {root.id: root for root in roots.values()}
        for id_, keys in listed.items():
            root = lists[0] if id_ is None else homes[id_]
            covers = [target.covers for target in found if target.root.id == root.id]
            if left := frozenset(key for key in keys if not any(is_in(key) for is_in in covers)):
                found.append(ScanTarget(root, files=left))
    return Scope(
        roots=tuple(sorted((*roots.values(), *lists), key=lambda root: root.id)),
        targets=tuple(found),
        dropped=frozenset(dropped),
    )


def _by_root(
    files: Iterable[str], roots: Iterable[Root], rules: WalkRules
) -> dict[int | None, list[str]]:
    """Return the keys of files by the id of their folder root.

    None is for those outside all roots, and for those that a walk of the root would pass over: it
    would delete them again.
    """
    folders = [(f"{r.path.rstrip('/')}/", r.id) for r in roots if r.kind is RootKind.FOLDER]
    found: dict[int | None, list[str]] = {}
    for file in files:
        parent, name = os.path.split(local_path(file))
        path = os.path.join(os.path.realpath(parent), name)
        above = (f for f in folders if path.startswith(f[0]))
        walked = (f for f in above if takes(f[0], path.removeprefix(f[0]), rules))
        inside, home = next(walked, ("/", None))
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
        raise UsageError(
            f"{location} is a file, but neither an image nor one of {', '.join(SUFFIXES)}: leave "
            f"it out{_packed_otherwise(path)}"
        )
    return real_folder(location), RootKind.FOLDER


def real_folder(folder: str) -> str:
    """Return the absolute path of a folder, links followed. Raises UsageError."""
    if not os.path.isdir(path := os.path.realpath(local_path(folder))):
        problem = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UsageError(f"{folder} {problem}")
    return path


def passed_over_by(scope: Scope, sources: Sources) -> Ignored | None:
    """Return what is passed over where there is no image to index; None at the first image."""
    ignored = Ignored()
    for target in scope.targets:
        source = sources.open(target)
        if any(True for _ in source):
            return None
        ignored += source.ignored
    return ignored


def _is_image(place: str) -> bool:
    """Return whether a place is one image: whatever its name, its content says so."""
    path = local_path(place)
    if is_url(path) or not os.path.isfile(path) or kind_of_file(os.path.realpath(path)):
        return False
    try:
        with open(path, "rb") as file:
            return file_starts_an_image(file.fileno())
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}") from error


def _packed_otherwise(path: str) -> str:
    """Return what to do about an archive of a kind that is not read, "" for any other file."""
    name = os.path.basename(path)
    if kind_of(os.fsencode(name)) is not Kind.ARCHIVE:
        return ""
    return f"; archives like {name} are not read: unpack it, or pack it as .tar"


def _leads(folder: str, path: str, rules: WalkRules) -> bool:
    """Return whether a walk through a folder comes to a path."""
    return is_inside(path, folder) and not rules.leaves_out(path.removeprefix(folder).strip("/"))


def _outermost(targets: Iterable[ScanTarget]) -> Iterator[ScanTarget]:
    """Yield the targets that no other target contains, in the order of roots and scopes."""
    listed = sorted(targets, key=lambda t: (t.root.id, t.scope))
    for _, group in groupby(listed, lambda t: t.root.id):
        of_root = list(group)
        for target in of_root:
            others = (t for t in of_root if t is not target)
            if not any(not t.scope or target.scope.startswith(t.scope + "/") for t in others):
                yield target
