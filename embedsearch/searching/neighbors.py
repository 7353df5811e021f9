"""The nearest rows of one generation; in: unit vectors, out: Neighbors a query.

Candidates come from an ANN index where the store has one, else, and for rows that it does not
know, from flat FAISS files, else from the shards. Scores are true cosines of the stored rows,
whatever named the candidates. A row is named by its ordinal: the rows of all shards counted end
to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import DamagedStore
from embedsearch.core.records import Neighbors
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors, cache_folder
from embedsearch.searching.ann.search import (
    CandidateIndex,
    Candidates,
    FlatFile,
    cosines,
    search_rows,
    use_one_thread,
)
from embedsearch.store.files import damaged, verify, verify_once
from embedsearch.store.manifest import FaissRecord, Segment
from embedsearch.store.shards import vector_array
from embedsearch.store.snapshot import Snapshot

# Up to here FAISS files are hashed at every opening, above once per file (see `verify_once`).
VERIFY_ALWAYS_BYTES = 128 << 20
_SPARE = 16  # candidates beyond k, so that one round is nearly always enough
_MORE = 16  # times as many where it is not: passing over the rows costs more than keeping some
_PRODUCT_ERROR = 2e-6  # of FAISS's float32 sums
_MAX_NORM = 1.002  # of a unit vector rounded to float16, with room
# A thread goes through this much of a file in half a millisecond: less is not worth sharing.
_THREAD_BYTES = 8 << 20
# An index finds among few of its rows less well than by passing over them all.
MIN_ANN_SHARE = 0.1
_MAX_ANN_SHARE = 0.01  # of the rows that count: more are asked for than an index is made for
_RESCORED = 4  # candidates for each neighbor wanted
_FEW_ROWS = 4096  # so many are scored one by one, which is faster than passing over all others

Queries = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float16]
Ordinals = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # (all shard rows,): which count


class RowSearch:
    """All rows of a generation, open for search."""

    def __init__(self, snapshot: Snapshot, session: Session) -> None:
        """Open the FAISS files. A missing one is noticed and done without.

        Raises DamagedStore for a damaged one.
        """
        self._snapshot = snapshot
        self.alive = snapshot.live_mask() if snapshot.manifest.deleted_rows else None
        self._files = list(_open_files(snapshot, session))
        self._vectors = {n: rows for file in self._files for n, rows in file.shards(snapshot)}
        rest = [i for i in range(len(snapshot.shards)) if i not in self._vectors]
        for number in rest:
            snapshot.shards[number].verify()
        self._rest = _ShardRows(snapshot, rest)
        self._threads: ThreadPoolExecutor | None = None
        self._ann = _open_ann(snapshot, session)
        self.outside = None if self._ann is None else self._ann.outside()

    def use(self, index: CandidateIndex, segments: Iterable[Segment], setting: int) -> None:
        """Take candidates from an index over these segments alone: to measure what it finds."""
        self._ann = _AnnRows(self._snapshot, index, tuple(segments), setting)
        self.outside = None

    def close(self) -> None:
        """Release the threads; the files belong to the snapshot."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        self._files, self._vectors = [], {}

    def nearest(self, queries: Queries, k: int, allowed: Mask | None = None) -> list[Neighbors]:
        """Return the neighbors of each query, float32 (Q, D), unit rows, among allowed rows."""
        counted = self.counted(allowed)
        live = self._snapshot.manifest.live
        count = live if counted is None or allowed is None else int(counted.sum())
        k = min(k, count)
        if k == 0:
            return [NOBODY for _ in queries]
        if counted is not None and count <= _FEW_ROWS:
            ordinals = np.flatnonzero(counted)
            vectors = self.vectors(ordinals)
            return [best(ordinals, cosines(query, vectors), k) for query in queries]
        ann = self._ann
        share = count / live
        if ann is None or share < MIN_ANN_SHARE or k > count * _MAX_ANN_SHARE:
            return self._exact(queries, k, counted)
        outside = self.outside
        if outside is not None and counted is not None:
            outside = outside & counted
        answers = []
        found = ann.search(queries, k, share, counted)
        for query, ordinals in zip(queries, found, strict=True):
            if outside is not None:
                near = self._exact(query[None], min(k, int(outside.sum())), outside)[0]
                ordinals = np.concatenate([ordinals, near.ordinals])
            if len(ordinals) < k:  # what an index cannot find, it cannot hide
                answers += self._exact(query[None], k, counted)
                continue
            answers.append(best(ordinals, cosines(query, self.vectors(ordinals)), k))
        return answers

    def exact(self, queries: Queries, k: int, counted: Mask | None = None) -> list[Neighbors]:
        """Return the true k neighbors of each query without the ANN index.

        `counted` are at least k live rows; without, all that are live.
        """
        return self._exact(queries, k, self.alive if counted is None else counted)

    def vectors(self, ordinals: Ordinals) -> Vectors:
        """Return the stored vectors of rows, float16 (n, D)."""
        found = np.empty((len(ordinals), self._snapshot.manifest.model.dim), np.float16)
        which = np.searchsorted(self._snapshot.starts, ordinals, side="right") - 1
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            vectors = self._vectors.get(number)
            if vectors is not None:
                found[mine] = vectors[ordinals[mine] - self._snapshot.starts[number]]
            else:
                table = self._snapshot.take(ordinals[mine], ["vector"])
                found[mine] = vector_array(table.column("vector"))
        return found

    def counted(self, allowed: Mask | None) -> Mask | None:
        """Return which rows are allowed and live, bool (all shard rows,), None where all are."""
        if allowed is None or self.alive is None:
            return self.alive if allowed is None else allowed
        both: Mask = allowed & self.alive
        return both

    def _exact(self, queries: Queries, k: int, counted: Mask | None) -> list[Neighbors]:
        """Return the neighbors, whatever the cost.

        Sources rank by inner product with rows that are unit to fp16 rounding only, so more is
        fetched until no row that was not can reach the kth cosine.
        """
        answers = [NOBODY for _ in queries]
        open_queries = list(range(len(queries))) if k else []
        fetch = k + _SPARE
        smallest = min((record.min_norm for record in self._snapshot.manifest.shards), default=1.0)
        while open_queries:
            still_open = []
            found = self._search(queries[open_queries], fetch, counted)
            for number, place in enumerate(open_queries):
                parts = [some[number] for some in found]
                ordinals = np.concatenate([part.ordinals for part in parts])
                vectors = np.concatenate([part.vectors for part in parts])
                scores = cosines(queries[place], vectors)
                kth = np.sort(scores)[-k]
                bound = max(part.bound for part in parts)
                reach = max(bound / smallest, bound / _MAX_NORM) + _PRODUCT_ERROR
                if kth > reach or bound == -np.inf:
                    answers[place] = best(ordinals, scores, k)
                else:
                    still_open.append(place)
            open_queries = still_open
            fetch *= _MORE
        return answers

    def _search(self, queries: Queries, k: int, counted: Mask | None) -> list[list[_Found]]:
        """Return what each source, or part of one, has found for each query."""
        parts = [part for file in self._files for part in file.parts(queries, k, counted)]
        found = [self._rest.search(queries, k, counted)] if self._rest.numbers else []
        if len(parts) < 2:
            return found + [search() for search in parts]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(available_processors(), initializer=use_one_thread)
        return found + list(self._threads.map(lambda search: search(), parts))


