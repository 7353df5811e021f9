"""What an `index` run has to do: folders on disk merged with the rows of the store.

In: a snapshot or none, and a Scope; out: a `Plan`. Both sides come sorted by key, so they are
merged as streams; of a file that is unchanged nothing is kept but a count.
"""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.errors import StorageError, UsageError
from embedsearch.core.records import Failure, Ignored, ImageRef, Kind, Root, Stage
from embedsearch.core.session import Session
from embedsearch.images.sources.source import Source
from embedsearch.indexing.scope import Scope, Sources, Target
from embedsearch.store.shards import IDENTITY_COLUMNS
from embedsearch.store.snapshot import Snapshot, read_failures

_CHUNK = 8192
_REF = struct.Struct("<qqqI")  # root, size, time, and the bytes of the key that follow
_SPILL_BYTES = 1 << 20


class RefList:
    """Any number of refs in little memory: beyond a megabyte they wait in a temporary file."""

    def __init__(self) -> None:
        self._count = 0
        self._fresh = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0  # bytes of the file

    def __len__(self) -> int:
        return self._count

    def append(self, ref: ImageRef) -> None:
        """Add a ref at the end. Raises StorageError where there is no room for it."""
        key = os.fsencode(ref.key)
        self._fresh += _REF.pack(ref.root, ref.size, ref.mtime_ns, len(key)) + key
        self._count += 1
        if len(self._fresh) >= _SPILL_BYTES:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115  it goes with the list
                self._file.write(self._fresh)
                self._file.flush()
            except OSError as error:
                raise StorageError(f"{tempfile.gettempdir()}: {error.strerror}") from error
            self._written += len(self._fresh)
            self._fresh.clear()

    def __iter__(self) -> Iterator[ImageRef]:
        for chunk in self._chunks():
            place = 0
            while place < len(chunk):
                root, size, mtime_ns, length = _REF.unpack_from(chunk, place)
                place += _REF.size + length
                key = os.fsdecode(chunk[place - length : place])
                yield ImageRef(root, key, size, mtime_ns)

    def _chunks(self) -> Iterator[bytes]:
        """Yield what was added, in pieces of whole refs."""
        rest, place = b"", 0
        while place < self._written:
            assert self._file is not None, "something was written"
            some = os.pread(self._file.fileno(), _SPILL_BYTES, place)
            place += len(some)
            data = rest + some
            end = 0
            while end + _REF.size <= len(data):
                after = end + _REF.size + _REF.unpack_from(data, end)[3]
                if after > len(data):
                    break
                end = after
            yield data[:end]
            rest = data[end:]
        yield bytes(self._fresh)


@dataclass(frozen=True)
class Carry:
    """A row that keeps its vector under a new ref: a moved file, or one touched in vain."""

    ref: ImageRef
    ordinal: int  # where the old row stands in the generation
    row: int


@dataclass
class Plan:
    """What to do, and the counts so far; `found` = the five kinds of images together."""

    embed: RefList = field(default_factory=RefList)
    replaced: dict[tuple[int, str], int] = field(default_factory=dict)  # changed ref to its old row
    moved: list[Carry] = field(default_factory=list)
    touched: list[Carry] = field(default_factory=list)
    deleted: array[int] = field(default_factory=lambda: array("q"))  # row numbers
    failures: list[Failure] = field(default_factory=list)  # known ones that stand, and folders
    failures_elsewhere: int = 0  # of these, how many lie where the run did not look
    known_failed: int = 0
    unchanged: int = 0
    found: int = 0
    scan_failures: int = 0
    ignored: Ignored = field(default_factory=Ignored)

    @property
    def changes_store(self) -> bool:
        """Return whether rows will come, go or be rewritten."""
        return bool(len(self.embed) or self.moved or self.touched or self.deleted)


