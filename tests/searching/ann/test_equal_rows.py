"""Thousands of equal rows: the first by name are found, by every source, at the cost of others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch.core.config import SearchBudget
from embedsearch.core.session import Session
from embedsearch.searching import neighbors
from embedsearch.searching.ann.equal_rows import EqualRows
from embedsearch.searching.ann.search import cosines
from embedsearch.searching.ann.tuning import tune
from embedsearch.store.current import read_current
from embedsearch.store.writer import StoreWriter
from tests.support.stores import imported

ROWS, EQUAL, NEAR, DIM = 9000, 5000, 1000, 24


def names() -> list[str]:
    """Names in another order than the rows, so that row numbers do not stand in for them."""
    return [f"{row * 7919 % ROWS:04d}.png" for row in range(ROWS)]


def vectors() -> npt.NDArray[np.float32]:
    """Of 9,000 rows 5,000 are equal, and 1,000 nearly equal to another."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    places = rng.permutation(ROWS)
    rows[places[:EQUAL]] = rows[places[0]]
    rows[places[EQUAL : EQUAL + NEAR]] = rows[places[EQUAL]]
    rows[places[EQUAL : EQUAL + NEAR]] += 3e-4 * rng.standard_normal((NEAR, DIM))
    units: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def asked() -> npt.NDArray[np.float32]:
    """The equal row, a nearly equal one, one that is neither, and one far from all."""
    rows, places = vectors(), np.random.default_rng(1)
    places.standard_normal((ROWS, DIM))
    order = places.permutation(ROWS)
    return rows[order[[0, EQUAL, -1]]]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("equal")
    return imported(folder, vectors(), names())


def expected(store: Path, query: npt.NDArray[np.float32], left_out: int = -1) -> list[str]:
    """Every key by a cosine of its own, in float64, ties by key."""
    with embedsearch.open_store(store) as searcher:
        rows = searcher._generations.current._rows.vectors(np.arange(ROWS)).astype(np.float64)
    scores = (rows @ query / np.linalg.norm(rows, axis=1)).clip(-1, 1).astype(np.float32)
    ranked = sorted(zip((-scores).tolist(), names(), range(ROWS), strict=True))
    return [name for _, name, row in ranked if row % 3 != left_out]


@pytest.mark.parametrize("kind", ["flat", "shards", "threads"])
@pytest.mark.parametrize("left_out", [-1, 0, 1])
def test_ties_are_the_first_by_name_from_every_source(
    flat: Path, tmp_path: Path, kind: str, left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A condition may leave out the row that stood for its equals before."""
    store, where = flat, None if left_out < 0 else f"row % 3 <> {left_out}"
    if kind == "shards":
        store = tmp_path / "shards.es"
        shutil.copytree(flat, store)
        for record in read_current(store).faiss:
            (store / record.relative).unlink()
    if kind == "threads":
        monkeypatch.setattr("embedsearch.searching.row_sources._THREAD_BYTES", 1 << 16)
        monkeypatch.setattr("embedsearch.searching.row_sources.available_processors", lambda: 3)
    with embedsearch.open_store(store) as searcher:
        for query in asked():
            wanted = expected(flat, query, left_out)
            for start, k in ((0, 10), (0, 1), (10, 10), (4990, 30), (300, 7), (0, 10)):
                hits = searcher.query(query, k, offset=start, where=where)
                assert [hit.key for hit in hits] == wanted[start : start + k]
        everything = searcher.query(asked()[0], k=5, offset=ROWS - 5)
        assert [hit.key for hit in everything] == expected(flat, asked()[0])[-5:]


def test_many_queries_at_once_and_other_ways_to_ask(flat: Path) -> None:
    with embedsearch.open_store(flat) as searcher:
        queries = np.concatenate([asked()] * 50)
        for number, hits in enumerate(searcher.query_batch([*queries], 10)):
            assert [hit.key for hit in hits] == expected(flat, queries[number])[:10]
            if number == 5:
                break
        (kept, other) = searcher.query(asked()[0], 2, collapse=0.9999)
        assert kept.key == expected(flat, asked()[0])[0] and other.ranked_by < 0.99
        hits = searcher.query(asked()[0], 3, expand=5)
        assert [hit.key for hit in hits] == expected(flat, asked()[0])[:3]


def test_an_index_does_not_cut_ties_by_chance(flat: Path, tmp_path: Path) -> None:
    store = tmp_path / "ann.es"
    shutil.copytree(flat, store)
    with StoreWriter(store) as writer:
        assert writer.manifest is not None
        budget = SearchBudget(factory="IVF16,SQ8")
        writer.commit(tune(writer, writer.manifest, budget, Session()))
    assert read_current(store).ann is not None
    with embedsearch.open_store(store) as searcher:
        wanted = expected(flat, asked()[0])
        for start in (0, 10, 20, 0):
            hits = searcher.query(asked()[0], 10, offset=start)
            assert [hit.key for hit in hits] == wanted[start : start + 10]


def test_equal_rows_cost_one_pass_as_others_do(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in what is read, not in time: rows fetched, rows rescored, names read."""
    fetched: list[int] = []
    rescored: list[int] = []
    named: list[int] = []
    search = neighbors.RowSearch._search

    def watch(self: Any, queries: Any, k: int, counted: Any) -> Any:
        fetched.append(k)
        return search(self, queries, k, counted)

    def count(query: Any, rows: Any) -> Any:
        rescored.append(len(rows))
        return cosines(query, rows)

    def names_of(ordinals: Any) -> Any:
        named.append(len(ordinals))
        return images(ordinals)

    with embedsearch.open_store(flat) as searcher:
        for query in asked():
            searcher.query(query, 10)
        monkeypatch.setattr(neighbors.RowSearch, "_search", watch)
        monkeypatch.setattr(neighbors, "cosines", count)
        snapshot = searcher._generations.current._snapshot
        images = snapshot.images
        monkeypatch.setattr(snapshot, "images", names_of)
        searcher.query(asked()[2], 10)
        others = [*fetched], max(rescored), sum(named)
        for made in (fetched, rescored, named):
            made.clear()
        searcher.query(asked()[0], 10)
    assert (fetched, max(rescored), sum(named)) == others == ([26], 26, 10)


def test_groups_grow_and_respect_what_counts() -> None:
    rows = np.zeros((100, 4), np.float16)
    rows[:, 0] = 1
    rows[::4] = [0, 0.5, 0.5, 0]
    equal = EqualRows(100, lambda ordinals: rows[ordinals])
    assert equal.one_each(None) is None and equal.all_alone(np.arange(100))
    equal.learn(np.arange(70))
    equal.learn(np.arange(30, 100))
    mask = np.ones(100, np.bool_)
    mask[:2] = False
    one_each = equal.one_each(mask)
    assert one_each is not None and np.flatnonzero(one_each).tolist() == [2, 4]
    assert equal.distinct(np.array([9, 5, 8])).tolist() == [9, 8]
    found, scores = equal.spread(np.array([4]), np.array([0.5], np.float32), mask)
    assert found.tolist() == list(range(4, 100, 4)) and set(scores.tolist()) == {0.5}
    assert equal.norms(np.array([0, 1])) == pytest.approx([np.sqrt(0.5), 1])
