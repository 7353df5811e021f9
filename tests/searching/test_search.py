"""Search against a brute-force oracle that reads the same stored rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.session import Session
from embedsearch.searching import neighbors
from embedsearch.searching.ann import search
from embedsearch.searching.ann.search import cosines, search_rows
from embedsearch.store.current import read_current
from tests.support.extractor import CountingExtractor
from tests.support.library import paint
from tests.support.oracle import DIM, assert_right, oracle, unit


@pytest.fixture
def big_store(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Path:
    """Rows with duplicates and deletions: 150 pictures, of which many are equal."""
    for seed in range(150):
        paint(photos / f"c{seed:03d}.png", seed % 60)
    store = tmp_path / "b.es"
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    for seed in range(0, 150, 7):
        (photos / f"c{seed:03d}.png").unlink()
    embedsearch.index(photos, store=store, extractor_factory=extractor)
    assert read_current(store).deleted_rows > 0
    return store


@pytest.mark.parametrize("k", [1, 5, 40, 1000])
@pytest.mark.parametrize("how", ["one by one", "by FAISS", "by threads"])
def test_hits_are_the_oracles(
    big_store: Path, k: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_FEW_ROWS", 4096 if how == "one by one" else 0)
    if how == "by threads":
        monkeypatch.setattr(neighbors, "available_processors", lambda: 5)
        monkeypatch.setattr("embedsearch.searching.row_sources._THREAD_BYTES", 1)
    with embedsearch.open_store(big_store) as searcher:
        for seed in range(5):
            query = unit(seed)
            assert_right(searcher.query(query, k=k), oracle(big_store, query, k))
        own = searcher._generations.current._snapshot.take(np.array([30]), ["vector"]).column(
            "vector"
        )
        query = np.array(own[0].as_py(), np.float32)
        query /= np.linalg.norm(query)
        assert_right(searcher.query(query, k=k), oracle(big_store, query, k))


@pytest.mark.parametrize(("where", "count"), [(None, 20), ("row % 3 = 0", 20), ("row = 8", 1)])
def test_many_queries_get_what_each_alone_gets(
    big_store: Path, where: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are searched by matrix products, block by block: another way to the same answers."""
    monkeypatch.setattr(search, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(neighbors, "_FEW_ROWS", 0)
    queries = [unit(seed) for seed in range(200)]
    with embedsearch.open_store(big_store) as searcher:
        together = searcher.query_batch(queries, 20, where=where)
        assert together == [searcher.query(query, 20, where=where) for query in queries]
    assert len(together[0]) == count


def test_a_reversed_order_would_be_noticed(big_store: Path) -> None:
    """The mutant: the farthest instead of the nearest."""
    query = unit(1)
    with embedsearch.open_store(big_store) as searcher:
        farthest = searcher.query(-query, k=5)
    with pytest.raises(AssertionError):
        assert_right(farthest, oracle(big_store, query, 5))


def test_missing_faiss_files_cost_time_only(big_store: Path) -> None:
    query = unit(3)
    with embedsearch.open_store(big_store) as searcher:
        wanted = searcher.query(query, k=20)
    for record in read_current(big_store).exact:
        (big_store / record.relative).unlink()
    said: list[str] = []
    with embedsearch.open_store(big_store, session=Session(notice=said.append)) as searcher:
        assert searcher.query(query, k=20) == wanted
    assert any("missing" in line and "repair" in line for line in said)


def test_shards_that_no_faiss_file_covers_are_searched(
    big_store: Path, photos: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's generation: old shards in a FAISS file, new ones in Parquet only."""
    paint(photos / "fresh.png", 999)
    monkeypatch.setattr("embedsearch.indexing.store_update.StoreUpdate.tidy", lambda self: None)
    embedsearch.index(photos, store=big_store, extractor_factory=extractor)
    manifest = read_current(big_store)
    covered = {part.shard for record in manifest.exact for part in record.segments}
    assert {shard.name for shard in manifest.shards} > covered
    with embedsearch.open_store(big_store) as searcher:
        for seed in range(3):
            assert_right(searcher.query(unit(seed), k=30), oracle(big_store, unit(seed), 30))
        query = CountingExtractor(DIM)(_pixels(photos / "fresh.png"))[0]
        assert searcher.query(query, k=1)[0].key == "fresh.png"


def test_ties_across_uncovered_shards(
    tmp_path: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More equal rows than are kept at once, the first key in the last shard."""
    monkeypatch.setattr("embedsearch.indexing.store_update.StoreUpdate.tidy", lambda self: None)
    store = tmp_path / "t.es"
    for letter in "zya":
        for number in range(12):
            paint(tmp_path / "same" / f"{letter}{number:02d}.png", 1)
        embedsearch.index(
            tmp_path / "same", store=store, model="packaged", extractor_factory=extractor
        )
    assert len(read_current(store).shards) == 3 and not read_current(store).exact
    with embedsearch.open_store(store) as searcher:
        for k in (1, 30):
            assert_right(searcher.query(unit(1), k=k), oracle(store, unit(1), k))


def test_merged_shards_leave_dead_segments_unsearched(
    big_store: Path, photos: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FAISS file whose shards were partly merged away still answers for the rest."""
    keep = read_current(big_store).exact
    paint(photos / "fresh.png", 999)
    monkeypatch.setattr(
        "embedsearch.indexing.store_update.refresh_exact", lambda writer, manifest: keep
    )
    embedsearch.index(photos, store=big_store, extractor_factory=extractor)
    names = {shard.name for shard in read_current(big_store).shards}
    assert not {part.shard for record in keep for part in record.segments} & names
    with embedsearch.open_store(big_store) as searcher:
        assert_right(searcher.query(unit(4), k=50), oracle(big_store, unit(4), 50))


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    image = Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)[None]


def test_ties_are_broken_by_key_however_many(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    """More equal rows than one round of candidates holds: the first keys win."""
    folder = tmp_path / "same"
    for number in range(90):
        paint(folder / f"{89 - number:02d}.png", 1)
    store = tmp_path / "t.es"
    embedsearch.index(folder, store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(unit(1), k=4)
    assert [hit.key for hit in hits] == ["00.png", "01.png", "02.png", "03.png"]
    assert len({hit.score for hit in hits}) == 1


def test_the_bound_is_needed(monkeypatch: pytest.MonkeyPatch, big_store: Path) -> None:
    """The mutant: without spare candidates and without going on, ties are cut arbitrarily."""
    with embedsearch.open_store(big_store) as searcher:
        row = (
            searcher._generations.current._snapshot.take(np.array([40]), ["vector"])
            .column("vector")[0]
            .as_py()
        )
        query = np.array(row, np.float32) / np.linalg.norm(np.array(row, np.float32))
        rounds = []
        real = searcher._generations.current._rows._search

        def watch(queries: Any, k: int, counted: Any) -> Any:
            rounds.append(k)
            return real(queries, k, counted)

        monkeypatch.setattr(neighbors, "_FEW_ROWS", 0)
        monkeypatch.setattr(neighbors, "_SPARE", 0)
        monkeypatch.setattr(searcher._generations.current._rows, "_search", watch)
        assert_right(searcher.query(query, k=1), oracle(big_store, query, 1))
    assert len(rounds) > 1, "the first round cannot have been enough: three rows are equal"


def test_cosines_are_scaled_clipped_and_independent_of_place() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, DIM)).astype(np.float16)
    vectors[::7] = vectors[0]
    query = unit(9)
    scores = cosines(query, vectors)
    wanted = vectors.astype(np.float64) @ query / np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert np.abs(scores - wanted).max() < 1e-6
    assert len(set(scores[::7].tolist())) == 1
    itself = (query * 1.0).astype(np.float16)[None]
    assert 0.999 < cosines(query, itself)[0] <= 1.0


def test_search_rows_handles_no_rows_and_k_beyond() -> None:
    vectors = np.eye(4, DIM, dtype=np.float16)
    queries = np.stack([unit(0), unit(1)])
    nobody = np.zeros(4, dtype=np.bool_)
    assert [len(c.positions) for c in search_rows(vectors, queries, 3, nobody)] == [0, 0]
    for row in search_rows(vectors, queries, 99, None):
        assert sorted(row.positions.tolist()) == [0, 1, 2, 3]
        assert np.all(np.diff(row.products) <= 0)
