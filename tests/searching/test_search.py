"""Search against a brute-force oracle that reads the same stored rows."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

import embedsearch
from embedsearch.core.errors import StoreNotFound, UnreadableImage, UsageError
from embedsearch.core.records import EmbeddingBatch, ImageFacts, ImageRef
from embedsearch.core.session import Session
from embedsearch.searching import neighbors
from embedsearch.searching.ann import search
from embedsearch.searching.ann.search import cosines, search_rows
from embedsearch.searching.queries import QueryEmbedder
from embedsearch.store.current import read_current
from tests.support.extractor import CountingExtractor
from tests.support.library import paint
from tests.support.oracle import DIM, assert_right, oracle, unit
from tests.support.stores import rows_of


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
        monkeypatch.setattr(neighbors, "_THREAD_BYTES", 1)
    with embedsearch.open_store(big_store) as searcher:
        for seed in range(5):
            query = unit(seed)
            assert_right(searcher.query(query, k=k), oracle(big_store, query, k))
        own = searcher._opened.generation._snapshot.take(np.array([30]), ["vector"]).column(
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
    monkeypatch.setattr("embedsearch.indexing.store_update.Ledger.tidy", lambda self: None)
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
    monkeypatch.setattr("embedsearch.indexing.store_update.Ledger.tidy", lambda self: None)
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
            searcher._opened.generation._snapshot.take(np.array([40]), ["vector"])
            .column("vector")[0]
            .as_py()
        )
        query = np.array(row, np.float32) / np.linalg.norm(np.array(row, np.float32))
        rounds = []
        real = searcher._opened.generation._rows._search

        def watch(queries: Any, k: int, counted: Any) -> Any:
            rounds.append(k)
            return real(queries, k, counted)

        monkeypatch.setattr(neighbors, "_FEW_ROWS", 0)
        monkeypatch.setattr(neighbors, "_SPARE", 0)
        monkeypatch.setattr(searcher._opened.generation._rows, "_search", watch)
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


@pytest.fixture(scope="module")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made by the real network from a few pictures."""
    folder = tmp_path_factory.mktemp("real")
    for seed in range(10):
        paint(folder / "photos" / f"{seed}.png", seed, size=(90, 70))
    embedsearch.index(folder / "photos", store=folder / "r.es", model="packaged")
    return folder / "r.es"


