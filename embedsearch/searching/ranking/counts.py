"""How many images a search ranks; in: a query and its hits, out: a total and its cosines' spread.

Cosines with all rows are not computed for that: a sample of rows tells, unless there are few.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import SearchConfig
from embedsearch.core.records import Hit, JsonRecord
from embedsearch.core.scores import PICTURE, reaches
from embedsearch.searching.ann.search import cosines
from embedsearch.searching.neighbors import RowSearch
from embedsearch.searching.queries import Vector
from embedsearch.searching.ranking.wanted import Wanted
from embedsearch.searching.row_sources import Mask, Ordinals, Vectors

SAMPLE = 4096  # rows, of any store; 4 MB of vectors of 512
_SEED = 0
_LOWEST, _STEPS = -1.0, 80
_STEP = 0.025  # of a cosine


@dataclass(frozen=True)
class ScoreCounts(JsonRecord):
    """How many images have which cosine with a query: a number for each step from `low` on.

    They are counted among `sampled` images drawn at random; `exact`: these are all.
    """

    low: float
    step: float
    counts: tuple[int, ...]
    sampled: int
    exact: bool


@dataclass(frozen=True)
class SearchCounts(JsonRecord):
    """How many images a search ranks, of which hits are the first.

    They are those that meet the condition; with `min_score`, those of them that reach it; for words
    alone, those with a word. With `min_score` in a large store `total` is estimated, unless it
    `is_exact`. `scores` are None for words alone, and where they are not asked for.
    """

    total: int
    is_exact: bool
    scores: ScoreCounts | None = None


@dataclass(frozen=True)
class _Sample:
    ordinals: Ordinals
    vectors: Vectors
    is_all: bool


class Counter:
    """Counts what searches of one generation rank. Any number of threads may ask."""

    def __init__(self, rows: RowSearch, live: int, reading: threading.RLock) -> None:
        """Rows are read with the lock `reading` only."""
        self._rows = rows
        self._live = live
        self._reading = reading
        self._kept: _Sample | None = None  # of all live rows

    def counts(
        self,
        query: Wanted,
        vector: Vector | None,
        hits: Sequence[Hit],
        config: SearchConfig,
        mask: Mask | None,
        *,
        histogram: bool,
    ) -> SearchCounts:
        """Return what a query ranked among the rows of a mask, of whose page the hits are.

        `vector` is what rows were compared with, float32 (D,), None for words alone.
        """
        counted = self._rows.counted(mask)
        ranking = None if query.words is None else query.words(1)
        if vector is None:
            assert ranking is not None, "a query has a vector or words"
            return SearchCounts(ranking.found, is_exact=True)
        left_out = np.empty(0, np.int64) if ranking is None else ranking.left_out
        total = self._live if counted is None else int(counted.sum())
        total -= len(left_out) if counted is None else int(counted[left_out].sum())
        sample, near = None, np.empty(0, np.float32)
        if histogram or not (config.min_score is None or _is_last(hits, config)):
            sample = self._sample(counted, is_filtered=mask is not None)
            near = cosines(vector, sample.vectors)
        scores = _spread(near, sample.is_all) if histogram and sample is not None else None
        if config.min_score is None:
            return SearchCounts(total, is_exact=True, scores=scores)
        if _is_last(hits, config):
            return SearchCounts(config.offset + len(hits), is_exact=True, scores=scores)
        assert sample is not None, "it was drawn"
        is_ranked = ~np.isin(sample.ordinals, left_out)
        reached = sample.ordinals[is_ranked & reaches(near, config.min_score)]
        if sample.is_all:
            if query.words is not None and ranking is not None and config.by != PICTURE:
                reached = np.union1d(reached, query.words(max(1, ranking.found)).ordinals)
            return SearchCounts(len(reached), is_exact=True, scores=scores)
        share = len(reached) / max(1, int(is_ranked.sum()))
        least = max(config.offset + len(hits), 0 if ranking is None else ranking.found)
        return SearchCounts(max(least, round(share * total)), is_exact=False, scores=scores)

    def _sample(self, counted: Mask | None, *, is_filtered: bool) -> _Sample:
        """Return rows that count, all of them or some at random; of all live ones always the same.

        Others are drawn when they are asked for: few of the rows that are kept may meet a filter.
        """
        with self._reading:
            if is_filtered or self._kept is None:
                known = np.arange(self._live) if counted is None else np.flatnonzero(counted)
                if is_all := len(known) <= SAMPLE:
                    chosen = known
                else:
                    rng = np.random.default_rng(_SEED)
                    chosen = np.sort(rng.choice(known, SAMPLE, replace=False, shuffle=False))
                sample = _Sample(chosen, self._rows.vectors(chosen), is_all)
                if is_filtered:
                    return sample
                self._kept = sample
            return self._kept


def _is_last(hits: Sequence[Hit], config: SearchConfig) -> bool:
    """Return whether a page ends the ranking, so that it tells the number of all."""
    is_cut = config.collapse is not None or config.diverse is not None
    return not is_cut and len(hits) < config.k and bool(hits or not config.offset)


def _spread(near: npt.NDArray[np.float32], is_all: bool) -> ScoreCounts:
    counts, _ = np.histogram(near, _STEPS, (_LOWEST, _LOWEST + _STEPS * _STEP))
    return ScoreCounts(_LOWEST, _STEP, tuple(counts.tolist()), len(near), is_all)
