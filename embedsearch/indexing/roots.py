"""Folders that moved or are gone for good; in: a store and a folder, out: what was done.

`relocate` keeps rows, vectors and the user's columns; `forget` drops them. No image is embedded.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import StoreNotFound, UsageError
from embedsearch.core.paths import (
    is_inside,
    is_url,
    local_path,
    named_forms,
    part_below,
    size_and_time,
)
from embedsearch.core.records import NO_DIGEST, ImageRef, JsonRecord, Root, RootKind
from embedsearch.core.remote import normal_url
from embedsearch.core.session import Session
from embedsearch.core.unknown_fields import replaced
from embedsearch.images.sources.source import Source
from embedsearch.indexing.known_rows import KeptRow, KnownRows
from embedsearch.indexing.scope import ScanTarget, Sources
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.store.locate import StorePath, locate_store
from embedsearch.store.snapshot import Snapshot, open_snapshot, read_failures
from embedsearch.store.writer import StoreWriter

_SAMPLE = 32  # images of a root whose bytes are compared


@dataclass(frozen=True)
class RootsReport(JsonRecord):
    """What `relocate` or `forget` did, and to how many images."""

    store: str
    roots: list[str]  # as they were called
    images: int
    generation: int


@checked
def relocate(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    store: StorePath = None,
    *,
    wait_s: float = 0.0,
    session: Session | None = None,
) -> RootsReport:
    """Tell a store that a folder, or an archive, is now elsewhere. Nothing is embedded again.

    All that the store knows at or below `old` is then at `new`. The bytes of a sample of images
    are compared first. Raises UsageError where `new` does not hold them, and the store's errors.
    """
    after = os.path.realpath(local_path(new))
    session = session or Session()
    with StoreWriter(locate_store(store), wait_s, session) as writer, _rows(writer) as snapshot:
        roots = snapshot.manifest.roots
        known = KnownRows(snapshot)
        before = _named(old, roots, known)
        found = {root: part_below(root.path, before) for root in _places(roots)}
        inner = {root: rest for root, rest in found.items() if rest is not None}
        listed = _listed_below(roots, known, before)
        if not inner and not listed:
            raise UsageError(f"the store has no folder {before}: {_known(roots)}")
        renamed = {root: _joined(after, rest) for root, rest in inner.items()}
        for path in renamed.values():
            for root in _places(roots):
                if root not in inner and root.path == path:
                    raise UsageError(f"{path} is in the store already: forget it first")
                if root not in inner and (
                    part_below(path, root.path) or part_below(root.path, path)
                ):
                    raise UsageError(
                        f"{path} and {root.path}, which is scanned, overlap: embedsearch index "
                        f"{shlex.quote(root.path)} finds by itself what moved into it"
                    )
        for root, path in renamed.items():
            _check(known, root, replaced(root, path=path))
        kept = [*_moved(known, listed, before, after)]
        _check_listed(known, roots, listed, kept)
        update = StoreUpdate(writer, snapshot.manifest.model, roots, rebuild=False)
        update.set_roots(tuple(replaced(r, path=renamed.get(r, r.path)) for r in roots))
        update.move(kept, snapshot)
        images = sum(len(known.below(ScanTarget(root))) for root in inner) + len(kept)
        return _committed(update, snapshot, [root.path for root in inner] or [before], images)


@checked
def forget(
    folder: str | os.PathLike[str],
    store: StorePath = None,
    *,
    wait_s: float = 0.0,
    session: Session | None = None,
) -> RootsReport:
    """Drop a folder, an archive or a URL from a store: its rows, columns and failures.

    Files are not touched. Raises UsageError for a part of a folder that the store scans, whose
    images would come back, and the store's errors.
    """
    session = session or Session()
    with StoreWriter(locate_store(store), wait_s, session) as writer, _rows(writer) as snapshot:
        roots = snapshot.manifest.roots
        known = KnownRows(snapshot)
        path = _named(folder, roots, known)
        gone = {root for root in _places(roots) if is_inside(root.path, path)}
        listed = _listed_below(roots, known, path)
        if not gone and not listed:
            above = [root.path for root in _places(roots) if is_inside(path, root.path)]
            if above:
                raise UsageError(
                    f"{path} is a part of {above[0]}, which the store indexes as a whole; to leave "
                    f"it out: embedsearch index --exclude "
                    f"{shlex.quote('/' + os.path.relpath(path, above[0]) + '/')}"
                )
            raise UsageError(f"the store has no folder {path}: {_known(roots)}")
        positions = [*known.of_roots(frozenset(root.id for root in gone)), *listed]
        update = StoreUpdate(writer, snapshot.manifest.model, roots, rebuild=False)
        update.set_roots(tuple(root for root in roots if root not in gone))
        update.delete(int(known.value("row", position)) for position in positions)
        return _committed(update, snapshot, [root.path for root in gone] or [path], len(positions))


def _rows(writer: StoreWriter) -> Snapshot:
    if writer.manifest is None:
        raise StoreNotFound(f"nothing was committed to {writer.store} yet")
    return open_snapshot(writer.store)


def _named(folder: str | os.PathLike[str], roots: Sequence[Root], known: KnownRows) -> str:
    """Return the absolute path by which the store knows what may be gone, or a URL."""
    path = local_path(folder)
    if is_url(path):
        return normal_url(path)
    forms = named_forms(path)
    for form in forms:
        is_root = any(is_inside(root.path, form) for root in _places(roots))
        if is_root or _listed_below(roots, known, form):
            return form
    return forms[-1]


def _places(roots: Iterable[Root]) -> Iterator[Root]:
    return (root for root in roots if root.kind is not RootKind.LIST)


def _known(roots: Sequence[Root]) -> str:
    return f"it has {', '.join(root.path for root in _places(roots)) or 'none'}"


def _joined(folder: str, rest: str) -> str:
    return os.path.join(folder, rest) if rest else folder


def _listed_below(roots: Sequence[Root], known: KnownRows, folder: str) -> list[int]:
    """Return the positions of the files that were named one by one and lie below a folder."""
    positions: list[int] = []
    for root in roots:
        if root.kind is RootKind.LIST:
            for key, position in known.keys(known.below(ScanTarget(root))):
                if is_inside("/" + os.fsdecode(key), folder):
                    positions.append(position)
    return positions


def _check(known: KnownRows, root: Root, there: Root) -> None:
    """Raise UsageError unless most of a sample of a root's images is at another place."""
    if root.is_remote or there.is_remote:
        raise UsageError(f"{root.path}: only folders and archives on the disk can be relocated")
    positions = known.below(ScanTarget(root))
    if not len(positions):
        return
    sample = positions[_sampled(len(positions))]
    with Sources(DecodeLimits().max_bytes) as sources:
        source = sources.open(ScanTarget(there))
        if not source.is_there():
            raise UsageError(f"{there.path} does not exist, or is not a {root.kind}")
        refs = (
            (position, ImageRef(root.id, os.fsdecode(key), known.size(position), -1))
            for key, position in known.keys(sample)
        )
        _check_bytes(known, source, refs, f"{there.path} does not hold what {root.path} held")


