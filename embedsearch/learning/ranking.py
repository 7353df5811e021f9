"""Rankings of all rows by some of them, leave one out; in: unit vectors, out: orders.

With the options of query time, as `Searcher.query` applies them: expanded queries, re-ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedsearch.learning.metrics import Floats, Ints, rank_others
from embedsearch.searching.ordering import RERANKED, rank_scores
from embedsearch.searching.queries import drawn_towards


@dataclass(frozen=True)
class Ranking:
    """How rows of float32 (N, D), unit rows, are ranked by each other."""

    vectors: Floats
    expand: int = 0  # neighbors that a query is drawn towards
    rerank: bool = False

    def __call__(self, queries: Ints) -> Ints:
        """Return for each query, a row, all other rows, best first: (Q, N - 1)."""
        asked = self.asked(queries)
        order = rank_others(self.vectors, queries, asked)
        if self.rerank:
            for ranked, query in zip(order, asked, strict=True):
                first = ranked[:RERANKED]
                scores = rank_scores(query, self.vectors[first])
                ranked[:RERANKED] = first[np.argsort(-scores, kind="stable")]
        return order

    def asked(self, queries: Ints) -> Floats:
        """Return what is asked with, float32 (Q, D): rows, or rows drawn towards their nearest."""
        if not self.expand:
            return self.vectors[queries]
        asked = np.empty((len(queries), self.vectors.shape[1]), np.float32)
        for number, query in enumerate(queries):
            scores = self.vectors @ self.vectors[query]
            scores[query] = -np.inf
            near = np.argpartition(-scores, min(self.expand, len(scores) - 1))[: self.expand]
            near = near[near != query]
            asked[number] = drawn_towards(self.vectors[query], scores[near], self.vectors[near])
        return asked
