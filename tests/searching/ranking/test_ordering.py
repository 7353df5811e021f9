"""Re-ranked rows against a loop over rows; their order, ties and place among the options."""

from __future__ import annotations

import numpy as np
import pytest

from embedsearch.core.records import StoredImage
from embedsearch.searching.ranking.ordering import (
    RERANKED,
    Row,
    by_score,
    diversified,
    rank_order,
    rank_scores,
    reranked,
)
from tests.support.oracle import units
from tests.support.stores import reranked_by_hand


@pytest.mark.parametrize("count", [1, 2, 4, 6, 120])
@pytest.mark.parametrize("spread", [0.3, 10.0], ids=["alike", "negative cosines, too"])
def test_rank_scores_against_a_loop(count: int, spread: float) -> None:
    rng = np.random.default_rng(count)
    rows = units(rng.normal(size=16) + spread * rng.normal(size=(count, 16)))
    query = rows[0].astype(np.float32)
    wanted = reranked_by_hand(query.astype(np.float64), rows)
    assert rank_scores(query, rows) == pytest.approx(wanted, abs=1e-6)
    if count == 120:  # far from plain cosines
        assert abs(wanted - rows @ query).max() > 0.01


def test_copies_tie_and_keep_their_order() -> None:
    rng = np.random.default_rng(1)
    rows = units(rng.normal(size=(30, 512)))
    rows[[7, 21, 28]] = rows[3]
    scores = rank_scores(rows[3].astype(np.float32), rows)
    assert len({*scores[[3, 7, 21, 28]].tolist()}) == 1
    order = rank_order(rows[3].astype(np.float32), rows).tolist()
    assert order[:4] == [3, 7, 21, 28] and sorted(order) == [*range(30)]


def test_rows_whose_scores_are_all_0_are_diversified_too() -> None:
    vectors = units(np.array([[1.0, 0], [1, 0.01], [0, 1]]))
    rows = [
        Row(0.0, n, StoredImage(n, 0, b"%d" % n, 1, 1), words_score=0.0)
        for n in range(len(vectors))
    ]
    assert [row.ordinal for row in diversified(rows, vectors, 0.5, 3)] == [0, 2, 1]


def test_only_the_first_rows_are_reranked() -> None:
    rng = np.random.default_rng(2)
    vectors = units(rng.normal(size=8) + rng.normal(size=(RERANKED + 30, 8)))
    query = units(rng.normal(size=8))
    images = [StoredImage(n, 0, b"%d" % n, 1, 1) for n in range(len(vectors))]
    rows = by_score([Row(float(vectors[image.row] @ query), image.row, image) for image in images])
    first = vectors[[row.ordinal for row in rows[:RERANKED]]]
    found = reranked(rows, query.astype(np.float32), first)
    given = [row.rank_score for row in found[:RERANKED]]
    assert given == sorted(given, key=lambda score: -(score or 0.0))
    assert {row.ordinal for row in found[:RERANKED]} == {row.ordinal for row in rows[:RERANKED]}
    assert [row.ordinal for row in found[:RERANKED]] != [row.ordinal for row in rows[:RERANKED]]
    assert found[RERANKED:] == rows[RERANKED:]
