"""The files themselves: the bytes that were indexed, whole or in part, and nothing else."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.answers import CLOCK, failed
from tests.support.archives import MAKERS, make_parquet, members_of
from tests.support.library import SAMPLES, paint
from tests.support.serving import Response, Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

NAME = "clocks/clocks_1.jpg"
DIGEST = hashlib.sha256(CLOCK).hexdigest()
SIZE = len(CLOCK)


@pytest.fixture(scope="module")
def address(searcher: embedsearch.Searcher) -> str:
    return f"/images/{searcher.get(NAME).row}/original"


def test_a_file_is_what_was_indexed(server: Served, address: str) -> None:
    answer = server.get(address)
    assert (answer.status, answer.body) == (200, CLOCK)
    headers = answer.headers
    assert (headers["content-type"], headers["content-length"]) == ("image/jpeg", str(SIZE))
    assert (headers["etag"], headers["accept-ranges"]) == (f'"{DIGEST}"', "bytes")
    assert headers["x-content-type-options"] == "nosniff"
    named = "inline; filename=\"clocks_1.jpg\"; filename*=utf-8''clocks_1.jpg"
    assert headers["content-disposition"] == named
    saved = server.get(address + "?download=true").headers["content-disposition"]
    assert saved == named.replace("inline", "attachment")
    # No program may take it in a form of its own.
    assert "content-encoding" not in server.get(address, accept_encoding="gzip").headers


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=100-", 100, SIZE - 1),
        ("bytes=-5", SIZE - 5, SIZE - 1),
        ("bytes=-999999999", 0, SIZE - 1),
        ("bytes=7-999999999999999999", 7, SIZE - 1),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
        ("bytes= 3 - 4", 3, 4),
    ],
)
def test_a_part(server: Served, address: str, wanted: str, first: int, last: int) -> None:
    answer = server.get(address, range=wanted)
    assert (answer.status, answer.body) == (206, CLOCK[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert server.get(address, range=wanted, if_range=f'"{DIGEST}"').status == 206


@pytest.mark.parametrize(
    "wanted",
    [
        *("bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "bytes=0-1,5-6", "items=0-5", "bytes=1"),
        *("bytes=-1-2", "bytes=0x1-2", "bytes=" + "9" * 30 + "-", "bytes=\xb2-3"),
    ],
)
def test_what_is_no_part_is_the_whole(server: Served, address: str, wanted: str) -> None:
    answer = server.get(address, range=wanted)
    assert (answer.status, answer.body) == (200, CLOCK)


def test_a_part_of_another_version_is_the_whole(server: Served, address: str) -> None:
    for version in ('"0"', f'W/"{DIGEST}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = server.get(address, range="bytes=0-9", if_range=version)
        assert (answer.status, answer.body) == (200, CLOCK)


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
def test_parts_that_are_not_there(server: Served, address: str, wanted: str) -> None:
    answer = server.get(address, range=wanted)
    failed(answer, 416, str(SIZE))
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


def test_who_has_it_needs_none(server: Served, address: str) -> None:
    for tags in (f'"{DIGEST}"', f'W/"{DIGEST}"', f'"a", "{DIGEST}"', "*"):
        answer = server.get(address, if_none_match=tags)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", f'"{DIGEST}"')
    assert server.get(address, if_none_match='"a"').body == CLOCK
    head = server.request("HEAD", address)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(SIZE))


@pytest.mark.parametrize(
    "query", ["?download=2", "?download=", "?side=3", "?download=1&download=1"]
)
def test_files_that_cannot_be_asked_for(server: Served, address: str, query: str) -> None:
    failed(server.get(address + query), 400)


@pytest.mark.parametrize("row", ["99", "x", "-1", "%2e%2e", "1e3", "9" * 13, "%D9%A1"])
def test_files_of_no_row(server: Served, row: str) -> None:
    failed(server.get(f"/images/{row}/original"), 404)


class Changed:
    """A served folder of pictures, whose files are changed while it is served."""

    def __init__(self, server: Served, photos: Path, searcher: embedsearch.Searcher) -> None:
        self.server, self.photos, self._searcher = server, photos, searcher

    def get(self, name: str, **headers: str) -> Response:
        row = self._searcher.get(name).row
        return self.server.get(f"/images/{row}/original", **headers)

    def is_gone(self, name: str) -> None:
        for headers in ({}, {"range": "bytes=0-3"}):
            answer = self.get(name, **headers)
            failed(answer, 404)
            assert answer.json["code"] == "file_gone"


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Changed]:
    photos = tmp_path / "photos"
    for seed, name in enumerate("abcdef"):
        paint(photos / f"{name}.png", seed)
    (tmp_path / "secret").write_bytes(b"secret")
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server, embedsearch.open_store(tmp_path / "s.es") as searcher:
        yield Changed(server, photos, searcher)


def test_nothing_else_than_what_was_indexed(changed: Changed, tmp_path: Path) -> None:
    photos = changed.photos
    before = changed.get("a.png").body
    assert before == (photos / "a.png").read_bytes()
    (photos / "a.png").unlink()
    changed.is_gone("a.png")
    os.mkfifo(photos / "a.png")
    changed.is_gone("a.png")
    (photos / "a.png").unlink()
    (photos / "a.png").mkdir()
    changed.is_gone("a.png")
    (photos / "a.png").rmdir()
    (photos / "a.png").symlink_to(tmp_path / "secret")
    changed.is_gone("a.png")
    (photos / "a.png").unlink()
    (photos / "a.png").symlink_to("/dev/zero")
    changed.is_gone("a.png")
    (photos / "a.png").unlink()
    (photos / "a.png").write_bytes(before)
    assert changed.get("a.png").body == before
    (photos / "b.png").write_bytes(b"another")
    changed.is_gone("b.png")


def test_a_file_of_the_same_size_and_time_is_another_one(changed: Changed) -> None:
    path = changed.photos / "c.png"
    before, facts = changed.get("c.png"), path.stat()
    assert before.status == 200
    with path.open("r+b") as file:
        file.write(b"\0")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    changed.is_gone("c.png")


def test_a_folder_that_became_a_link(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    paint(photos / "deep" / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        assert server.get("/images/0/original").status == 200
        shutil.move(photos / "deep", tmp_path / "away")
        (tmp_path / "away" / "a.png").write_bytes(b"secret")
        (photos / "deep").symlink_to(tmp_path / "away")
        failed(server.get("/images/0/original"), 404)


@pytest.mark.parametrize(
    "name",
    [
        "a b.jpg",
        'quote".jpg',
        "new\nline.jpg",
        "größe 日本.jpg",
        "semi;colon, comma.jpg",
        "back\\slash.jpg",
        "\u202egpj.exe.jpg",
        "x" * 240 + ".jpg",
        "%41.jpg",
        "..jpg",
    ],
)
def test_names_of_files(tmp_path: Path, name: str) -> None:
    from embedsearch.web.routes.originals import disposition

    header = disposition(f"folder/{name}", is_saved=True)
    header.encode("ascii")
    assert not set(header) & set("\r\n\\\0") and header.count('"') == 2
    _, plain, full = header.split("; ", 2)[0], *header.split("; ")[1:]
    assert plain.startswith('filename="') and "/" not in plain
    assert full.startswith("filename*=UTF-8''") and " " not in full
    from urllib.parse import unquote

    given = unquote(full.removeprefix("filename*=UTF-8''"))
    if not set(name) & set('"\n\\\u202e') and name != "..jpg":
        assert given == name
    assert len(given.encode()) <= 255 and "\n" not in given and "\u202e" not in given


FORMATS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}


def test_types_are_those_of_the_bytes(tmp_path: Path) -> None:
    """Whatever a file is called, no browser runs it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    image = Image.open(SAMPLES / NAME).convert("RGB").resize((60, 50))
    for name in FORMATS:
        image.save(photos / f"{name}.html.jpg", name)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        images = server.get("/images").json["images"]
        assert {image["format"] for image in images} == set(FORMATS)
        for one in images:
            answer = server.get(f"/images/{one['row']}/original", accept_encoding="gzip")
            assert answer.body == (photos / one["key"]).read_bytes()
            assert answer.headers["content-type"] == FORMATS[one["format"]]