@dataclass(frozen=True)
class _Found:
    """One query's candidates of one source: ordinals int64 (c,), vectors float16 (c, D).

    `bound` is the largest inner product that a row not among them can have, -inf if none is.
    """

    ordinals: Ordinals
    vectors: Vectors
    bound: float


NOBODY = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))


def best(ordinals: Ordinals, scores: npt.NDArray[np.float32], k: int) -> Neighbors:
    """Return the k best rows and all that tie with the kth."""
    kept = scores >= np.partition(scores, -k)[-k]
    return Neighbors(ordinals[kept], scores[kept])


def _open_files(snapshot: Snapshot, session: Session) -> Iterator[_FileRows]:
    """Yield the flat FAISS files that are there, verified."""
    dim = snapshot.manifest.model.dim
    for record in snapshot.manifest.exact:
        descriptor = _verified(snapshot, record, session)
        if descriptor is not None:
            try:
                file = FlatFile(descriptor, dim, record.rows)
            except ValueError as error:
                raise damaged(snapshot.store, record.relative, str(error)) from error
            yield _FileRows(_Places(snapshot, record.segments), file)


def _open_ann(snapshot: Snapshot, session: Session) -> _AnnRows | None:
    """Return the ANN index, verified, None where there is none."""
    record = snapshot.manifest.ann
    descriptor = None if record is None else _verified(snapshot, record, session)
    if record is None or descriptor is None:
        return None
    try:
        index = CandidateIndex.open(descriptor, snapshot.manifest.model.dim, record.rows)
    except ValueError as error:
        raise damaged(snapshot.store, record.relative, str(error)) from error
    return _AnnRows(snapshot, index, record.segments, record.setting)


def _verified(snapshot: Snapshot, record: FaissRecord, session: Session) -> int | None:
    """Return the descriptor of a FAISS file; None, with a notice, for a missing one.

    Raises DamagedStore.
    """
    descriptor = snapshot.faiss.get(record.name)
    if descriptor is None:
        session.notice(
            f"{record.relative} is missing: searching without it, slower; "
            f"embedsearch repair --store {snapshot.store} makes it again"
        )
        return None
    if isinstance(descriptor, DamagedStore):
        raise descriptor
    if sum(file.bytes for file in snapshot.manifest.faiss) <= VERIFY_ALWAYS_BYTES:
        verify(snapshot.store, record, descriptor)
    else:
        verify_once(snapshot.store, record, descriptor, cache_folder() / "verified")
    return descriptor


