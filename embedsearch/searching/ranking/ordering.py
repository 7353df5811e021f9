"""The order of hits; in: the rows that a query found, out: some of them, best first.

By cosine, or re-ranked; without copies of better ones; as different as wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.records import StoredImage
from embedsearch.core.scores import PICTURE, reaches

RERANKED = 100  # of the nearest rows
_NEIGHBORS = 5  # whose mean a row is re-ranked by
_DIGITS = 6  # of a rank score: copies tie

Scores: TypeAlias = npt.NDArray[np.float64]  # or unit vectors, (n, D)


@dataclass(frozen=True)
class Row:
    """A row that was found, before it becomes a hit: as `Hit`, which says what its scores are."""

    score: float | None
    ordinal: int
    image: StoredImage
    rank_score: float | None = None
    words_score: float | None = None
    matched: tuple[str, ...] = (PICTURE,)


def by_score(rows: Sequence[Row]) -> list[Row]:
    """Return rows by cosine, best first; ties by root and key."""
    return sorted(rows, key=lambda row: (-cosine(row), row.image.root, row.image.key))


def cosine(row: Row) -> float:
    """Return the score of a row that a picture found."""
    assert row.score is not None, "only words found it"
    return row.score


def reranked(rows: Sequence[Row], query: npt.NDArray[np.float32], vectors: Scores) -> list[Row]:
    """Return rows with the first of them re-ranked, whose vectors are float64 (n, D), of length 1.

    The others follow as they are, without a rank score.
    """
    scores = rank_scores(query, vectors)
    first = [replace(rows[i], rank_score=float(scores[i])) for i in _descending(scores)]
    return [*first, *rows[len(first) :]]


def rank_order(query: npt.NDArray[np.float32], vectors: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the order of re-ranked rows, int64 (n,); see `rank_scores`. Ties stay in order."""
    return _descending(rank_scores(query, vectors))


def rank_scores(query: npt.NDArray[np.float32], vectors: npt.NDArray[Any]) -> Scores:
    """Return what rows are re-ranked by, float64 (n,), of their unit vectors, (n, D).

    It is the mean of two cosines with the query: that of the row, and that of the row drawn towards
    the mean of its five nearest among the others, weighted by cosine. Hits that resemble other near
    hits move up. (After Shao et al., "Global features are all you need", ICCV 2023; its rule, which
    moves the query as well, loses where a query has few images to find: benchmarks/QUALITY.md.)
    """
    vectors = vectors.astype(np.float64)
    cosines: Scores = vectors @ query.astype(np.float64)
    if len(vectors) < 2:
        return cosines.round(_DIGITS)
    between = vectors @ vectors.T
    others = between.copy()
    np.fill_diagonal(others, -np.inf)
    count = min(_NEIGHBORS, len(vectors) - 1)
    nearest = np.argpartition(-others, count - 1, axis=1)[:, :count]
    near = np.take_along_axis(others, nearest, axis=1)
    weights = near.clip(min=0.0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    # The row drawn is v + sum w n: its product with the query and its length follow from cosines.
    product = cosines + (weights * cosines[nearest]).sum(axis=1)
    among = between[nearest[:, :, None], nearest[:, None, :]]
    squared = np.einsum("ni,nj,nij->n", weights, weights, among)
    length = np.sqrt(1.0 + 2.0 * (weights * near).sum(axis=1) + squared)
    scores: Scores = (cosines + product / length) / 2.0
    return scores.round(_DIGITS)


def _descending(scores: Scores) -> npt.NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")


def reaching(rows: Sequence[Row], min_score: float | None) -> list[Row]:
    """Return the rows of at least that cosine."""
    return [row for row in rows if reaches(cosine(row), -1.0 if min_score is None else min_score)]


def distinct(rows: Sequence[Row], vectors: Scores, limit: float, count: int) -> list[Row]:
    """Return up to `count` rows, in order, no two of which reach a cosine of `limit`.

    `vectors`, float64 (n, D), are theirs, of length 1.
    """
    kept: list[int] = []
    for index in range(len(rows)):
        if not kept or not reaches(float((vectors[kept] @ vectors[index]).max()), limit):
            kept.append(index)
            if len(kept) == count:
                break
    return [rows[index] for index in kept]


def diversified(rows: Sequence[Row], vectors: Scores, weight: float, count: int) -> list[Row]:
    """Return rows by maximal marginal relevance; `vectors`, float64 (n, D), are theirs.

    Each is the best of (1 - weight) score - weight (its highest cosine with those before):
    Carbonell and Goldstein, "The use of MMR" (1998). Rows that a text found have as their score
    what they are ordered by, as a share of the best.
    """
    if not rows:
        return []
    scores = np.array([_worth(row) for row in rows], np.float64)
    if rows[0].words_score is not None or rows[0].rank_score is not None:
        scores /= scores.max() or 1.0
    nearest = np.zeros(len(rows))
    left = np.ones(len(rows), np.bool_)
    chosen: list[Row] = []
    while left.any() and len(chosen) < count:
        worth = np.where(left, (1.0 - weight) * scores - weight * nearest, -np.inf)
        best = int(worth.argmax())
        chosen.append(rows[best])
        left[best] = False
        cosine = vectors @ vectors[best]
        nearest = cosine if len(chosen) == 1 else np.maximum(nearest, cosine)
    return chosen


def _worth(row: Row) -> float:
    """Return what a row is ordered by."""
    found = (row.rank_score, row.words_score, row.score)
    return next(score for score in found if score is not None)
