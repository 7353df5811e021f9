"""The sources that search a generation's rows: FAISS files, ANN index, shards; in: queries,
out: candidates with a bound on what was left out.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import DamagedStore
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors, cache_folder
from embedsearch.searching.ann.search import (
    CandidateIndex,
    Candidates,
    Content,
    FlatFile,
    rows_reaching,
    search_rows,
)
from embedsearch.searching.ann.unlike import Wide
from embedsearch.store.files import damaged, verify, verify_once
from embedsearch.store.manifest import FaissRecord, Segment
from embedsearch.store.snapshot import Snapshot

# Up to here FAISS files are hashed at every opening, above once per file (see `verify_once`).
VERIFY_ALWAYS_BYTES = 128 << 20
# A thread scans this much of a file in half a millisecond: less is not worth splitting.
_THREAD_BYTES = 8 << 20
RESCORED = 4  # candidates for each neighbor wanted
_READ_BYTES = 8 << 20  # at a time: a file is copied while it is opened
# With fewer rows the nearest are farther, and more of them are searched: the query need not be.
_LEAST_WIDE_SHARE = 0.5

Queries = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float16]
Ordinals = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # (all shard rows,): True for rows that count
Reaching: TypeAlias = tuple[Ordinals, npt.NDArray[np.float32]]  # rows and their inner products


@dataclass(frozen=True)
class Found:
    """One query's candidates from one source: ordinals int64 (c,), vectors float16 (c, D), and
    their inner products float32 (c,).

    `bound` is the largest inner product that any other row can have, -inf if there is none.
    """

    ordinals: Ordinals
    vectors: Vectors
    products: npt.NDArray[np.float32]
    bound: float


def together(parts: Sequence[Found], most: int) -> Found:
    """Return the candidates of several sources as of one, at most so many."""
    products = np.concatenate([part.products for part in parts])
    order = np.argsort(-products, kind="stable")
    left_out = products[order[most : most + 1]]
    kept = order[:most]
    return Found(
        np.concatenate([part.ordinals for part in parts])[kept],
        np.concatenate([part.vectors for part in parts])[kept],
        products[kept],
        max([part.bound for part in parts] + left_out.tolist()),
    )


class Positions:
    """Maps positions in a FAISS file to rows: its segments are concatenated."""

    def __init__(self, snapshot: Snapshot, segments: tuple[Segment, ...]) -> None:
        shards = enumerate(snapshot.manifest.shards)
        starts = {shard.name: int(snapshot.starts[number]) for number, shard in shards}
        sizes = [segment.rows for segment in segments]
        self._edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        # -1: the rows are gone, or are searched in another file
        self._ordinals = np.array(
            [
                starts[segment.shard] + segment.start if segment.shard in starts else -1
                for segment in segments
            ],
            dtype=np.int64,
        )

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first position, first ordinal, rows) of the rows that are still there."""
        edges = self._edges.tolist()
        for start, stop, ordinal in zip(edges, edges[1:], self._ordinals.tolist(), strict=False):
            if ordinal >= 0:
                yield start, ordinal, stop - start

    def ordinals(self, positions: npt.NDArray[np.int64]) -> Ordinals:
        """Return the rows at positions."""
        which = np.searchsorted(self._edges, positions, side="right") - 1
        ordinals: Ordinals = positions - self._edges[which] + self._ordinals[which]
        return ordinals

    def mask(self, counted: Mask | None) -> Mask | None:
        """Return which positions count, bool (positions,), None if all do."""
        if counted is None and (self._ordinals >= 0).all():
            return None
        mask = np.zeros(int(self._edges[-1]), np.bool_)
        for start, ordinal, rows in self.runs():
            mask[start : start + rows] = counted is None or counted[ordinal : ordinal + rows]
        return mask


