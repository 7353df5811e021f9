"""Thumbnails are made once, of the file that is there now, and take up a bounded space."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UnreadableImage, UsageError
from embedsearch.images.thumbnail_cache import ThumbnailCache
from embedsearch.images.thumbnails import Thumbnailer, filling
from tests.support.library import paint


@pytest.fixture
def thumbnailer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Thumbnailer:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    return Thumbnailer(DecodeLimits())


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_made_once_while_the_file_is_the_same(thumbnailer: Thumbnailer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    paint(tmp_path / "photos" / "a.png", 1)
    made = thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    (kept,) = files(cache)
    assert kept.read_bytes() == made
    marked = made[:2] + b"\xff\xfe\x00\x04me" + made[2:]  # a comment, as a JPEG may have it
    kept.write_bytes(marked)
    assert thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32) == marked
    assert thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 16) != marked
    paint(tmp_path / "photos" / "a.png", 2)
    assert thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32) not in {made, marked}
    thumbnailer.close()


def test_a_torn_one_is_made_again(thumbnailer: Thumbnailer, tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", 1)
    made = thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    (kept,) = files(tmp_path / "cache")
    for torn in (made[:-10], b""):
        kept.write_bytes(torn)
        assert thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32) == made
    thumbnailer.close()


def test_a_file_that_has_gone_has_none(thumbnailer: Thumbnailer, tmp_path: Path) -> None:
    photo = paint(tmp_path / "photos" / "a.png", 1)
    paint(tmp_path / "secret.png", 2)
    thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    photo.unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    photo.symlink_to(tmp_path / "secret.png")
    with pytest.raises(UnreadableImage):
        thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    assert len(files(tmp_path / "cache")) == 1
    thumbnailer.close()


def test_a_thumbnail_of_another_decoding_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    cache = ThumbnailCache(tmp_path / "cache")
    before = cache.key(str(tmp_path), "a.png", 32)
    assert before == cache.key(str(tmp_path), "a.png", 32)
    monkeypatch.setattr("embedsearch.images.thumbnail_cache.DECODING", 99)
    assert cache.key(str(tmp_path), "a.png", 32) != before


def test_a_cache_that_cannot_be_written_is_done_without(
    thumbnailer: Thumbnailer, tmp_path: Path
) -> None:
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "cache").write_text("a file where the folder should be")
    made = thumbnailer.jpeg(str(tmp_path / "photos"), "a.png", 32)
    assert max(Image.open(io.BytesIO(made)).size) == 32
    thumbnailer.close()


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8" + bytes(996) + b"\xff\xd9"
    cache = ThumbnailCache(tmp_path, max_bytes=10_000)
    names = [f"{number:064x}" for number in range(14)]
    for age, name in enumerate(names[:10]):
        cache.put(name, jpeg)
        os.utime(tmp_path / name[:2] / name, (age, age))
    assert cache.get(names[0]) == jpeg  # and so it is the newest
    cache.put(names[10], jpeg)
    left = [name for name in names if cache.get(name) is not None]
    assert left == [names[0], *names[5:11]]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 7_500
    again = ThumbnailCache(tmp_path, max_bytes=7_500)  # counts what another process left
    again.put(names[11], jpeg)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 7_500


def test_the_key_does_not_follow_links(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path / "cache")
    paint(tmp_path / "real" / "a.png", 1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "real")
    assert cache.key(str(tmp_path / "real"), "a.png", 32) is not None
    for key in ("link/a.png", "missing.png", "", "."):
        assert cache.key(str(tmp_path / "photos"), key, 32) is None


def test_the_right_way_up(thumbnailer: Thumbnailer, shared_data: Path) -> None:
    folder = shared_data / "exif_orientation"
    for name in sorted(os.listdir(folder)):
        if name.endswith(".jpg"):
            made = Image.open(io.BytesIO(thumbnailer.jpeg(str(folder), name, 64)))
            assert (made.width > made.height) == name.lower().startswith("landscape"), name
    thumbnailer.close()


@pytest.mark.parametrize(
    ("fill", "width", "height", "side"),
    [
        (256, 4000, 3000, 342),
        (256, 3000, 4000, 342),
        (256, 500, 500, 256),
        (256, 0, 0, 256),
        (1, 1, 1, 1),
        (1024, 4000, 3000, 1024),
        (300, 9000, 1000, 1024),
        (1, 10**9, 1, 1024),
        (512, 0, 700, 1024),
    ],
)
def test_a_picture_fills_as_much_as_there_may_be(
    fill: int, width: int, height: int, side: int
) -> None:
    assert filling(fill, width, height) == side


@pytest.mark.parametrize("fill", [0, -1, 1025, 10**30])
def test_no_picture_fills_that(fill: int) -> None:
    with pytest.raises(UsageError, match="between 1 and 1024"):
        filling(fill, 40, 30)


def test_a_version_is_that_of_the_file(thumbnailer: Thumbnailer, tmp_path: Path) -> None:
    photo = paint(tmp_path / "photos" / "a.png", 1)
    folder = str(tmp_path / "photos")
    known = thumbnailer.version(folder, "a.png", 32)
    assert known is not None and known == thumbnailer.version(folder, "a.png", 32)
    assert known != thumbnailer.version(folder, "a.png", 33)
    assert files(tmp_path / "cache") == []
    paint(photo, 2)
    assert thumbnailer.version(folder, "a.png", 32) not in {None, known}
    photo.unlink()
    assert thumbnailer.version(folder, "a.png", 32) is None
    thumbnailer.close()
