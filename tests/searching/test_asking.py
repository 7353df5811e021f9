"""Queries and answers: every form of a query, refusals, threads, percentiles."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import embedsearch
from embedsearch.core.errors import StoreNotFound, UnreadableImage, UsageError
from embedsearch.core.records import EmbeddingBatch, ImageFacts, ImageRef
from embedsearch.searching.query_vectors import QueryEmbedder
from tests.support.library import paint
from tests.support.oracle import DIM, unit
from tests.support.stores import compared_rows, imported, rows_of


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
    forms: list[Any] = [str(path), path, path.read_bytes(), image, np.asarray(image), link]
    with embedsearch.open_store(real_store) as searcher:
        (vector,) = searcher.embed([path])
        assert vector.shape == (DIM,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        answers = searcher.query_batch([*forms, vector], k=3)
        for hits in answers:
            assert [hit.key for hit in hits] == [hit.key for hit in answers[0]]
            assert hits[0].key == "3.png" and hits[0].ranked_by > 0.9999
            assert (hits[0].width, hits[0].height) == (90, 70)
            assert hits[0].full_path == str(path)


def test_the_same_batch_and_single(real_store: Path) -> None:
    paths = sorted((real_store.parent / "photos").iterdir()) * 8  # more than a chunk
    with embedsearch.open_store(real_store) as searcher:
        batch = searcher.query_batch(paths, k=2)
        assert len(batch) == 80
        for path, hits in zip(paths, batch, strict=True):
            assert hits[0].full_path == str(path)
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
        with pytest.raises(UsageError, match="must be a list"):
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
    wrong: list[Any] = [good * 1.01, good * np.nan, good.astype(np.float64), good[0]]
    for bad in wrong:
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
    units = np.array([*compared_rows(real_store).values()])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(len(units), 1)]
    fourth = np.frombuffer([*rows_of(real_store).values()][3], np.float16).astype(np.float32)
    with embedsearch.open_store(real_store) as searcher:
        hits = searcher.query(fourth / np.linalg.norm(fourth), 10)
    assert hits[0].percentile == 100.0
    for hit in hits:
        share = 100 * float(np.mean(pairs < hit.ranked_by - 1e-6))
        assert hit.percentile == pytest.approx(share, abs=100 / len(pairs) + 1)
    assert hits == sorted(hits, key=lambda hit: -(hit.percentile or 0))


def test_one_image_has_no_percentile(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    paint(tmp_path / "p" / "only.png", 1)
    store = tmp_path / "s.es"
    embedsearch.index(tmp_path / "p", store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        (hit,) = searcher.query(unit(0))
    assert hit.percentile is None and hit.to_dict()["percentile"] is None


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Rows of 300 random vectors, each of them twice."""
    vectors = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    names = (f"{n:03d}.jpg" for n in range(600))
    return imported(tmp_path, np.vstack([vectors, vectors]), names)


def test_a_limit_of_one_means_the_same(twins: Path) -> None:
    with embedsearch.open_store(twins) as searcher:
        for row in range(300):
            found = searcher.query(embedsearch.Key(row), k=3, min_score=1.0)
            assert {hit.row for hit in found} == {row, row + 300}
            distinct = searcher.query(embedsearch.Key(row), k=4, collapse=1.0)
            assert len({hit.row % 300 for hit in distinct}) == 4


def test_diverse_hits_are_chosen_among_distinct_ones(twins: Path) -> None:
    with embedsearch.open_store(twins) as searcher:

        def keys(**options: Any) -> list[int]:
            hits = searcher.query(embedsearch.Key(0), k=5, **options)
            return [hit.row % 300 for hit in hits]

        assert len(set(keys(diverse=0.9, collapse=0.999))) == 5
        assert set(keys(diverse=0.9, collapse=0.999)) != set(keys(collapse=0.999))
