"""A Searcher in a pipeline: images by key, thumbnails, async, new generations, its lifetime."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import embedsearch
from embedsearch.core.errors import (
    DamagedStore,
    ImageNotFound,
    StoreNotFound,
    UnreadableImage,
    UsageError,
)
from embedsearch.core.session import Session
from embedsearch.searching.query_vectors import QueryEmbedder
from embedsearch.store.current import read_current
from tests.support.library import paint
from tests.support.oracle import unit


@pytest.fixture
def store(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Path:
    """Twelve pictures with captions, of which one lies on its side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Zeiss"
    exif[ExifTags.Base.DateTime] = "2024:05:06 07:08:09"
    paint(photos / "side.jpg", 77, size=(600, 400), exif=exif)
    paint(photos / "gone.png", 78)
    (photos / "captions.csv").write_text("path,caption,when\na/01.png,one,2024-01-02\n")
    store = tmp_path / "s.es"
    options: dict[str, Any] = {"store": store, "extractor_factory": extractor}
    embedsearch.index(photos, model="packaged", metadata=str(photos / "captions.csv"), **options)
    (photos / "gone.png").unlink()
    embedsearch.index(photos, **options)
    return store


@pytest.fixture
def searcher(store: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(store) as opened:
        yield opened


def test_an_image_by_key_path_and_row(searcher: embedsearch.Searcher, photos: Path) -> None:
    record = searcher.get("side.jpg")
    assert (record.key, record.full_path) == ("side.jpg", str(photos / "side.jpg"))
    assert (record.width, record.height, record.format) == (400, 600, "JPEG")
    assert record.size_bytes == (photos / "side.jpg").stat().st_size
    assert record.taken_at == datetime(2024, 5, 6, 7, 8, 9) and record.camera == "Zeiss"
    assert searcher.get(record.full_path) == searcher.get(record.row) == record
    captioned = searcher.get("a/01.png")
    assert captioned.metadata["caption"] == "one"
    for hit in searcher.query(unit(0), k=20):
        assert searcher.get(hit.row).key == hit.key
    text = json.dumps(record.to_dict(), allow_nan=False)
    assert json.loads(text)["taken_at"] == "2024-05-06T07:08:09"


def test_what_is_no_image_of_the_store(searcher: embedsearch.Searcher) -> None:
    (gone,) = searcher._generations.current._snapshot.deleted.tolist()
    for image in ("no.png", "/etc/passwd", "gone.png", "../a/01.png", "a", "", gone, -1, 2**70):
        with pytest.raises(ImageNotFound):
            searcher.get(image)
        with pytest.raises(ImageNotFound):
            searcher.thumbnail(image)
    for image in (None, 1.5, b"a/01.png", ["a/01.png"]):
        with pytest.raises(UsageError, match="image must be text or a whole number"):
            searcher.get(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [1, 64, 256, 300, 1024])
def test_a_thumbnail_is_upright_and_has_no_margin(
    searcher: embedsearch.Searcher, photos: Path, side: int
) -> None:
    image = Image.open(io.BytesIO(searcher.thumbnail("side.jpg", side)))
    longer = min(side, 600)
    assert image.format == "JPEG" and image.size[1] == longer
    assert abs(image.size[0] - longer * 2 / 3) <= 1
    assert not image.getexif()
    truth = Image.open(photos / "side.jpg").transpose(Image.Transpose.ROTATE_270)
    small = truth.resize(image.size, Image.Resampling.BICUBIC)
    off = np.abs(np.asarray(image, np.float64) - np.asarray(small, np.float64))
    assert off.mean() < 8
    if side >= 64:  # no white line at an edge
        for edge in (off[0], off[-1], off[:, 0], off[:, -1]):
            assert edge.mean() < 25


def test_a_thumbnails_side_has_bounds(searcher: embedsearch.Searcher) -> None:
    for side in (0, -5, 1025, 10**9):
        with pytest.raises(UsageError, match="between 1 and 1024"):
            searcher.thumbnail("side.jpg", side)


def test_a_thumbnail_shows_the_file_and_nothing_behind_a_link(
    searcher: embedsearch.Searcher, photos: Path, tmp_path: Path
) -> None:
    secret = paint(tmp_path / "secret" / "01.png", 5)
    (photos / "a" / "01.png").unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        searcher.thumbnail("a/01.png")
    (photos / "a" / "01.png").symlink_to(secret)
    with pytest.raises(UnreadableImage):
        searcher.thumbnail("a/01.png")
    (photos / "side.jpg").write_text("<html>")
    with pytest.raises(UnreadableImage, match="another file"):
        searcher.thumbnail("side.jpg")
    shutil.move(photos / "b", tmp_path / "moved")
    (photos / "b").symlink_to(secret.parent)
    with pytest.raises(UnreadableImage):
        searcher.thumbnail("b/00.png")


def test_many_threads_get_their_own_thumbnails(searcher: embedsearch.Searcher) -> None:
    keys = [hit.key for hit in searcher.query(unit(0), k=20)]
    wanted = {key: searcher.thumbnail(key, 40) for key in keys}
    assert len(set(wanted.values())) == len(keys)
    found: dict[int, bytes] = {}

    def ask(number: int) -> None:
        found[number] = searcher.thumbnail(keys[number % len(keys)], 40)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: wanted[keys[number % len(keys)]] for number in range(32)}