def _check_listed(
    known: KnownRows, roots: Sequence[Root], positions: list[int], kept: list[KeptRow]
) -> None:
    """Raise UsageError unless most of a sample of listed files has its bytes at its new path."""
    if not kept:
        return
    at = _sampled(len(kept)).tolist()
    root = next(root for root in roots if root.kind is RootKind.LIST)
    target = ScanTarget(root, files=frozenset(kept[number].ref.key for number in at))
    with Sources(DecodeLimits().max_bytes) as sources:
        pairs = ((positions[number], kept[number].ref) for number in at)
        _check_bytes(known, sources.open(target), pairs, "the files that were listed are others")


def _sampled(count: int) -> npt.NDArray[np.int64]:
    """Return which of some images are compared."""
    return np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64))


def _check_bytes(
    known: KnownRows, source: Source, refs: Iterable[tuple[int, ImageRef]], problem: str
) -> None:
    """Raise UsageError unless most of some known rows have their bytes at other refs."""
    looked = same = 0
    for position, ref in refs:
        digest = known.value("digest", position)
        if digest != NO_DIGEST:
            looked += 1
            same += source.digest(ref) == digest
    if looked and 2 * same < looked:
        raise UsageError(
            f"{problem}: of {looked} images that were looked for, {same} are there with the same "
            "bytes"
        )


def _moved(known: KnownRows, positions: list[int], old: str, new: str) -> Iterator[KeptRow]:
    """Yield the rows of listed files under their new paths. Raises UsageError for a missing one."""
    for position in positions:
        path = "/" + os.fsdecode(bytes(known.value("key", position)))
        target = _joined(new, part_below(path, old) or "")
        try:
            size, mtime_ns = size_and_time(os.stat(target))
        except OSError as error:
            raise UsageError(f"{target}, which was {path}: {error.strerror or error}") from error
        root = int(known.value("root", position))
        yield known.keep(position, ImageRef(root, target.removeprefix("/"), size, mtime_ns))


def _committed(
    update: StoreUpdate, snapshot: Snapshot, roots: list[str], images: int
) -> RootsReport:
    """Commit the update, without the failures of roots that are gone."""
    left = {root.id for root in update.manifest.roots}
    failures = read_failures(snapshot.store, snapshot.manifest)
    update.set_failures([failure for failure in failures if failure.root in left])
    run = dict(snapshot.manifest.run)
    update.commit(run)
    update.finish(snapshot.manifest.search.budget, run, Session())
    current = update.writer.manifest
    assert current is not None, "it was committed"
    return RootsReport(str(snapshot.store), sorted(roots), images, current.generation)
