"""Rankings of all images by each other, leave one out; in: unit vectors, out: orders.

With the options of `Searcher.query` as they are for an image that the store does not hold: what is
left out is no neighbor either, of an expanded query or of a re-ranked hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedsearch.learning.metrics import Floats, Ints, rank_others
from embedsearch.searching.query_vectors import drawn_towards
from embedsearch.searching.ranking.ordering import RERANKED, rank_order


@dataclass(frozen=True)
class Ranking:
    """How the rows of float32 (N, D), of length 1, are ranked by each other."""

    vectors: Floats
    expand: int = 0  # neighbors that a query is drawn towards
    rerank: bool = False

    def __call__(self, queries: Ints) -> Ints:
        """Return for each query, a row, all other rows, best first: (Q, N - 1)."""
        vectors = self.query_vectors(queries)
        order = rank_others(self.vectors, queries, vectors)
        if self.rerank:
            for ranked, query in zip(order, vectors, strict=True):
                first = ranked[:RERANKED]
                ranked[:RERANKED] = first[rank_order(query, self.vectors[first])]
        return order

    def query_vectors(self, queries: Ints) -> Floats:
        """Return the queries, float32 (Q, D): rows, or rows drawn towards their nearest."""
        if not self.expand:
            return self.vectors[queries]
        drawn = np.empty((len(queries), self.vectors.shape[1]), np.float32)
        for number, query in enumerate(queries):
            scores = self.vectors @ self.vectors[query]
            scores[query] = -np.inf
            near = np.argpartition(-scores, min(self.expand, len(scores) - 1))[: self.expand]
            near = near[near != query]
            drawn[number] = drawn_towards(self.vectors[query], scores[near], self.vectors[near])
        return drawn