class FileRows:
    """The rows of one flat FAISS file."""

    def __init__(self, positions: Positions, file: FlatFile, check: Callable[[], None]) -> None:
        """`check` raises DamagedStore if the file was cut since it was opened."""
        self._positions = positions
        self._file = file
        self.check = check

    def shards(self, snapshot: Snapshot) -> Iterator[tuple[int, Vectors]]:
        """Yield (number, vectors float16 (rows, D)) of each shard in this file."""
        for start, ordinal, rows in self._positions.runs():
            number = int(np.searchsorted(snapshot.starts, ordinal, side="right")) - 1
            yield number, self._file.vectors[start : start + rows]

    def parts(
        self, queries: Queries, k: int, counted: Mask | None
    ) -> Iterable[Callable[[], list[Found]]]:
        """Return searches that together cover the file, at most one per thread."""
        mask = self._positions.mask(counted)
        for start, stop in self._divided(mask):
            yield partial(self._search, queries, k, mask, start, stop)

    def reaching(
        self, query: Queries, least: float, counted: Mask | None
    ) -> Iterable[Callable[[], Reaching]]:
        """Return searches that together find all rows whose product with a query is above least."""
        mask = self._positions.mask(counted)
        for start, stop in self._divided(mask):
            yield partial(self._search_reaching, query, least, mask, start, stop)

    def _divided(self, mask: Mask | None) -> Iterator[tuple[int, int]]:
        """Yield the parts of the file for threads to search, none if no row counts."""
        if mask is not None and not mask.any():
            return
        rows, dim = self._file.vectors.shape
        parts = max(1, min(available_processors(), 2 * rows * dim // _THREAD_BYTES))
        yield from pairwise(rows * part // parts for part in range(parts + 1))

    def _search_reaching(
        self, query: Queries, least: float, mask: Mask | None, start: int, stop: int
    ) -> Reaching:
        self.check()
        found = self._file.reaching(query, least, mask, start, stop)
        return self._positions.ordinals(found.positions), found.products

    def _search(
        self, queries: Queries, k: int, mask: Mask | None, start: int, stop: int
    ) -> list[Found]:
        count = stop - start if mask is None else np.count_nonzero(mask[start:stop])
        self.check()
        return [
            Found(
                self._positions.ordinals(c.positions),
                self._file.vectors[c.positions],
                c.products,
                float(c.products[-1]) if len(c.positions) < count else -np.inf,
            )
            for c in self._file.search(queries, k, mask, start, stop)
        ]


class AnnRows:
    """The rows in an ANN index."""

    def __init__(
        self,
        snapshot: Snapshot,
        index: CandidateIndex,
        segments: tuple[Segment, ...],
        setting: int,
        wide: Wide | None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises DamagedStore if the index's file was cut since it was opened."""
        self._check = check
        self._positions = Positions(snapshot, segments)
        self._index = index
        self._setting = setting
        self._wide = wide
        self._rows = int(snapshot.starts[-1])

    def outside(self) -> Mask | None:
        """Return which rows are not in the index, bool (all shard rows,), None if all are."""
        outside = np.ones(self._rows, np.bool_)
        for _, ordinal, rows in self._positions.runs():
            outside[ordinal : ordinal + rows] = False
        return outside if outside.any() else None

    def search(
        self, queries: Queries, k: int, share: float, counted: Mask | None
    ) -> list[Ordinals | None]:
        """Return candidates, if possible more than k; `share` of all rows count.

        None for a query that exact search is for.
        """
        self._check()
        mask, wide = self._positions.mask(counted), self._wide
        setting = round(self._setting / share)
        found: list[Candidates | None] = [*self._index.search(queries, RESCORED * k, setting, mask)]
        if wide is not None and share >= _LEAST_WIDE_SHARE:
            far = [i for i, near in enumerate(found) if near and near.best < wide.below]
            if far and wide.setting:
                wider = round(wide.setting / share)
                again = self._index.search(queries[far], wide.rescored * k, wider, mask)
                for number, near in zip(far, again, strict=True):
                    found[number] = near
            else:
                for number in far:
                    found[number] = None
        return [
            None if near is None else self._positions.ordinals(near.positions) for near in found
        ]

    def best(self, queries: Queries) -> list[float]:
        """Return the product of each query's best candidate, by the index's own codes."""
        found = self._index.search(queries, RESCORED, self._setting, self._positions.mask(None))
        return [near.best for near in found]


class ShardRows:
    """The rows of shards that no FAISS file covers, read from Parquet at every query."""

    def __init__(self, snapshot: Snapshot, numbers: list[int]) -> None:
        self._snapshot = snapshot
        self.numbers = numbers

    def search(self, queries: Queries, k: int, counted: Mask | None) -> list[Found]:
        dim = self._snapshot.manifest.model.dim
        best = [_BestRows(dim, k) for _ in queries]
        for number in self.numbers:
            start = int(self._snapshot.starts[number])
            for vectors in self._snapshot.vectors(number):
                mask = None if counted is None else counted[start : start + len(vectors)]
                live = len(vectors) if mask is None else int(mask.sum())
                for rows, new in zip(best, search_rows(vectors, queries, k, mask), strict=True):
                    rows.take(new, vectors, start, live)
                start += len(vectors)
        return [rows.found() for rows in best]

    def reaching(self, query: Queries, least: float, counted: Mask | None) -> Reaching:
        """Return all rows whose product with a query, float32 (D,), is above `least`."""
        ordinals, products = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for number in self.numbers:
            start = int(self._snapshot.starts[number])
            for vectors in self._snapshot.vectors(number):
                mask = None if counted is None else counted[start : start + len(vectors)]
                found = rows_reaching(vectors, query, least, mask)
                ordinals.append(found.positions + start)
                products.append(found.products)
                start += len(vectors)
        return np.concatenate(ordinals), np.concatenate(products)


class _BestRows:
    """The k best candidates of one query so far; memory does not grow with the rows seen."""

    def __init__(self, dim: int, k: int) -> None:
        self._k = k
        self._ordinals = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float16)
        self._products = np.empty(0, np.float32)
        self._bound = -np.inf

    def take(self, new: Candidates, vectors: Vectors, start: int, live: int) -> None:
        """Add candidates among `vectors`, whose ordinals begin at `start`; `live` of them count."""
        if not len(new.positions):
            return
        if len(new.positions) < live:
            self._bound = max(self._bound, float(new.products[-1]))
        products = np.concatenate([self._products, new.products])
        if len(order := np.argsort(-products, kind="stable")) > self._k:
            self._bound = max(self._bound, float(products[order[self._k]]))
        kept = order[: self._k]
        self._products = products[kept]
        self._ordinals = np.concatenate([self._ordinals, new.positions + start])[kept]
        self._vectors = np.concatenate([self._vectors, vectors[new.positions]])[kept]

    def found(self) -> Found:
        """Return the candidates."""
        return Found(self._ordinals, self._vectors, self._products, self._bound)


def open_files(snapshot: Snapshot, session: Session) -> Iterator[FileRows]:
    """Yield the existing flat FAISS files, verified."""
    dim = snapshot.manifest.model.dim
    for record in snapshot.manifest.exact:
        if (verified := _verified(snapshot, record, session)) is not None:
            content, check = verified
            try:
                file = FlatFile(content, dim, record.rows)
            except ValueError as error:
                raise damaged(snapshot.store, record.relative, str(error)) from error
            yield FileRows(Positions(snapshot, record.segments), file, check)


def open_ann(snapshot: Snapshot, session: Session) -> AnnRows | None:
    """Return the ANN index, verified, or None if there is none."""
    record = snapshot.manifest.ann
    verified = None if record is None else _verified(snapshot, record, session)
    if record is None or verified is None:
        return None
    content, check = verified
    try:
        index = CandidateIndex.open(content, snapshot.manifest.model.dim, record.rows)
    except ValueError as error:
        raise damaged(snapshot.store, record.relative, str(error)) from error
    wide = None
    if record.unlike_recall is not None:
        wide = Wide(
            record.wide_below,
            record.wide_setting,
            record.wide_rescored,
            record.unlike_recall,
            record.unlike_latency_s,
        )
    return AnnRows(snapshot, index, record.segments, record.setting, wide, check)


def _verified(
    snapshot: Snapshot, record: FaissRecord, session: Session
) -> tuple[Content, Callable[[], None]] | None:
    """Return the content of a FAISS file and its check; None, with a notice, for a missing one.

    Up to VERIFY_ALWAYS_BYTES the content is a copy in memory. Larger files are mapped, and the
    system ends a process that touches a mapped page which is no more: so their length is checked
    before each use. Raises DamagedStore.
    """
    if (descriptor := snapshot.caches.get(record.name)) is None:
        session.notice(
            f"{record.relative} is missing: searching without it, slower; "
            f"embedsearch repair --store {snapshot.store} rebuilds it"
        )
        return None
    if isinstance(descriptor, DamagedStore):
        raise descriptor
    if sum(file.bytes for file in snapshot.manifest.faiss) <= VERIFY_ALWAYS_BYTES:
        content = _copied(record, descriptor)
        verify(snapshot.store, record, content.data)
        return content, lambda: None
    verify_once(snapshot.store, record, descriptor, cache_folder() / "verified")

    def check() -> None:
        if os.fstat(descriptor).st_size != record.bytes:
            raise damaged(snapshot.store, record.relative, "was cut while it was in use")

    return descriptor, check


def _copied(record: FaissRecord, descriptor: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a file; of one that was cut meanwhile, fewer."""
    # Small pages at once: waiting for huge ones takes up to 0.2 s, a fault a page half as long.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    content = np.frombuffer(mmap.mmap(-1, record.bytes, flags), np.uint8)
    end = 0
    while end < len(content):
        if not (count := os.preadv(descriptor, [content[end : end + _READ_BYTES].data], end)):
            break
        end += count
    return content[:end]