@pytest.mark.parametrize("kind", [*MAKERS, "a.parquet"])
def test_members_of_archives(kind: str, tmp_path: Path) -> None:
    for seed in range(3):
        paint(tmp_path / "p" / f"{seed}.bmp", seed, (200, 160))  # these get smaller when packed
    shutil.copy(SAMPLES / NAME, tmp_path / "p" / "clock.jpg")
    members = members_of(tmp_path / "p")
    made = make_parquet if kind == "a.parquet" else MAKERS[kind]
    archive = made(tmp_path / kind, members)
    embedsearch.index(archive, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        images = server.get("/images").json["images"]
        assert len(images) == 4
        contents = dict(members)
        for one in images:
            content = contents[Path(one["key"]).name] if kind != "a.parquet" else None
            answer = server.get(f"/images/{one['row']}/original")
            assert answer.status == 200
            assert answer.body in contents.values()
            assert content is None or answer.body == content
            part = server.get(f"/images/{one['row']}/original", range="bytes=5-20")
            assert part.body == answer.body[5:21]
        archive.write_bytes(archive.read_bytes()[:100])
        failed(server.get("/images/0/original"), 404)


def test_a_file_on_another_server(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp, as https:// does")
    paint(tmp_path / "web" / "a.png", 1)
    paint(tmp_path / "web" / "b.png", 2)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        embedsearch.index(url, store=tmp_path / "s.es", model="packaged")
        with served(tmp_path / "s.es") as server:
            answer = server.get("/images/0/original")
            assert (answer.status, answer.body) == (200, (tmp_path / "web/a.png").read_bytes())
            part = server.get("/images/0/original", range="bytes=1-3")
            assert (part.status, part.body) == (206, answer.body[1:4])
            shutil.copy(tmp_path / "web" / "b.png", tmp_path / "web" / "a.png")
            failed(server.get("/images/0/original"), 404)
        web.shutdown()


def test_imported_vectors_have_no_file(tmp_path: Path) -> None:
    vectors = np.eye(4, 8, dtype=np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "paths.txt").write_text("a.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    import_vectors(
        tmp_path / "v.npy",
        model="m",
        paths=tmp_path / "paths.txt",
        root=tmp_path,
        store=tmp_path / "s.es",
    )
    (tmp_path / "a.jpg").write_bytes(b"secret")
    with served(tmp_path / "s.es") as server:
        answer = server.get("/images/0/original")
        failed(answer, 404)
        assert answer.json["code"] == "no_file"


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """And is compared once: a part of it comes at once."""
    photos = tmp_path / "photos"
    path = paint(photos / "a.png", 1)
    with path.open("ab") as file:  # what follows a picture is no part of it
        file.write(os.urandom(1 << 20) * 150)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        server.get("/images/0/original", range="bytes=0-0")
        before = server.resident_mib()
        with server.connect() as connection:
            host = f"localhost:{server.port}"
            request = (
                f"GET /images/0/original HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            )
            connection.sendall(request.encode())
            sha256, most, size = hashlib.sha256(), 0.0, 0
            answer = connection.makefile("rb")
            assert answer.readline().startswith(b"HTTP/1.1 200 ")
            while answer.readline().strip():
                pass
            while piece := answer.read(1 << 20):
                sha256.update(piece)
                if size % (32 << 20) < len(piece):
                    most = max(most, server.resident_mib())
                size += len(piece)
        assert size == path.stat().st_size
        assert sha256.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
        assert most - before < 60


def test_a_file_that_changes_on_the_way_is_broken_off(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    path = paint(photos / "a.png", 1)
    with path.open("ab") as file:
        file.write(os.urandom(1 << 20) * 40)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server, server.connect() as connection:
        host = f"localhost:{server.port}"
        connection.sendall(f"GET /images/0/original HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        got = len(connection.recv(1000))
        with path.open("r+b") as file:
            file.write(b"changed")
        while piece := connection.recv(1 << 20):
            got += len(piece)
        assert got < path.stat().st_size
        assert server.get("/health").status == 200
    assert not any("Traceback" in line for line in server.log), server.log