def make_plan(
    snapshot: Snapshot | None,
    scope: Scope,
    sources: Sources,
    session: Session,
    *,
    known_roots: Container[int] = (),
    rebuild: bool = False,
    retry_failures: bool = False,
    allow_empty: bool = False,
) -> Plan:
    """Scan the targets and compare them with the snapshot, which a rebuild goes without.

    `known_roots` are those of the store, by id. Raises UsageError for a root that has vanished or
    holds no image any more, unless `allow_empty`: an unplugged disk must not empty the store.
    """
    known = _KnownRows(snapshot)
    old_failures = [] if snapshot is None else read_failures(snapshot.store, snapshot.manifest)
    plan = Plan()
    missing: list[int] = []
    new, changed = RefList(), RefList()
    changed_places = array("q")
    standing = {(f.root, f.key): f for f in old_failures if f.stage is not Stage.SCAN}
    for target in scope.targets:
        places = known.places(target)
        source = sources.open(target, partial(known.names, places))
        if not source.is_there():
            if target.root.id not in known_roots:
                raise UsageError(f"{target.root.path} does not exist")
            if len(places) or rebuild:
                _refuse(target, len(places), allow_empty, "has vanished")
            missing.extend(places.tolist())
            continue
        if not (rebuild or retry_failures) and _is_synced(target.root, source, standing):
            _take_as_it_is(plan, target.root, len(places), old_failures)
            continue
        found_before, missing_before = plan.found, len(missing)
        for ref, place in _merge(source, known, places, missing, session):
            plan.found += 1
            if place is None:
                failure = standing.get((ref.root, ref.key))
                if failure and not retry_failures and _still_stands(failure, ref):
                    plan.failures.append(failure)
                    plan.known_failed += 1
                else:
                    new.append(ref)
            elif known.is_same(place, ref):
                plan.unchanged += 1
            else:
                changed.append(ref)
                changed_places.append(place)
        _note_scan(plan, source, known, missing, missing_before)
        is_whole = target.files is None and target.root.kind is not Kind.LIST
        if is_whole and plan.found == found_before and (len(missing) > missing_before or rebuild):
            _refuse(target, len(missing) - missing_before, allow_empty, "holds no image any more")
    missing.extend(known.places_of_roots(scope.dropped))
    elsewhere = [f for f in old_failures if _is_elsewhere(f, scope)]
    plan.failures += elsewhere
    plan.failures_elsewhere = len(elsewhere)
    _sort_changed(plan, known, changed, changed_places, sources, session)
    _sort_new(plan, known, new, missing, sources, session)
    return plan


def _is_synced(root: Root, source: Source, standing: Mapping[tuple[int, str], Failure]) -> bool:
    """Return whether a file that holds images is the one that was gone through to its end."""
    if not root.synced or root.synced != source.version():
        return False
    return not any(f.reason.is_passing for f in standing.values() if f.root == root.id)


def _take_as_it_is(plan: Plan, root: Root, rows: int, old_failures: list[Failure]) -> None:
    mine = [failure for failure in old_failures if failure.root == root.id]
    failed = sum(failure.stage is not Stage.SCAN for failure in mine)
    plan.failures += mine
    plan.known_failed += failed
    plan.unchanged += rows
    plan.found += rows + failed
    plan.scan_failures += len(mine) - failed


def _merge(
    scan: Source,
    known: _KnownRows,
    places: npt.NDArray[np.int64],
    missing: list[int],
    session: Session,
) -> Iterator[tuple[ImageRef, int | None]]:
    """Yield every scanned ref with its place among the known rows, or None for a new one.

    Places whose key the scan passes without meeting it go to `missing`.
    """
    rows = known.keys(places)
    key, place = next(rows, (None, -1))
    for count, ref in enumerate(scan):
        if count % 1024 == 0:
            session.check()
        mine = os.fsencode(ref.key)
        while key is not None and key < mine:
            missing.append(place)
            key, place = next(rows, (None, -1))
        if key == mine:
            yield ref, place
            key, place = next(rows, (None, -1))
        else:
            yield ref, None
    while key is not None:
        missing.append(place)
        key, place = next(rows, (None, -1))


class _KnownRows:
    """The live rows of a snapshot, sorted by root and key; a `place` is an index into them."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        parts = []
        if snapshot is not None:
            alive = snapshot.live_mask()
            for start, table in snapshot.tables(IDENTITY_COLUMNS):
                end = start + len(table)
                table = table.append_column("ordinal", pa.array(np.arange(start, end)))
                parts.append(table.filter(pa.array(alive[start:end])))
        if not parts:
            self._table: pa.Table | None = None
            return
        table = pa.concat_tables(parts)
        order = pc.sort_indices(table, sort_keys=[("root", "ascending"), ("key", "ascending")])
        self._table = table.take(order).combine_chunks()
        self._root = self._column("root")
        self._size = self._column("size")
        self._mtime_ns = self._column("mtime_ns")

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        assert self._table is not None
        return np.asarray(self._table.column(name).to_numpy(), dtype=np.int64)

    def places(self, target: Target) -> npt.NDArray[np.int64]:
        """Return the places of the rows below a target, in the order of their keys."""
        if self._table is None:
            return np.empty(0, dtype=np.int64)
        places = np.arange(*np.searchsorted(self._root, [target.root.id, target.root.id + 1]))
        if not target.scope and target.files is None:
            return places
        keys = self._table.column("key").take(pa.array(places))
        if target.files is not None:
            wanted = pa.array(sorted(map(os.fsencode, target.files)), pa.binary())
            named: npt.NDArray[np.int64] = places[pc.is_in(keys, value_set=wanted).to_numpy()]
            return named
        below = pc.starts_with(keys, os.fsencode(target.scope) + b"/")
        inside: npt.NDArray[np.int64] = places[below.to_numpy()]
        return inside

    def places_of_roots(self, roots: frozenset[int]) -> list[int]:
        """Return the places of all rows of these roots."""
        if self._table is None:
            return []
        listed: list[int] = np.flatnonzero(np.isin(self._root, list(roots))).tolist()
        return listed

    def keys(self, places: npt.NDArray[np.int64]) -> Iterator[tuple[bytes, int]]:
        """Yield (key, place) for each place."""
        for start in range(0, len(places), _CHUNK):
            some = places[start : start + _CHUNK]
            assert self._table is not None
            keys = self._table.column("key").take(pa.array(some)).to_pylist()
            yield from zip(keys, some.tolist(), strict=True)

    def names(self, places: npt.NDArray[np.int64]) -> Iterator[str]:
        """Yield the key of each place."""
        return (os.fsdecode(key) for key, _ in self.keys(places))

    def is_same(self, place: int, ref: ImageRef) -> bool:
        """Return whether size and time are those of the row: the file is not read again."""
        same_size = self._size[place] == ref.size
        return bool(same_size and self._mtime_ns[place] == ref.mtime_ns)

    def size(self, place: int) -> int:
        """Return the size of the file when it was embedded."""
        return int(self._size[place])

    def value(self, name: str, place: int) -> bytes | int:
        """Return one column's value."""
        assert self._table is not None
        value: bytes | int = self._table.column(name)[place].as_py()
        return value

    def carry(self, place: int, ref: ImageRef) -> Carry:
        """Return the order to keep this row's vector under `ref`."""
        ordinal, row = int(self.value("ordinal", place)), int(self.value("row", place))
        return Carry(ref, ordinal, row)


