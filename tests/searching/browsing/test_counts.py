"""How many images a search ranks, and which cosines they have: against all cosines, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch import Key, Mix, Text
from embedsearch.searching.queries import Query
from embedsearch.searching.ranking import counts
from tests.support.stores import imported

CAPTIONS = ["a red boat", "a red car", "a blue boat", "a boat and a boat", "nothing", ""]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[Any]]:
    """Return a store of 600 vectors with captions, and the vectors."""
    folder = tmp_path_factory.mktemp("captioned")
    vectors = np.random.default_rng(3).standard_normal((600, 16)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "v.npy", vectors.astype(np.float32))
    rows = [f"{n:03d}.jpg,{CAPTIONS[n % 6]},{n}" for n in range(600)]
    (folder / "t.csv").write_text("path,caption,n\n" + "\n".join(rows) + "\n")
    embedsearch.import_vectors(
        folder / "v.npy", paths=folder / "t.csv", root=folder, model="made", store=folder / "s.es"
    )
    return folder / "s.es", vectors


@pytest.fixture
def searcher(captioned: tuple[Path, npt.NDArray[Any]]) -> Any:
    with embedsearch.open_store(captioned[0]) as opened:
        yield opened


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "SAMPLE", 200)


def counted(searcher: embedsearch.Searcher, query: Query, **options: Any) -> embedsearch.Answer:
    (answer,) = searcher.answers([query], counts=True, **options)
    assert answer.counts is not None
    return answer


def told(searcher: embedsearch.Searcher, query: Query, **options: Any) -> tuple[int, bool]:
    found = counted(searcher, query, **options).counts
    assert found is not None
    return found.total, found.is_exact


def test_without_being_asked_there_are_none(searcher: embedsearch.Searcher) -> None:
    (answer,) = searcher.answers([Key(3)])
    assert answer.counts is None


QUERIES: dict[str, Query] = {
    "a picture": Key(3),
    "a mix": Mix([Key(3), Key(7)], [Key(9)]),
    "words": Text("boat"),
    "words, none of which is there": Text("xyzzy"),
    "words without others": Text("boat -red"),
    "both": Mix([Key(3)], text=Text("boat")),
    "both without others": Mix([Key(3)], text=Text("boat -red")),
}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("where", [None, "n < 100", "n < 0"])
@pytest.mark.parametrize("by", ["both", "picture"])
@pytest.mark.parametrize("min_score", [None, 0.3, 1.0, -1.0])
def test_a_total_is_the_number_of_all_hits(
    searcher: embedsearch.Searcher, name: str, where: str | None, by: str, min_score: float | None
) -> None:
    query = QUERIES[name]
    if by == "picture" and isinstance(query, Text):
        pytest.skip("a picture is needed")
    options: dict[str, Any] = {"where": where, "by": by, "min_score": min_score}
    everything = searcher.query(query, k=700, **options)
    for k, offset in [(3, 0), (700, 0), (5, 40), (10, 650)]:
        found = told(searcher, query, k=k, offset=offset, **options)
        assert found == (len(everything), True)


@pytest.mark.parametrize("options", [{"expand": 3}, {"rerank": True}, {"collapse": 0.9}])
def test_a_total_with_other_options(
    searcher: embedsearch.Searcher, options: dict[str, Any]
) -> None:
    """Collapsed copies are ranked, too: the total counts them."""
    everything = searcher.query(Key(3), k=700, min_score=0.4, expand=options.get("expand", 0))
    assert told(searcher, Key(3), k=5, min_score=0.4, **options) == (len(everything), True)


@pytest.mark.parametrize("where", [None, "n >= 300"])
def test_cosines_are_counted(
    searcher: embedsearch.Searcher, captioned: tuple[Path, npt.NDArray[Any]], where: str | None
) -> None:
    (answer,) = searcher.answers([Key(3)], histogram=True, where=where)
    assert answer.counts is not None
    scores = answer.counts.scores
    assert scores is not None and scores.exact
    vectors = captioned[1][300 if where else 0 :]
    cosines = vectors @ captioned[1][3]
    assert (scores.low, scores.step, scores.sampled) == (-1.0, 0.025, len(vectors))
    assert len(scores.counts) == 80 and sum(scores.counts) == len(vectors)
    below = np.cumsum(scores.counts)[:-1].tolist()  # at each edge; a stored vector is rounded
    edges = np.linspace(-1, 1, 81)[1:-1]
    least, most = (np.searchsorted(np.sort(cosines), edges + by).tolist() for by in (-1e-3, 1e-3))
    assert all(a <= b <= c for a, b, c in zip(least, below, most, strict=True))
    assert sum(c - a for a, c in zip(least, most, strict=True)) < 100


def test_cosines_are_those_of_the_expanded_query(searcher: embedsearch.Searcher) -> None:
    plain, expanded = (
        counted(searcher, Key(3), histogram=True, expand=expand).counts for expand in (0, 20)
    )
    assert plain is not None and expanded is not None and plain.scores != expanded.scores
    assert expanded.scores is not None and expanded.scores.counts[-1] == 0  # not the picture itself


def test_words_alone_have_no_cosines(searcher: embedsearch.Searcher) -> None:
    (answer,) = searcher.answers([Text("boat")], histogram=True)
    assert answer.counts == embedsearch.SearchCounts(300, is_exact=True, scores=None)


@pytest.mark.usefixtures("sampled")
def test_of_many_images_some_are_drawn(searcher: embedsearch.Searcher) -> None:
    first, again = (counted(searcher, Key(3), histogram=True).counts for _ in range(2))
    assert first == again and first is not None and first.scores is not None
    assert (first.total, first.is_exact) == (600, True)  # without a bound it is known
    assert (first.scores.sampled, first.scores.exact, sum(first.scores.counts)) == (200, False, 200)
    other = counted(searcher, Key(3), histogram=True, where="n < 550").counts
    assert other is not None and other.scores is not None
    assert (other.total, other.scores.sampled, other.scores.exact) == (550, 200, False)
    few = counted(searcher, Key(3), histogram=True, where="n < 50").counts
    assert few is not None and few.scores is not None
    assert (few.total, few.scores.sampled, few.scores.exact) == (50, 50, True)


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("where", [None, "n < 550"])
@pytest.mark.parametrize("min_score", [0.0, 0.2, 0.4, 0.6])
def test_a_total_is_estimated(
    searcher: embedsearch.Searcher, where: str | None, min_score: float
) -> None:
    everything = len(searcher.query(Key(3), k=700, where=where, min_score=min_score))
    total, is_exact = told(searcher, Key(3), k=2, where=where, min_score=min_score)
    assert not is_exact and abs(total - everything) < 80
    assert told(searcher, Key(3), k=700, where=where, min_score=min_score) == (everything, True)
    # The last page tells; one beyond it does not.
    last = {"k": 10, "offset": everything - 3, "where": where, "min_score": min_score}
    assert told(searcher, Key(3), **last) == (everything, True)


@pytest.mark.usefixtures("sampled")
def test_an_estimate_is_no_less_than_what_is_shown(searcher: embedsearch.Searcher) -> None:
    for row in range(10):  # a picture counts itself, whether or not it was drawn
        total, is_exact = told(searcher, Key(row), k=1, min_score=0.9999)
        assert (total in {1, 3}, is_exact) == (True, False)
    total, is_exact = told(searcher, Mix([Key(3)], text=Text("boat")), k=1, min_score=0.9999)
    assert (total, is_exact) == (300, False)


def test_deleted_images_are_not_counted(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    from tests.support.library import paint

    for seed in range(6):
        paint(tmp_path / "photos" / f"{seed}.png", seed)
    options: dict[str, Any] = {"store": tmp_path / "s.es", "extractor_factory": extractor}
    embedsearch.index(tmp_path / "photos", model="packaged", **options)
    (tmp_path / "photos" / "3.png").unlink()
    embedsearch.index(tmp_path / "photos", **options)
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        answer = counted(searcher, Key(0), k=1, histogram=True, min_score=-1.0)
        assert answer.counts is not None and answer.counts.scores is not None
        assert (answer.counts.total, answer.counts.scores.sampled) == (5, 5)


def test_a_store_of_one(tmp_path: Path) -> None:
    store = imported(tmp_path, np.eye(1, 8, dtype=np.float32), ["a"])
    with embedsearch.open_store(store) as searcher:
        found = counted(searcher, Key(0), histogram=True).counts
        assert found is not None and found.scores is not None
        assert found.scores.counts == (*[0] * 79, 1)
