"""Pairs of near vectors; in: float16 (n, D), unit rows, out: pairs at or above a cosine.

Exact for small collections. In large ones, each vector is compared with those in its own and the
next few cells of an IVF index, which finds near copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.session import Session
from embedsearch.searching.ann.kernels import faiss
from embedsearch.searching.ann.search import Vectors

EXACT_ROWS = 30_000
_BLOCK = 4096  # queries at a time
_CELLS_PROBED = 8
_TRAIN_ROWS = 48  # a cell
_TRAIN_ROUNDS = 8
_SEED = 1


@dataclass(frozen=True)
class Pairs:
    """`first` and `second` int64 (p,), positions; `scores` float32 (p,), their cosines."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def where(self, mask: npt.NDArray[np.bool_]) -> Pairs:
        """Return the pairs where a mask, bool (p,), is true."""
        return Pairs(self.first[mask], self.second[mask], self.scores[mask])

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """Return all parts as one."""
        if not parts:
            empty = np.empty(0, np.int64)
            return cls(empty, empty, np.empty(0, np.float32))
        return cls(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.second for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )


class NearGraph:
    """Vectors to compare queries with."""

    def __init__(self, base: Vectors, session: Session) -> None:
        """Take the vectors, and index them if they are many."""
        self._base = base
        self._session = session
        self._index = _index(base, session) if len(base) > EXACT_ROWS else None
        self._whole = base.astype(np.float32) if self._index is None else None

    def pairs(self, queries: Vectors, k: int, least: float) -> Pairs:
        """Return (query, row) for those of the k nearest rows of each query that reach `least`.

        A query that is itself a row is paired with itself too.
        """
        k = min(k, len(self._base))
        return Pairs.joined([*self._blocks(queries, k, least)] if k else [])

    def _blocks(self, queries: Vectors, k: int, least: float) -> Iterator[Pairs]:
        for start in range(0, len(queries), _BLOCK):
            self._session.at("comparing images", start, len(queries))
            rows, scores = self._nearest(queries[start : start + _BLOCK].astype(np.float32), k)
            query, rank = np.nonzero((scores >= least) & (rows >= 0))
            yield Pairs(query + start, rows[query, rank], scores[query, rank])

    def _nearest(
        self, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return rows int64 (Q, k), -1 if there is none, and cosines float32 (Q, k)."""
        if self._index is not None:
            scores, rows = self._index.search(queries, k)
            return rows, scores
        products = queries @ self._whole.T  # type: ignore[union-attr]
        rows = np.argpartition(products, -k, axis=1)[:, -k:]
        return rows, np.take_along_axis(products, rows, axis=1)


def _index(base: Vectors, session: Session) -> faiss.IndexIVFScalarQuantizer:
    rows, dim = base.shape
    cells = round(4 * math.sqrt(rows))
    flat, code = faiss.IndexFlatIP(dim), faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(flat, dim, cells, code, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.niter, index.cp.seed, index.nprobe = _TRAIN_ROUNDS, _SEED, _CELLS_PROBED
    chosen = np.random.default_rng(_SEED).permutation(rows)[: cells * _TRAIN_ROWS]
    session.at("indexing images for comparison")
    index.train(base[np.sort(chosen)].astype(np.float32))
    for start in range(0, rows, _BLOCK):
        session.at("indexing images for comparison", start, rows)
        index.add(base[start : start + _BLOCK].astype(np.float32))
    return index
