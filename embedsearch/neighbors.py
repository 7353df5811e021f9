"""The nearest rows of one generation; in: unit vectors, out: Neighbors a query.

Candidates by inner product come from the FAISS files and from the shards that none covers; the
scores are true cosines of the stored rows. A row is named by its ordinal: the rows of all shards
counted end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from embedsearch.ann.search import Candidates, FlatFile, cosines, search_rows, use_one_thread
from embedsearch.config import available_processors, cache_folder
from embedsearch.errors import DamagedStore
from embedsearch.records import Neighbors
from embedsearch.session import Session
from embedsearch.store.files import damaged, verify, verify_once
from embedsearch.store.manifest import ExactRecord
from embedsearch.store.shards import vector_array
from embedsearch.store.snapshot import Snapshot

# Up to here FAISS files are hashed at every opening, above once per file (see `verify_once`).
VERIFY_ALWAYS_BYTES = 128 << 20
_SPARE = 16  # candidates beyond k, so that one round is nearly always enough
_PRODUCT_ERROR = 2e-6  # of FAISS's float32 sums
_MAX_NORM = 1.002  # of a unit vector rounded to float16, with room
# A thread goes through this much of a file in half a millisecond: less is not worth sharing.
_THREAD_BYTES = 8 << 20
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
        self._homes = {number: file for file in self._files for number in file.shards}
        rest = [i for i in range(len(snapshot.shards)) if i not in self._homes]
        for number in rest:
            snapshot.shards[number].verify()
        self._rest = _ShardRows(snapshot, rest)
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Release the threads; the files belong to the snapshot."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        self._files, self._homes = [], {}

    def nearest(self, queries: Queries, k: int, allowed: Mask | None = None) -> list[Neighbors]:
        """Return the neighbors of each query, float32 (Q, D), unit rows, among allowed rows."""
        counted = self._counted(allowed)
        count = self._snapshot.manifest.live if counted is None else int(counted.sum())
        k = min(k, count)
        if k == 0:
            return [_NOBODY for _ in queries]
        if counted is not None and count <= _FEW_ROWS:
            ordinals = np.flatnonzero(counted)
            vectors = self.vectors(ordinals)
            return [_best(ordinals, cosines(query, vectors), k) for query in queries]
        return self._exact(queries, k, counted)

    def vectors(self, ordinals: Ordinals) -> Vectors:
        """Return the stored vectors of rows, float16 (n, D)."""
        found = np.empty((len(ordinals), self._snapshot.manifest.model.dim), np.float16)
        which = np.searchsorted(self._snapshot.starts, ordinals, side="right") - 1
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            file = self._homes.get(number)
            if file is not None:
                found[mine] = file.vectors(number, ordinals[mine])
            else:
                table = self._snapshot.take(ordinals[mine], ["vector"])
                found[mine] = vector_array(table.column("vector"))
        return found

    def _counted(self, allowed: Mask | None) -> Mask | None:
        if allowed is None or self.alive is None:
            return self.alive if allowed is None else allowed
        both: Mask = allowed & self.alive
        return both

    def _exact(self, queries: Queries, k: int, counted: Mask | None) -> list[Neighbors]:
        """Return the neighbors, whatever the cost.

        Sources rank by inner product with rows that are unit to fp16 rounding only, so more is
        fetched until no row that was not can reach the kth cosine.
        """
        answers = [_NOBODY for _ in queries]
        open_queries = list(range(len(queries)))
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
                    answers[place] = _best(ordinals, scores, k)
                else:
                    still_open.append(place)
            open_queries = still_open
            fetch *= 4
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


_NOBODY = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))


def _best(ordinals: Ordinals, scores: npt.NDArray[np.float32], k: int) -> Neighbors:
    """Return the k best rows and all that tie with the kth."""
    kept = scores >= np.partition(scores, -k)[-k]
    return Neighbors(ordinals[kept], scores[kept])


def _open_files(snapshot: Snapshot, session: Session) -> Iterator[_FileRows]:
    """Yield the FAISS files that are there, verified."""
    total = sum(record.bytes for record in snapshot.manifest.exact)
    for record in snapshot.manifest.exact:
        descriptor = snapshot.exact.get(record.name)
        if descriptor is None:
            session.notice(
                f"{record.relative} is missing: searching the shards, slower; "
                f"embedsearch repair --store {snapshot.store} makes it again"
            )
            continue
        if isinstance(descriptor, DamagedStore):
            raise descriptor
        if total <= VERIFY_ALWAYS_BYTES:
            verify(snapshot.store, record, descriptor)
        else:
            verify_once(snapshot.store, record, descriptor, cache_folder() / "verified")
        yield _FileRows(snapshot, record, descriptor)


class _FileRows:
    """The rows of one flat FAISS file."""

    def __init__(self, snapshot: Snapshot, record: ExactRecord, descriptor: int) -> None:
        try:
            self._file = FlatFile(descriptor, snapshot.manifest.model.dim, record.rows)
        except ValueError as error:
            raise damaged(snapshot.store, record.relative, str(error)) from error
        numbers = {shard.name: number for number, shard in enumerate(snapshot.manifest.shards)}
        sizes = [part.rows for part in record.segments]
        self._positions = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        # None: the shard was merged into another one since, its rows are found there
        self._numbers = [numbers.get(part.shard) for part in record.segments]
        self._ordinals = np.array(
            [-1 if number is None else snapshot.starts[number] for number in self._numbers]
        )
        self._all_count = None not in self._numbers

    @property
    def shards(self) -> list[int]:
        """Return the numbers of the shards whose rows these are."""
        return [number for number in self._numbers if number is not None]

    def vectors(self, number: int, ordinals: Ordinals) -> Vectors:
        """Return the vectors of rows of the shard `number`."""
        place = self._numbers.index(number)
        positions = ordinals - self._ordinals[place] + self._positions[place]
        vectors: Vectors = self._file.vectors[positions]
        return vectors

    def parts(
        self, queries: Queries, k: int, counted: Mask | None
    ) -> Iterable[Callable[[], list[_Found]]]:
        """Return searches that together go through the file, one a thread at most."""
        rows, dim = self._file.vectors.shape
        worth = max(1, min(available_processors(), 2 * rows * dim // _THREAD_BYTES))
        edges = np.linspace(0, rows, worth + 1).astype(np.int64).tolist()
        mask = self._mask(counted)
        for start, stop in pairwise(edges):
            yield partial(self._search, queries, k, mask, start, stop)

    def _mask(self, counted: Mask | None) -> Mask | None:
        """Return which positions count, None where all do."""
        if counted is None and self._all_count:
            return None
        mask = np.zeros(len(self._file.vectors), np.bool_)
        for place, ordinal in enumerate(self._ordinals.tolist()):
            if ordinal >= 0:
                start, stop = self._positions[place : place + 2].tolist()
                rows = counted[ordinal : ordinal + stop - start] if counted is not None else True
                mask[start:stop] = rows
        return mask

    def _search(
        self, queries: Queries, k: int, mask: Mask | None, start: int, stop: int
    ) -> list[_Found]:
        count = stop - start if mask is None else int(mask[start:stop].sum())
        return [
            _Found(
                self._to_ordinals(c.positions),
                self._file.vectors[c.positions],
                float(c.products[-1]) if len(c.positions) < count else -np.inf,
            )
            for c in self._file.search(queries, k, mask, start, stop)
        ]

    def _to_ordinals(self, positions: npt.NDArray[np.int64]) -> Ordinals:
        which = np.searchsorted(self._positions, positions, side="right") - 1
        ordinals: Ordinals = positions - self._positions[which] + self._ordinals[which]
        return ordinals


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
