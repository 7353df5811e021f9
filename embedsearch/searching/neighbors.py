"""The nearest rows of one generation; in: unit vectors, out: Neighbors per query.

Candidates come from the ANN index if the store has one; else, and for rows not in the index, from
flat FAISS files, else from the shards. Scores are always true cosines of the stored rows,
whatever the source of the candidates. A row is identified by its ordinal: its number in the
concatenation of all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from embedsearch.core.records import Neighbors
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors
from embedsearch.searching.ann.equal_rows import EqualRows
from embedsearch.searching.ann.search import CandidateIndex, cosines, use_one_thread
from embedsearch.searching.ann.unlike import Wide
from embedsearch.searching.row_sources import (
    AnnRows,
    Found,
    Mask,
    Ordinals,
    Queries,
    ShardRows,
    Vectors,
    open_ann,
    open_files,
    together,
)
from embedsearch.store.manifest import Segment
from embedsearch.store.snapshot import Snapshot

_SPARE = 16  # candidates beyond k, so that one round is nearly always enough
_MORE = 16  # times as many in the second: a pass over the rows costs more than extra candidates
_ROUNDS = 2  # then all rows are taken that can reach the kth
_PRODUCT_ERROR = 2e-6  # of FAISS's float32 sums
_NORM_SLACK = 0.005  # how far a cosine and a product can be apart, with a margin
_MANY_CANDIDATES = 128  # are scored in float32 first, which is faster
_MIN_NORM, _MAX_NORM = 0.998, 1.002  # of a unit vector rounded to float16, with a margin
# With a filter that keeps few rows, an index finds less than a pass over all rows does.
MIN_ANN_SHARE = 0.1
_MAX_ANN_SHARE = 0.01  # of the rows that count: an index is not made for a larger k
_FEW_ROWS = 4096  # up to this many are scored directly, which is faster than a pass over all rows

T = TypeVar("T")


class RowSearch:
    """All rows of a generation, open for search."""

    def __init__(self, snapshot: Snapshot, session: Session) -> None:
        """Open the FAISS files. A missing file gives a notice and slower search.

        Raises DamagedStore for a damaged file.
        """
        self._snapshot = snapshot
        self.alive = snapshot.live_mask() if snapshot.manifest.deleted_rows else None
        self._files = list(open_files(snapshot, session))
        self._vectors = {n: rows for file in self._files for n, rows in file.shards(snapshot)}
        rest = [i for i in range(len(snapshot.shards)) if i not in self._vectors]
        for number in rest:
            snapshot.shards[number].verify()
        self._rest = ShardRows(snapshot, rest)
        self._threads: ThreadPoolExecutor | None = None
        self._equal = EqualRows(int(snapshot.starts[-1]), self.vectors)
        norms = [record.min_norm for record in snapshot.manifest.shards]
        self._min_norm = min(norms, default=1.0) if snapshot.center is None else _MIN_NORM
        self._ann = open_ann(snapshot, session)
        self.outside = None if self._ann is None else self._ann.outside()

    def use(
        self, index: CandidateIndex, segments: Iterable[Segment], setting: int, wide: Wide | None
    ) -> None:
        """Take candidates only from an index over these segments, to measure its recall."""
        self._ann = AnnRows(self._snapshot, index, tuple(segments), setting, wide)
        self.outside = None

    def best_candidates(self, queries: Queries) -> list[float]:
        """Return the product of each query's best candidate, by the codes of the index in use."""
        assert self._ann is not None, "one is in use"
        return self._ann.best(queries)

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
        if (k := min(k, count)) == 0:
            return [NO_NEIGHBORS for _ in queries]
        if counted is not None and count <= _FEW_ROWS:
            ordinals = np.flatnonzero(counted)
            vectors = self.vectors(ordinals)
            return [best(ordinals, cosines(query, vectors), k) for query in queries]
        ann = self._ann
        share = count / live
        if ann is None or share < MIN_ANN_SHARE or k > count * _MAX_ANN_SHARE:
            return self._exact(queries, k, counted)
        if (outside := self.outside) is not None and counted is not None:
            outside = outside & counted
        answers = []
        found = ann.search(queries, k, share, counted)
        for query, candidates in zip(queries, found, strict=True):
            if candidates is None:
                answers += self._exact(query[None], k, counted)
                continue
            near = self._scored(query, candidates, k, counted)
            if self._may_tie_with_others(near, k):
                answers += self._exact(query[None], k, counted)
                continue
            if outside is not None:
                later = self._exact(query[None], min(k, int(outside.sum())), outside)[0]
                near = _joined(near, later)
            if len(near.ordinals) < k:  # the index missed rows
                answers += self._exact(query[None], k, counted)
                continue
            answers.append(best(near.ordinals, near.scores, k))
        return answers

    def _scored(
        self, query: Queries, ordinals: Ordinals, k: int, counted: Mask | None
    ) -> Neighbors:
        """Return candidates for a query, float32 (D,), and the rows equal to them."""
        rows = self._equal.distinct(ordinals)
        vectors = self.vectors(rows)
        if len(rows) > max(_MANY_CANDIDATES, k):
            products = vectors.astype(np.float32) @ query
            kept = products >= np.partition(products, -k)[-k] - _NORM_SLACK
            rows, vectors = rows[kept], vectors[kept]
        return Neighbors(*self._equal.spread(rows, cosines(query, vectors), counted))

    def _may_tie_with_others(self, near: Neighbors, k: int) -> bool:
        """Return whether the candidates are so many ties that an index may have left some out.

        Which ones it names is chance, and pages would not fit together.
        """
        if len(near.scores) <= k or near.scores.min() < np.partition(near.scores, -k)[-k]:
            return False
        return self._equal.all_alone(near.ordinals)

    def exact(self, queries: Queries, k: int, counted: Mask | None = None) -> list[Neighbors]:
        """Return the true k neighbors of each query without the ANN index.

        `counted` marks at least k live rows; by default all live rows.
        """
        return self._exact(queries, k, self.alive if counted is None else counted)

    def vectors(self, ordinals: Ordinals) -> Vectors:
        """Return what search compares of rows, float16 (n, D)."""
        for file in self._files:
            file.check()
        found = np.empty((len(ordinals), self._snapshot.manifest.model.dim), np.float16)
        which = np.searchsorted(self._snapshot.starts, ordinals, side="right") - 1
        for number in np.unique(which).tolist():
            in_shard = np.flatnonzero(which == number)
            if (vectors := self._vectors.get(number)) is not None:
                found[in_shard] = vectors[ordinals[in_shard] - self._snapshot.starts[number]]
            else:
                found[in_shard] = self._snapshot.vectors_of(ordinals[in_shard])
        return found

    def counted(self, allowed: Mask | None) -> Mask | None:
        """Return which rows are allowed and live, bool (all shard rows,), None if all are."""
        if allowed is None or self.alive is None:
            return self.alive if allowed is None else allowed
        both: Mask = allowed & self.alive
        return both

    def _exact(self, queries: Queries, k: int, counted: Mask | None) -> list[Neighbors]:
        """Return the true neighbors by exact search.

        Sources rank by inner product, but fp16 rows are only approximately of unit length. So
        more candidates are fetched until no other row can reach the kth cosine.
        """
        answers = [NO_NEIGHBORS for _ in queries]
        open_queries = dict.fromkeys(range(len(queries)), -1.0) if k else {}
        for fetch in (_MORE**more * (k + _SPARE) for more in range(_ROUNDS)):
            if not open_queries:
                break
            found = self._search(queries[[*open_queries]], fetch, self._equal.one_each(counted))
            for number, index in enumerate([*open_queries]):
                parts = [of_source[number] for of_source in found]
                some = together(parts, fetch)
                scores = cosines(queries[index], some.vectors)
                near = best(*self._equal.spread(some.ordinals, scores, counted), k)
                kth, bound = float(near.scores.min()), some.bound
                reach = max(bound / self._min_norm, bound / _MAX_NORM) + _PRODUCT_ERROR
                if kth > reach or bound == -np.inf:
                    answers[index] = near
                    del open_queries[index]
                else:
                    open_queries[index] = kth
        for index, kth in open_queries.items():
            answers[index] = self._reaching(queries[index], kth, k, counted)
        return answers

    def _reaching(self, query: Queries, kth: float, k: int, counted: Mask | None) -> Neighbors:
        """Return the true neighbors of a query, float32 (D,), whose kth cosine is `kth` or more."""
        least = min(kth * self._min_norm, kth * _MAX_NORM) - _PRODUCT_ERROR
        one_each = self._equal.one_each(counted)
        parts = [part for file in self._files for part in file.reaching(query, least, one_each)]
        found = [self._rest.reaching(query, least, one_each)] if self._rest.numbers else []
        found += self._together(parts)
        ordinals = np.concatenate([ordinals for ordinals, _ in found])
        products = np.concatenate([products for _, products in found])
        near = products / self._equal.norms(ordinals) >= kth - _PRODUCT_ERROR
        self._equal.learn(ordinals[near])
        rows = self._equal.distinct(ordinals[near])
        return best(*self._equal.spread(rows, cosines(query, self.vectors(rows)), counted), k)

    def _search(self, queries: Queries, k: int, counted: Mask | None) -> list[list[Found]]:
        """Return what each source, or part of a source, found for each query."""
        parts = [part for file in self._files for part in file.parts(queries, k, counted)]
        found = [self._rest.search(queries, k, counted)] if self._rest.numbers else []
        return found + self._together(parts)

    def _together(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of searches, which run beside each other."""
        if len(parts) < 2:
            return [search() for search in parts]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(available_processors(), initializer=use_one_thread)
        return list(self._threads.map(lambda search: search(), parts))


NO_NEIGHBORS = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))


def _joined(first: Neighbors, second: Neighbors) -> Neighbors:
    """Return the rows of both, each once."""
    ordinals = np.concatenate([first.ordinals, second.ordinals])
    ordinals, places = np.unique(ordinals, return_index=True)
    return Neighbors(ordinals, np.concatenate([first.scores, second.scores])[places])


def best(ordinals: Ordinals, scores: npt.NDArray[np.float32], k: int) -> Neighbors:
    """Return the k best rows, and all rows that tie with the kth."""
    kept = scores >= np.partition(scores, -k)[-k]
    return Neighbors(ordinals[kept], scores[kept])