def test_every_form_of_a_query_finds_the_picture(real_store: Path) -> None:
    path = real_store.parent / "photos" / "3.png"
    image = Image.open(path)
    link = real_store.parent / "link.png"
    link.symlink_to(path)
    forms = [str(path), path, path.read_bytes(), image, np.asarray(image), link]
    with embedsearch.open_store(real_store) as searcher:
        (vector,) = searcher.embed([path])
        assert vector.shape == (DIM,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        answers = searcher.query_batch([*forms, vector], k=3)
        for hits in answers:
            assert [hit.key for hit in hits] == [hit.key for hit in answers[0]]
            assert hits[0].key == "3.png" and hits[0].score > 0.9999
            assert (hits[0].width, hits[0].height) == (90, 70)
            assert hits[0].path == str(path)


def test_the_same_batch_and_single(real_store: Path) -> None:
    paths = sorted((real_store.parent / "photos").iterdir()) * 8  # more than a chunk
    with embedsearch.open_store(real_store) as searcher:
        batch = searcher.query_batch(paths, k=2)
        assert len(batch) == 80
        for path, hits in zip(paths, batch, strict=True):
            assert hits[0].path == str(path)
        single = searcher.query(paths[5], k=2)
        assert [h.key for h in single] == [h.key for h in batch[5]]
        assert [h.score for h in single] == pytest.approx([h.score for h in batch[5]], abs=1e-5)


def test_an_abandoned_query_does_not_answer_the_next(
    real_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a notebook while the network loads: the pictures asked for then stay unanswered."""
    first, second = (real_store.parent / "photos" / name for name in ("1.png", "2.png"))

    def interrupt(self: Any) -> None:
        raise KeyboardInterrupt

    with embedsearch.open_store(real_store) as searcher:
        searcher.query(first)  # the processes run, so that answers come at once
        for _ in range(5):
            with monkeypatch.context() as patch:
                patch.setattr(QueryEmbedder, "_network", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    searcher.query_batch([first] * 30)
            hits = searcher.query_batch([second] * 30, k=1)
            assert {hit.key for (hit,) in hits} == {"2.png"}


def test_a_pillow_image_is_turned_upright(real_store: Path, tmp_path: Path) -> None:
    picture = Image.open(real_store.parent / "photos" / "1.png").convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    with embedsearch.open_store(real_store) as searcher:
        from_file = searcher.embed([tmp_path / "turned.png"])
        with Image.open(tmp_path / "turned.png") as opened:
            from_image = searcher.embed([opened])
        sideways = searcher.embed([np.asarray(Image.open(tmp_path / "turned.png"))])
    assert (from_file @ from_image.T)[0, 0] > 0.9999
    assert (from_file @ sideways.T)[0, 0] < 0.999


def test_wrong_queries_are_refused_by_name(real_store: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    os.mkfifo(tmp_path / "pipe.jpg")
    with embedsearch.open_store(real_store) as searcher:
        for bad, words in {
            "text.jpg": "not_an_image",
            "pipe.jpg": "not_regular",
            "gone.jpg": "no such file",
        }.items():
            with pytest.raises(UnreadableImage, match=f"{bad}.*{words}"):
                searcher.query(tmp_path / bad)
        with pytest.raises(UnreadableImage, match="the image given"):
            searcher.query(b"")
        for query in (unit(0)[:100], unit(0) * 2, np.full(DIM, np.nan), np.zeros((4, 4)),
                      np.array(3.0), "a\0b", 7):  # fmt: skip
            with pytest.raises(UsageError):
                searcher.query(query)  # type: ignore[arg-type]
        for k in (0, -1, 1.5, "3"):
            with pytest.raises(UsageError, match="k must be"):
                searcher.query(unit(0), k=k)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="are a list"):
            searcher.query_batch("photo.jpg")
        with pytest.raises(UsageError, match="min_score"):
            searcher.query(unit(0), min_score=2.0)
        good = real_store.parent / "photos" / "1.png"
        answers = list(searcher.answers([good, tmp_path / "text.jpg", good], k=1))
        assert [answer.failure is None for answer in answers] == [True, False, True]
        assert answers[2].hits[0].key == "1.png"


def test_min_score_cuts_and_bounds(real_store: Path) -> None:
    path = real_store.parent / "photos" / "3.png"
    with embedsearch.open_store(real_store) as searcher:
        everything = searcher.query(path, k=10)
        cut = everything[4].score
        assert searcher.query(path, k=10, min_score=cut) == everything[:5]
        assert len(searcher) == len(everything) == 10


def test_thirty_two_threads_get_the_same_answers(real_store: Path) -> None:
    paths = sorted((real_store.parent / "photos").iterdir())
    wrong: list[object] = []
    with embedsearch.open_store(real_store) as searcher:
        wanted = {path: [hit.key for hit in searcher.query(path, k=5)] for path in paths}

        def ask(number: int) -> None:
            try:
                for turn in range(3):
                    path = paths[(number + turn) % len(paths)]
                    if [hit.key for hit in searcher.query(path, k=5)] != wanted[path]:
                        wrong.append(path)
            except Exception as error:  # a thread's exception would vanish
                wrong.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_closed_searcher_says_so(real_store: Path) -> None:
    searcher = embedsearch.open_store(real_store)
    searcher.close()
    searcher.close()
    with pytest.raises(StoreNotFound, match="closed"):
        searcher.query(unit(0))


def test_an_open_searcher_outlives_later_commits(
    real_store: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    """One generation for its whole life, files swept by later commits included."""
    folder, store = tmp_path / "p", tmp_path / "s.es"
    for seed in range(6):
        paint(folder / f"{seed}.png", seed)
    embedsearch.index(folder, store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        before = searcher.query(unit(0), k=6)
        for seed in range(6, 10):
            (folder / f"{seed - 6}.png").unlink()
            paint(folder / f"{seed}.png", seed)
            embedsearch.index(folder, store=store, extractor_factory=extractor)
        assert searcher.query(unit(0), k=6) == before
        assert not (store / searcher.manifest.shards[0].relative).exists(), "nothing was swept"
    with embedsearch.open_store(store) as searcher:
        assert {hit.key for hit in searcher.query(unit(0))} == {f"{n}.png" for n in range(4, 10)}


def test_records_refuse_what_is_no_unit_vector() -> None:
    ref, facts = ImageRef(0, "a", 1, 1), ImageFacts(1, 1, "PNG", b"")
    good = unit(0)[None]
    assert len(EmbeddingBatch([ref], [facts], good).vectors) == 1
    for bad in (good * 1.01, good * np.nan, good.astype(np.float64), good[0]):
        with pytest.raises(ValueError):
            EmbeddingBatch([ref], [facts], bad)


def test_bytes_never_reach_the_store(real_store: Path) -> None:
    """Query images given as bytes leave nothing behind."""
    data = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    before = sorted(path.name for path in real_store.rglob("*"))
    with embedsearch.open_store(real_store) as searcher:
        searcher.query(data.getvalue())
    assert sorted(path.name for path in real_store.rglob("*")) == before


def test_the_percentile_is_the_share_of_pairs_below(real_store: Path) -> None:
    vectors = np.array([*(np.frombuffer(v, np.float16) for v in rows_of(real_store).values())])
    units = vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(len(units), 1)]
    with embedsearch.open_store(real_store) as searcher:
        hits = searcher.query(units[3].astype(np.float32), 10)
    assert hits[0].percentile == 100.0
    for hit in hits:
        share = 100 * float(np.mean(pairs < hit.score - 1e-6))
        assert hit.percentile == pytest.approx(share, abs=100 / len(pairs) + 1)
    assert hits == sorted(hits, key=lambda hit: -(hit.percentile or 0))


def test_one_image_has_no_percentile(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    paint(tmp_path / "p" / "only.png", 1)
    store = tmp_path / "s.es"
    embedsearch.index(tmp_path / "p", store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        (hit,) = searcher.query(unit(0))
    assert hit.percentile is None and hit.to_dict()["percentile"] is None