def test_awaited_queries_leave_the_loop_free(searcher: embedsearch.Searcher) -> None:
    wanted = [searcher.query(unit(seed), 3) for seed in range(8)]

    async def ask() -> tuple[list[Any], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        heart = asyncio.create_task(beat())
        found = await asyncio.gather(*(searcher.aquery(unit(seed), 3) for seed in range(8)))
        heart.cancel()
        return found, beats

    found, beats = asyncio.run(ask())
    assert found == wanted and beats > 1


def test_queries_at_once_share_the_network(
    store: Path, photos: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model instance for all threads, and fewer passes through it than questions."""
    batches: list[int] = []
    network = extractor(read_current(store).model, "cpu", "fp32", Session())

    def embed(pixels: Any) -> Any:
        batches.append(len(pixels))
        time.sleep(0.1)
        return network(pixels)

    monkeypatch.setattr(QueryEmbedder, "_network", lambda self: embed)
    paths = sorted(photos.glob("*/*.png"))
    found: dict[Path, str] = {}
    with embedsearch.open_store(store) as searcher:

        def ask(path: Path) -> None:
            found[path] = searcher.query(path, 1)[0].full_path

        threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {path: str(path) for path in paths}
    assert sum(batches) == len(paths) and len(batches) < len(paths) / 2


def test_refresh_takes_up_a_new_generation(
    store: Path, photos: Path, extractor: Callable[..., Any]
) -> None:
    with embedsearch.open_store(store) as searcher:
        assert not searcher.refresh()
        before = searcher.query(unit(0), 30)
        answers = searcher.answers([unit(0)] * 1000, 30)
        first = next(answers)
        paint(photos / "new.png", 500)
        embedsearch.index(photos, store=store, extractor_factory=extractor)
        assert searcher.query(unit(0), 30) == before, "without follow, nothing changes by itself"
        assert searcher.refresh()
        assert len(searcher.query(unit(0), 30)) == len(before) + 1
        assert all(answer.hits == first.hits for answer in answers), "one call, one generation"
        assert not searcher.refresh()


def test_a_following_searcher_sees_commits_by_itself(
    store: Path,
    photos: Path,
    extractor: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedsearch.searching.following._CHECK_EVERY_S", 0.05)
    with embedsearch.open_store(store, follow=True) as searcher:
        count = len(searcher.query(unit(0), 50))
        descriptors = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            paint(photos / f"new{number}.png", 500 + number)
            embedsearch.index(photos, store=store, extractor_factory=extractor)
            _until(lambda n=number: len(searcher.query(unit(0), 50)) == count + n + 1)  # type: ignore[misc]
        assert searcher.trouble is None
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 2, "generations stay open"


def test_a_following_searcher_outlives_damage_and_rebuilds(
    store: Path,
    photos: Path,
    extractor: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedsearch.searching.following._CHECK_EVERY_S", 0.05)
    said: list[str] = []
    with embedsearch.open_store(store, follow=True, session=Session(said.append)) as searcher:
        before = searcher.query(unit(0), 30)
        good = (store / "CURRENT").read_bytes()
        (store / "CURRENT").write_text("{")
        _until(lambda: searcher.trouble is not None)
        assert "CURRENT" in (searcher.trouble or "")
        assert searcher.query(unit(0), 30) == before
        with pytest.raises(DamagedStore):
            searcher.refresh()
        (store / "CURRENT").write_bytes(good)
        _until(lambda: searcher.trouble is None)
        assert searcher.query(unit(0), 30) == before
        shutil.rmtree(store)
        _until(lambda: searcher.trouble is not None)
        assert searcher.query(unit(0), 30) == before, "what is open stays readable"
        embedsearch.index(
            photos / "a", store=store, model="packaged", input_side=96, extractor_factory=extractor
        )
        _until(lambda: len(searcher.query(unit(0), 30)) == 6)
        assert searcher.trouble is None and searcher.manifest.model.input_side == 96
    assert len(said) == 2 and all("the previous generation" in line for line in said)


def test_a_closed_searcher_says_so_everywhere(store: Path) -> None:
    searcher = embedsearch.open_store(store)
    answers = searcher.answers([unit(0)] * 2000, 2)
    next(answers)
    searcher.close()
    searcher.close()
    for use in (
        lambda: searcher.query(unit(0)),
        lambda: searcher.get("side.jpg"),
        lambda: searcher.thumbnail("side.jpg"),
        lambda: searcher.embed([unit(0)]),
        lambda: list(answers),
        lambda: asyncio.run(searcher.aquery(unit(0))),
    ):
        with pytest.raises(StoreNotFound, match="closed"):
            use()


def test_closing_waits_for_nobody_and_leaves_nothing(store: Path, photos: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    searcher = embedsearch.open_store(store)
    searcher.thumbnail("side.jpg")
    abandoned = searcher.answers([unit(0)] * 2000, 2)
    next(abandoned)
    searcher.close()
    del abandoned
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_what_is_dropped_is_closed(store: Path, photos: Path, *, is_in_a_cycle: bool) -> None:
    image = (photos / "side.jpg").read_bytes()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        searcher = embedsearch.open_store(store)
        searcher.query(image)
        embedder = embedsearch.ImageEmbedder("packaged")
        embedder.embed([image])
        if is_in_a_cycle:
            searcher.itself, embedder.itself = searcher, embedder  # type: ignore[attr-defined]
        del searcher, embedder
    gc.collect()
    _until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_a_fork_that_drops_a_searcher_leaves_it_to_its_owner(store: Path) -> None:
    searcher = embedsearch.open_store(store)
    searcher.thumbnail("side.jpg")
    if (child := os.fork()) == 0:
        del searcher
        other = embedsearch.open_store(store)  # which starts the thread that closes
        is_answered = bool(other.query(unit(0)))
        os._exit(not is_answered)
    assert os.waitpid(child, 0)[1] == 0
    assert searcher.thumbnail("side.jpg", 32)
    searcher.close()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.02)


def test_warming_up_does_what_a_first_query_waits_for(store: Path) -> None:
    with embedsearch.open_store(store) as searcher:
        embedder = searcher._generations._current.decoders.embedder
        assert embedder._extractor is None and embedder._decoder._pool is None
        searcher.warm_up()
        assert embedder._extractor is not None and embedder._decoder._pool is not None
