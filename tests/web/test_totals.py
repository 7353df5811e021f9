"""A search says how many images it ranks, and which cosines they have."""

from __future__ import annotations

import pytest

import embedsearch
from tests.support.answers import CLOCK, failed
from tests.support.serving import Served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


def test_a_total_is_that_of_python(server: Served, searcher: embedsearch.Searcher) -> None:
    for options in ({}, {"min_score": 0.2}, {"where": "width > 500"}, {"k": 54}):
        answer = server.ask(row=5, **options).json
        hits = searcher.query(embedsearch.Key(5), **{"k": 54, **options})  # type: ignore[arg-type]
        assert (answer["total"], answer["total_is_exact"]) == (len(hits), True)
        assert answer["scores"] is None
        assert answer["generation"] == searcher.manifest.generation
    words = server.get("/search?text=clocks").json
    assert words["total"] == len(searcher.query(text="clocks", k=54)) > 0


def test_cosines_are_counted_when_asked(server: Served, searcher: embedsearch.Searcher) -> None:
    (expected,) = searcher.answers([CLOCK], histogram=True)
    assert expected.counts is not None and expected.counts.scores is not None
    answer = server.upload(CLOCK, "?histogram=true").json
    assert answer["scores"] == expected.counts.scores.to_dict()
    assert set(answer["scores"]) == {"low", "step", "counts", "sampled", "exact"}
    assert sum(answer["scores"]["counts"]) == answer["total"] == 54
    for asked in (server.ask(row=5, histogram=True), server.get("/search?row=5&histogram=true")):
        assert sum(asked.json["scores"]["counts"]) == 54
    assert server.upload(CLOCK, "?histogram=false").json["scores"] is None
    assert server.get("/search?text=clocks&histogram=true").json["scores"] is None


@pytest.mark.parametrize("value", ["", "2", "null", "tru"])
def test_histograms_that_cannot_be(server: Served, value: str) -> None:
    answer = server.get(f"/search?row=5&histogram={value}")
    failed(answer, 400, "histogram")
    assert answer.json["field"] == "histogram"


def test_in_json_it_is_true_or_false(server: Served) -> None:
    for value in ("true", 1, None, [True]):
        failed(server.ask(row=5, histogram=value), 400, "histogram")
