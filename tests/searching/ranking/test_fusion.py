"""Reciprocal rank fusion, against ten lines that are the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from embedsearch.searching.ranking.fusion import POOL, RRF_K, fused

ROWS = 400
rankings = st.permutations(range(ROWS)).flatmap(
    lambda order: st.integers(0, ROWS).map(lambda count: list(order)[:count])
)


def by_hand(lists: list[list[int]], weights: list[float], places: list[int]) -> list[int]:
    scores: dict[int, float] = {}
    for ranking, weight in zip(lists, weights, strict=True):
        for rank, row in enumerate(ranking[:POOL], start=1):
            scores[row] = scores.get(row, 0.0) + weight / (RRF_K + rank)
    first = sorted(scores, key=lambda row: (-scores[row], places[row]))
    rest = [row for ranking in lists for row in ranking[POOL:] if row not in scores]
    return [*first, *dict.fromkeys(rest)]


@given(
    st.lists(rankings, min_size=2, max_size=2),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=2),
    st.permutations(range(ROWS)),
)
def test_fusion_is_what_it_is_by_hand(
    lists: list[list[int]], weights: list[float], places: list[int]
) -> None:
    arrays = [np.array(ranking, np.int64) for ranking in lists]
    order, scores = fused(arrays, weights, np.array(places, np.int64))
    assert order.tolist() == by_hand(lists, weights, list(places))
    assert (np.diff(scores) <= 0).all()


@given(st.lists(rankings, min_size=2, max_size=2), st.integers(1, ROWS))
def test_a_longer_ranking_begins_like_a_shorter_one(lists: list[list[int]], count: int) -> None:
    """Each ranking is cut where a page ends, or at the pool: the page is the same."""
    places = np.arange(ROWS)
    whole = fused([np.array(each, np.int64) for each in lists], [1.0, 1.0], places)[0]
    depth = max(count, POOL)
    cut = fused([np.array(each[:depth], np.int64) for each in lists], [1.0, 1.0], places)[0]
    assert cut[:count].tolist() == whole[:count].tolist()
