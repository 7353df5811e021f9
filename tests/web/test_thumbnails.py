"""Thumbnails that fill a tile, and those that a browser has already."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.answers import failed
from tests.support.library import paint
from tests.support.serving import Response, Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown") / "photos"
    sizes = [(1200, 900), (900, 1200), (1600, 200), (90, 60), (700, 700)]
    for seed, size in enumerate(sizes):
        paint(folder / f"{seed}.jpg", seed, size=size)
    embedsearch.index(folder, store=folder.parent / "s.es", model="packaged")
    return folder


@pytest.fixture(scope="module")
def shown(photos: Path) -> Iterator[Served]:
    with served(photos.parent / "s.es") as server:
        yield server


def size(answer: Response) -> tuple[int, int]:
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    return Image.open(io.BytesIO(answer.body)).size


@pytest.mark.parametrize(
    ("row", "fill", "wanted"),
    [
        (0, 256, (342, 256)),
        (1, 256, (256, 342)),
        (0, 300, (400, 300)),
        (0, 700, (934, 700)),
        (0, 1024, (1024, 768)),  # the longer side ends at 1024
        (2, 256, (1024, 128)),
        (3, 256, (90, 60)),  # not enlarged
        (4, 512, (512, 512)),
        (4, 1, (1, 1)),
    ],
)
def test_the_shorter_side_fills(
    shown: Served, row: int, fill: int, wanted: tuple[int, int]
) -> None:
    found = size(shown.get(f"/images/{row}/thumbnail?fill={fill}"))
    assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


def test_python_gives_the_same(shown: Served, photos: Path) -> None:
    with embedsearch.open_store(photos.parent / "s.es") as searcher:
        for fill in (64, 300):
            jpeg = searcher.thumbnail(0, fill=fill)
            assert shown.get(f"/images/0/thumbnail?fill={fill}").body == jpeg


def test_a_browser_is_told_that_it_has_it(shown: Served) -> None:
    first = shown.get("/images/0/thumbnail?fill=200")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, max-age=300"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = shown.get("/images/0/thumbnail?fill=200", if_none_match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
        assert answer.headers["cache-control"] == "private, max-age=300"
    for other in ('"other"', tag[1:-1], "", '"'):
        answer = shown.get("/images/0/thumbnail?fill=200", if_none_match=other)
        assert (answer.status, answer.body) == (200, first.body)
    assert shown.get("/images/0/thumbnail?fill=201").headers["etag"] != tag
    assert shown.get("/images/1/thumbnail?fill=200").headers["etag"] != tag
    failed(shown.get("/images/99/thumbnail?fill=200", if_none_match="*"), 404)


def test_a_tag_is_no_key_to_what_has_changed(tmp_path: Path) -> None:
    photo = paint(tmp_path / "photos" / "a.png", 1, size=(300, 200))
    embedsearch.index(tmp_path / "photos", store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        tag = server.get("/images/0/thumbnail").headers["etag"]
        paint(photo, 2, size=(300, 200))
        failed(server.get("/images/0/thumbnail", if_none_match=tag), 404)
        photo.unlink()
        for known in (tag, "*"):
            answer = server.get("/images/0/thumbnail", if_none_match=known)
            failed(answer, 404)
            assert answer.json["code"] == "file_gone"
        os.mkfifo(photo)
        failed(server.get("/images/0/thumbnail", if_none_match="*"), 404)


def test_an_imported_vector_shows_its_file(tmp_path: Path) -> None:
    """Within the folder of the import, and no link out of it."""
    paint(tmp_path / "root" / "a.jpg", 1, size=(400, 300))
    paint(tmp_path / "secret.jpg", 2)
    (tmp_path / "root" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    np.save(tmp_path / "v.npy", np.eye(3, 8, dtype=np.float32))
    (tmp_path / "paths.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    import_vectors(
        tmp_path / "v.npy",
        model="m",
        paths=tmp_path / "paths.txt",
        root=tmp_path / "root",
        store=tmp_path / "s.es",
    )
    with served(tmp_path / "s.es") as server:
        assert size(server.get("/images/0/thumbnail?side=200"))[0] == 200
        for row in (1, 2):
            failed(server.get(f"/images/{row}/thumbnail"), 404)