class _Places:
    """Which rows the positions of a FAISS file stand for: those of its segments, end to end."""

    def __init__(self, snapshot: Snapshot, segments: tuple[Segment, ...]) -> None:
        shards = enumerate(snapshot.manifest.shards)
        starts = {shard.name: int(snapshot.starts[number]) for number, shard in shards}
        sizes = [segment.rows for segment in segments]
        self._edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        # -1: the rows have gone, or are found in another file
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
        """Return which positions count, bool (positions,), None where all do."""
        if counted is None and (self._ordinals >= 0).all():
            return None
        mask = np.zeros(int(self._edges[-1]), np.bool_)
        for start, ordinal, rows in self.runs():
            mask[start : start + rows] = (
                True if counted is None else counted[ordinal : ordinal + rows]
            )
        return mask


class _FileRows:
    """The rows of one flat FAISS file."""

    def __init__(self, places: _Places, file: FlatFile) -> None:
        self._places = places
        self._file = file

    def shards(self, snapshot: Snapshot) -> Iterator[tuple[int, Vectors]]:
        """Yield (number, vectors float16 (rows, D)) of each shard whose rows these are."""
        for start, ordinal, rows in self._places.runs():
            number = int(np.searchsorted(snapshot.starts, ordinal, side="right")) - 1
            yield number, self._file.vectors[start : start + rows]

    def parts(
        self, queries: Queries, k: int, counted: Mask | None
    ) -> Iterable[Callable[[], list[_Found]]]:
        """Return searches that together go through the file, one a thread at most."""
        mask = self._places.mask(counted)
        if mask is not None and not mask.any():
            return
        rows, dim = self._file.vectors.shape
        worth = max(1, min(available_processors(), 2 * rows * dim // _THREAD_BYTES))
        edges = np.linspace(0, rows, worth + 1).astype(np.int64).tolist()
        for start, stop in pairwise(edges):
            yield partial(self._search, queries, k, mask, start, stop)

    def _search(
        self, queries: Queries, k: int, mask: Mask | None, start: int, stop: int
    ) -> list[_Found]:
        count = stop - start if mask is None else int(mask[start:stop].sum())
        return [
            _Found(
                self._places.ordinals(c.positions),
                self._file.vectors[c.positions],
                float(c.products[-1]) if len(c.positions) < count else -np.inf,
            )
            for c in self._file.search(queries, k, mask, start, stop)
        ]


class _AnnRows:
    """The rows that an ANN index knows."""

    def __init__(
        self,
        snapshot: Snapshot,
        index: CandidateIndex,
        segments: tuple[Segment, ...],
        setting: int,
    ) -> None:
        self._places = _Places(snapshot, segments)
        self._index = index
        self._setting = setting
        self._rows = int(snapshot.starts[-1])

    def outside(self) -> Mask | None:
        """Return which rows the index does not know, bool (all shard rows,), None for none."""
        outside = np.ones(self._rows, np.bool_)
        for _, ordinal, rows in self._places.runs():
            outside[ordinal : ordinal + rows] = False
        return outside if outside.any() else None

    def search(
        self, queries: Queries, k: int, share: float, counted: Mask | None
    ) -> list[Ordinals]:
        """Return candidates, more than k where there are; only a `share` of the rows counts."""
        wanted, setting = _RESCORED * k, round(self._setting / share)
        mask = self._places.mask(counted)
        found = self._index.search(queries, wanted, setting, mask)
        return [self._places.ordinals(positions) for positions in found]


class _ShardRows:
    """The rows of shards that no FAISS file covers, read from Parquet at every query."""

    def __init__(self, snapshot: Snapshot, numbers: list[int]) -> None:
        self._snapshot = snapshot
        self.numbers = numbers

    def search(self, queries: Queries, k: int, counted: Mask | None) -> list[_Found]:
        dim = self._snapshot.manifest.model.dim
        best = [_Best(dim, k) for _ in queries]
        for number in self.numbers:
            start = int(self._snapshot.starts[number])
            for vectors in self._snapshot.shards[number].vectors():
                mask = None if counted is None else counted[start : start + len(vectors)]
                live = len(vectors) if mask is None else int(mask.sum())
                for mine, new in zip(best, search_rows(vectors, queries, k, mask), strict=True):
                    mine.take(new, vectors, start, live)
                start += len(vectors)
        return [mine.found() for mine in best]


class _Best:
    """The k best candidates of one query so far: memory does not grow with the rows seen."""

    def __init__(self, dim: int, k: int) -> None:
        self._k = k
        self._ordinals = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float16)
        self._products = np.empty(0, np.float32)
        self._bound = -np.inf

    def take(self, new: Candidates, vectors: Vectors, start: int, live: int) -> None:
        """Take up candidates among `vectors`, of which `live` count, at ordinals from `start`."""
        if not len(new.positions):
            return
        if len(new.positions) < live:
            self._bound = max(self._bound, float(new.products[-1]))
        products = np.concatenate([self._products, new.products])
        order = np.argsort(-products, kind="stable")
        if len(order) > self._k:
            self._bound = max(self._bound, float(products[order[self._k]]))
        kept = order[: self._k]
        self._products = products[kept]
        self._ordinals = np.concatenate([self._ordinals, new.positions + start])[kept]
        self._vectors = np.concatenate([self._vectors, vectors[new.positions]])[kept]

    def found(self) -> _Found:
        """Return the candidates."""
        return _Found(self._ordinals, self._vectors, self._bound)
