"""Groups in which every two are alike, of pairs that are found without comparing all."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from embedsearch.core.session import Session
from embedsearch.curation.linkage import Ball, Members, complete_groups
from embedsearch.curation.similarity import Similarity
from embedsearch.curation.turns import AS_IT_IS
from embedsearch.searching.ann.graph import EXACT_ROWS, NearGraph


def units(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float16]:
    made: npt.NDArray[np.float16] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made.astype(np.float16)


class Matrix:
    """Says which positions are alike, and not where they lie."""

    reach = 1.0

    def __init__(self, alike: npt.NDArray[np.bool_]) -> None:
        self._alike = alike

    def ball(self, members: Members) -> Ball:
        return Ball(np.ones(1, np.float32), math.inf)

    def farthest(self, members: Members, centre: npt.NDArray[np.float32]) -> float:
        return math.inf

    def all_alike(self, some: Members, others: Members) -> bool:
        return bool(self._alike[np.ix_(some, others)].all())


def no_more(_: Any) -> list[tuple[int, int]]:
    """Return no more pairs: all were given."""
    return []


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.floats(0.3, 0.95))
def test_every_two_of_a_group_are_alike(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    likes = rng.random((count, count))
    likes = np.minimum(likes, likes.T)
    alike = likes < share
    pairs = sorted(
        ((i, j) for i in range(count) for j in range(i) if alike[i, j]), key=lambda p: likes[p]
    )
    groups = complete_groups(pairs, Matrix(alike), no_more)
    members = [place for group in groups for place in group]
    assert len(members) == len(set(members)) and all(len(group) > 1 for group in groups)
    for group in groups:
        assert all(alike[i, j] for i, j in itertools.combinations(group, 2))
    whole = groups + [[place] for place in range(count) if place not in members]
    for one, other in itertools.combinations(whole, 2):  # and no two could be joined
        assert not alike[np.ix_(one, other)].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.floats(0.05, 0.6))
def test_balls_say_no_more_than_comparing_does(seed: int, count: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = units(np.array([1, 0, 0]) + spread * rng.standard_normal((count, 3)))
    likeness = Similarity(vectors, 0.97, [AS_IT_IS], Session())
    pairs, _ = likeness.pairs()
    listed = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    wide = vectors.astype(np.float32)
    for group in complete_groups(listed, likeness, likeness.pairs_among):
        assert (wide[group] @ wide[group].T).min() >= 0.97


def on_a_circle(
    degrees: npt.NDArray[Any], reach: float
) -> tuple[Similarity, list[tuple[int, int]]]:
    """Return vectors at some degrees of a circle, alike up to `reach` of them, and their pairs."""
    angles = np.deg2rad(degrees)
    likeness = Similarity(
        units(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)),
        float(np.cos(np.deg2rad(reach))),
        [AS_IT_IS],
        Session(),
    )
    pairs, _ = likeness.pairs()
    return likeness, list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


@pytest.mark.parametrize("copies", [5, 17, 20, 60, 400])
def test_a_group_is_whole_whatever_its_size(copies: int) -> None:
    """Three versions, each of many equal copies: the nearest of a copy are of its own version."""
    likeness, listed = on_a_circle(np.repeat([0.0, 1.0, 2.0], copies), 3)
    (group,) = complete_groups(listed, likeness, likeness.pairs_among)
    assert group == list(range(3 * copies))


def test_a_chain_makes_no_group_of_its_ends() -> None:
    """The mutant: single linkage, which would make one group of all."""
    likeness, listed = on_a_circle(np.arange(0, 60, 6), 7)
    assert len(listed) == 9
    assert max(map(len, complete_groups(listed, likeness, likeness.pairs_among))) == 2
    assert (
        max(map(len, complete_groups(listed, Matrix(np.ones((10, 10), np.bool_)), no_more))) == 10
    )


def test_the_graph_of_many_is_that_of_an_exact_search() -> None:
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((400, 64), np.float32)
    rows = EXACT_ROWS + 6_000
    vectors = centres[rng.integers(400, size=rows)] + rng.standard_normal((rows, 64), np.float32)
    vectors[-3000:] = vectors[:3000] + 0.1 * rng.standard_normal((3000, 64), np.float32)
    base = units(vectors)
    pairs = NearGraph(base, Session()).pairs(base, 8, 0.97)
    got = {
        (a, b) for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True) if a < b
    }
    wide = base.astype(np.float32)
    exact = set()
    for start in range(0, rows, 2000):
        a, b = np.nonzero(wide[start : start + 2000] @ wide.T >= 0.97)
        exact |= {(i, j) for i, j in zip((a + start).tolist(), b.tolist(), strict=True) if i < j}
    assert len(exact) >= 2_900
    assert len(got & exact) >= 0.995 * len(exact) and len(got - exact) <= 3  # of rounding
    products = np.einsum("pd,pd->p", wide[pairs.first], wide[pairs.second])
    assert np.allclose(products, pairs.scores, atol=2e-3)