def _note_scan(
    plan: Plan, scan: Source, known: _KnownRows, missing: list[int], missing_before: int
) -> None:
    """Add up what a scan passed over, and spare the rows below folders that it could not read."""
    mine, theirs = plan.ignored, scan.ignored
    plan.ignored = Ignored(
        mine.hidden + theirs.hidden,
        mine.links + theirs.links,
        mine.special + theirs.special,
        mine.other_suffix + theirs.other_suffix,
    )
    plan.scan_failures += len(scan.failures)
    plan.failures += scan.failures
    shut = tuple(os.fsencode(f.key) + b"/" if f.key else b"" for f in scan.failures)
    if shut:
        missing[missing_before:] = [
            place
            for place in missing[missing_before:]
            if not bytes(known.value("key", place)).startswith(shut)
        ]


def _refuse(target: Target, rows: int, allow_empty: bool, words: str) -> None:
    if not allow_empty:
        folder = os.path.join(target.root.path, target.scope).rstrip("/")
        held = f"the store holds {rows} images of it" if rows else "--rebuild would drop its images"
        raise UsageError(
            f"{folder} {words}, and {held} (an unplugged disk?); "
            "nothing was changed; --allow-empty accepts it"
        )


def _still_stands(failure: Failure, ref: ImageRef) -> bool:
    same = (failure.size, failure.mtime_ns) == (ref.size, ref.mtime_ns)
    return same and not failure.reason.is_passing


def _is_elsewhere(failure: Failure, scope: Scope) -> bool:
    """Return whether a recorded failure lies where this run did not look."""
    if failure.root not in {root.id for root in scope.roots}:
        return False
    looked = [t for t in scope.targets if t.root.id == failure.root]
    return not any(target.covers(failure.key) for target in looked)


def _sort_changed(
    plan: Plan,
    known: _KnownRows,
    changed: RefList,
    places: array[int],
    sources: Sources,
    session: Session,
) -> None:
    """A file with another time but the same bytes keeps its vector; others are embedded anew."""
    for ref, place in zip(changed, places, strict=True):
        session.check()
        same_size = ref.size == known.size(place)
        if same_size and sources.of(ref).digest(ref) == known.value("digest", place):
            plan.touched.append(known.carry(place, ref))
            plan.unchanged += 1
        else:
            plan.embed.append(ref)
            plan.replaced[ref.root, ref.key] = int(known.value("row", place))


def _sort_new(
    plan: Plan,
    known: _KnownRows,
    new: RefList,
    missing: list[int],
    sources: Sources,
    session: Session,
) -> None:
    """A new file with the bytes of a missing one has moved; what stays missing is deleted."""
    sizes = {known.size(place) for place in missing}  # a file of another size is not hashed
    by_digest: dict[bytes | int | None, list[int]] = {}
    for place in reversed(missing):
        by_digest.setdefault(known.value("digest", place), []).append(place)
    for ref in new:
        session.check()
        twins = by_digest.get(sources.of(ref).digest(ref)) if ref.size in sizes else None
        if twins:
            plan.moved.append(known.carry(twins.pop(), ref))
        else:
            plan.embed.append(ref)
    for places in by_digest.values():
        plan.deleted.extend(int(known.value("row", place)) for place in places)
