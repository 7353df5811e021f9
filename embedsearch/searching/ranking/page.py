"""A page of hits; in: rows as they are ranked, out: those that the config asks for, with facts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DIVERSE_POOL, SearchConfig
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import whole_path
from embedsearch.core.records import Hit, Neighbors, StoredImage
from embedsearch.core.scores import PICTURE, WORDS, reaches
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.neighbors import RowSearch
from embedsearch.searching.queries import Vector
from embedsearch.searching.ranking import ordering
from embedsearch.searching.ranking.fusion import fused
from embedsearch.searching.ranking.ordering import Row
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from embedsearch.searching.words.search import Ranking

_COLLAPSE_MORE = 4  # times as many are fetched if too few are left after collapsing

Ranked: TypeAlias = Callable[[int], list[Row]]  # the first so many rows, best first


class Pages:
    """Makes the pages of one generation. One thread at a time may use it."""

    def __init__(self, snapshot: Snapshot, rows: RowSearch, columns: RowColumns) -> None:
        self._snapshot = snapshot
        self._rows = rows
        self._columns = columns

    def page(
        self,
        ranked: Ranked,
        pool: int,
        config: SearchConfig,
        query: Vector | None,
        *,
        of_pictures: bool = True,
    ) -> list[Hit]:
        """Return the hits that the config requests, chosen among the first `pool` rows.

        Re-ranking needs the vector of the query, float32 (D,). With `of_pictures` its cosines are
        like those between pictures of the store, and have percentiles.
        """
        wanted, fetch = config.offset + config.k, pool
        while True:
            rows = ranked(fetch)
            is_all = len(rows) < fetch
            if config.collapse is not None:
                rows = ordering.distinct(rows, self._units(rows), config.collapse, pool)
            if config.collapse is None or is_all or len(rows) >= pool:
                break
            fetch *= _COLLAPSE_MORE
        if config.rerank and query is not None:
            first = self._units(rows[: ordering.RERANKED])
            rows = ordering.reranked(rows, query, first)
        if config.diverse is not None:
            rows = ordering.diversified(rows, self._units(rows), config.diverse, wanted)
        return self._hits(rows[config.offset : wanted], config.offset + 1, of_pictures)

    def rows_of(self, found: Sequence[Neighbors]) -> list[list[Row]]:
        """Return the neighbors of each query with their images, unordered."""
        if not found:
            return []
        images = iter(self._snapshot.images(np.concatenate([near.ordinals for near in found])))
        return [
            [
                Row(score, ordinal, next(images))
                for score, ordinal in zip(near.scores.tolist(), near.ordinals.tolist(), strict=True)
            ]
            for near in found
        ]

    def fused(
        self,
        words: Ranking,
        near: Neighbors | None,
        count: int,
        config: SearchConfig,
    ) -> list[Row]:
        """Return the first rows of a ranking by words, fused with one by cosine if there is one."""
        places = words.places
        ordinals, ranks, cosines = words.ordinals, None, {}
        if near is not None:
            least = -1.0 if config.min_score is None else config.min_score
            is_left_out = np.isin(near.ordinals, words.left_out)
            kept = np.flatnonzero(reaches(near.scores, least) & ~is_left_out)
            order = np.lexsort((places[near.ordinals[kept]], -near.scores[kept]))
            pictures = near.ordinals[kept[order]]
            cosines = dict(zip(pictures.tolist(), near.scores[kept[order]].tolist(), strict=True))
            weights = [config.weights.get(name, 1.0) for name in (PICTURE, WORDS)]
            ordinals, ranks = fused([pictures, ordinals], weights, places)
        positions = {ordinal: n for n, ordinal in enumerate(words.ordinals.tolist())}
        first = ordinals[:count]
        images = self._snapshot.images(first) if len(first) else []
        rows = []
        for place, (ordinal, image) in enumerate(zip(first.tolist(), images, strict=True)):
            cosine, position = cosines.get(ordinal), positions.get(ordinal)
            score = None if position is None else float(words.scores[position])
            columns = () if position is None else words.columns(position)
            by = columns if cosine is None else (PICTURE, *columns)
            rank = None if ranks is None or config.by == PICTURE else float(ranks[place])
            rows.append(Row(cosine, ordinal, image, rank, score, by))
        return rows

    def _hits(self, rows: Sequence[Row], first: int, of_pictures: bool) -> list[Hit]:
        scores = [row.score if of_pictures else None for row in rows]
        percentiles = self._percentiles(scores)
        metadata = self._columns.metadata([row.image.row for row in rows])
        return [
            Hit(
                rank=rank,
                score=row.score,
                rank_score=row.rank_score,
                words_score=row.words_score,
                matched=row.matched,
                percentile=percentile,
                row=row.image.row,
                path=unicode_text(key := os.fsdecode(row.image.key)),
                full_path=whole_path(*place_of(self._snapshot.manifest, row.image)),
                key=key,
                width=row.image.width,
                height=row.image.height,
                metadata=user,
            )
            for rank, (row, percentile, user) in enumerate(
                zip(rows, percentiles, metadata, strict=True), start=first
            )
        ]

    def _percentiles(self, scores: Sequence[float | None]) -> list[float | None]:
        """Return the percentage of random pairs of rows that have a lower cosine, for each."""
        if not (search := self._snapshot.manifest.search).pair_cosines:
            return [None] * len(scores)
        known = [0.0 if score is None else score for score in scores]
        shares = np.interp(known, search.pair_cosines, search.pair_levels).tolist()
        return [
            None if score is None else math.floor(1e6 * share) / 1e4
            for score, share in zip(scores, shares, strict=True)
        ]

    def _units(self, rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return the measured vectors of rows, float64 (n, D), of length 1."""
        ordinals = np.array([row.ordinal for row in rows], np.int64)
        vectors = self._rows.vectors(ordinals).astype(np.float64)
        units: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units


def pool_of(config: SearchConfig) -> int:
    """Return among how many rows, best first, a page is chosen."""
    if config.diverse is not None:
        return DIVERSE_POOL
    wanted = config.offset + config.k
    return max(wanted, ordering.RERANKED) if config.rerank else wanted


def place_of(manifest: Manifest, stored: StoredImage) -> tuple[str, str]:
    """Return the path of an image's root, and its key there."""
    roots = {root.id: root.path for root in manifest.roots}
    return roots[stored.root], os.fsdecode(stored.key)
