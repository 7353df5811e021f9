"""`--serve-from` gives the same hits as the store itself, whichever database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch import Key
from embedsearch.searching.searcher import open_store
from tests.support.databases import ROWS, Notices
from tests.support.engines import (
    Engine,
)


def test_hits_are_those_of_the_store(
    engine: Engine,
    store: Path,
    vectors: npt.NDArray[np.float32],
    filled: Callable[[str], str],
) -> None:
    url, told = filled(engine.name), Notices()
    rng = np.random.default_rng(8)
    asked = list(vectors[rng.integers(0, ROWS, 40)])
    with open_store(store) as ours, open_store(store, serve_from=url, session=told.session) as far:
        wanted, found = ours.query_batch(asked), far.query_batch(asked)
        common = [
            {h.row for h in a} & {h.row for h in b} for a, b in zip(wanted, found, strict=True)
        ]
        assert np.mean([len(rows) for rows in common]) / 10 >= 0.98
        for one, other in zip(wanted, found, strict=True):
            scores = {hit.row: hit for hit in one}
            assert [hit.rank for hit in other] == list(range(1, 11))
            for hit in other:
                if hit.row in scores:
                    same = scores[hit.row]
                    assert hit.score == pytest.approx(same.score, abs=1e-5)
                    kept = replace(hit, rank=same.rank, score=same.score, percentile=None)
                    assert repr(kept) == repr(replace(same, percentile=None))  # NaN differs
        for options in (
            {"k": 5, "offset": 7},
            {"k": 4, "collapse": 0.95},
            {"k": 6, "diverse": 0.5},
            {"k": 6, "expand": 4},
            {"k": 6, "rerank": True},
            {"k": 50, "min_score": 0.8},
            {"k": 7, "where": "rating > 3 and label like 'trips%'"},
            {"k": 400, "where": "flag"},
            {"k": 30, "where": "rating = 10 and flag and share > 0.5"},
            {"k": 3, "where": "rating > 10000"},
        ):
            for query in (Key("trips/0500.jpg"), asked[0]):
                one, other = ours.query(query, **options), far.query(query, **options)
                assert len(one) == len(other)
                assert len({h.row for h in one} & {h.row for h in other}) >= 0.98 * len(one)
        # All three copies are found, and two of them in the store's order shown.
        tied = [[hit.row for hit in searcher.query(vectors[11], k=2)] for searcher in (ours, far)]
        assert tied[0] == tied[1] and set(tied[0]) < {11, 12, 13}
        # Lite's index does not reach all that a filter leaves.
        assert not told or engine.name == "lite"
        assert len(far.query(asked[0], k=ROWS + 5)) == ROWS  # an index may not reach them all
