"""The images that `evaluate` measures; in: a store, out: vectors in order, its worst queries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import part_below, whole_path
from embedsearch.core.records import Hit, StoredImage
from embedsearch.learning.metrics import Floats, Ints
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import WorstQuery
from embedsearch.searching.ranking.ordering import RERANKED, rank_scores
from embedsearch.searching.searcher import Searcher
from embedsearch.store.snapshot import Snapshot

WORST = 12  # queries listed and shown on the contact sheet
_SERVED_K = 10
_SERVED_QUERIES = 500
_TIE = 1e-5  # scores this close are equal: exact search agrees to this precision


@dataclass(frozen=True)
class EvaluatedImages:
    """The live images of a store, by root and key; keys are below a folder where one is given."""

    images: list[StoredImage]
    keys: list[str]
    paths: list[str]
    digests: list[bytes]  # sha256 of the files
    vectors: Floats  # measured, float32 (N, D), of length 1
    plain: Floats  # as the network made them, float32 (N, D)

    @classmethod
    def of(cls, snapshot: Snapshot, folder: str | None = None) -> EvaluatedImages:
        """Read them. Raises UsageError if there are none."""
        alive = np.flatnonzero(snapshot.live_mask())
        if not len(alive):
            raise UsageError("the store holds no image to evaluate")
        vectors = snapshot.vectors_of(alive).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images = snapshot.images(alive)
        roots = {root.id: root.path for root in snapshot.manifest.roots}
        order = sorted(range(len(images)), key=lambda i: (images[i].root, images[i].key))
        images = [images[i] for i in order]
        keys = [os.fsdecode(image.key) for image in images]
        paths = [
            whole_path(roots[image.root], key) for image, key in zip(images, keys, strict=True)
        ]
        if folder is not None:
            keys = [part_below(path, folder) or path for path in paths]
        table = snapshot.take(alive, ["digest"])
        digests: list[Any] = table.column("digest").to_pylist()
        digests = [digests[i] for i in order]
        vectors = vectors[order]
        center = snapshot.center
        plain = vectors if center is None else center.plain(vectors)
        return cls(images, keys, paths, digests, vectors, plain)

    def worst(
        self, queries: Ints, values: npt.NDArray[np.float64], ranking: Ranking
    ) -> list[WorstQuery]:
        """Return the queries of least average precision, float64 (Q,), and what they find."""
        lowest = np.argsort(values, kind="stable")[:WORST]
        chosen = queries[lowest]
        found = []
        for number, order, query in zip(
            lowest, ranking(chosen), ranking.query_vectors(chosen), strict=True
        ):
            first = order[:RERANKED]
            scores = self.vectors[first] @ query
            ranks = rank_scores(query, self.vectors[first]) if ranking.rerank else None
            hits = [
                Hit(
                    rank=place + 1,
                    score=float(scores[place]),
                    percentile=None,
                    row=self.images[row].row,
                    path=unicode_text(self.keys[row]),
                    full_path=self.paths[row],
                    key=self.keys[row],
                    width=self.images[row].width,
                    height=self.images[row].height,
                    rank_score=None if ranks is None else float(ranks[place]),
                )
                for place, row in enumerate(first[:_SERVED_K].tolist())
            ]
            precision = round(float(values[number]), 4)
            query_row = queries[number]
            found.append(WorstQuery(self.keys[query_row], self.paths[query_row], precision, hits))
        return found


def served_recall(searcher: Searcher, images: EvaluatedImages) -> float:
    """Return the share of the true 10 nearest others among the store's hits; ties count."""
    paths, vectors = images.paths, images.vectors
    count = min(_SERVED_QUERIES, len(paths))
    rows = np.random.default_rng(0).choice(len(paths), count, replace=False)
    found = 0
    wanted = min(_SERVED_K, len(paths) - 1)
    for row in rows:
        scores = vectors @ vectors[row]
        scores[row] = -np.inf
        least = np.sort(scores)[-wanted] - _TIE
        hits = searcher.query(images.plain[row], k=_SERVED_K + 1)
        others = [hit for hit in hits if hit.full_path != paths[row]][:_SERVED_K]
        found += sum(hit.score >= least for hit in others)
    return float(found / (count * wanted))
