"""`embedsearch serve`: what it answers, and every way in which it must not be made to answer."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import embedsearch
from embedsearch.core.config import SearchConfig
from tests.support.library import REPOSITORY, SAMPLES, paint, run_cli, wait_for
from tests.support.serving import Response, Served, parsed, received, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")
CLOCK = (SAMPLES / "clocks" / "clocks_1.jpg").read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    table = folder / "captions.csv"
    table.write_text("name,caption\nclocks_1.jpg,<script>alert(1)</script>\n")
    path = folder / "s.es"
    embedsearch.index(photos, store=path, model="packaged", metadata=str(table))
    return path


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Served]:
    with served(store, "-v") as running:
        yield running


@pytest.fixture(scope="module")
def searcher(store: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(store) as opened:
        yield opened


def failed(response: Response, status: int, words: str = "") -> None:
    """Check that a request failed as it should, and that the answer betrays nothing."""
    assert response.status == status, response.body[:300]
    text = response.body.decode()
    assert set(response.json) <= {"error", "reason"}
    assert words in text
    assert "Traceback" not in text and "/tmp" not in text and "site-packages" not in text


# What it answers


def test_every_kind_of_search_gives_what_python_gives(
    server: Served, searcher: embedsearch.Searcher
) -> None:
    vector = searcher.embed([CLOCK])[0]
    boundary = b"--x\r\ncontent-disposition: form-data; name=image; filename=../../x\r\n\r\n"
    form = server.request(
        "POST",
        "/search?k=7",
        boundary + CLOCK + b"\r\n--x--\r\n",
        content_type="multipart/form-data; boundary=x",
    )
    expected = [hit.to_dict() for hit in searcher.query(CLOCK, k=7)]
    row = expected[0]["row"]
    assert row == searcher.get("clocks/clocks_1.jpg").row
    for answer in (
        server.upload(CLOCK, "?k=7"),
        form,
        server.ask(vector=[float(x) for x in vector], k=7),
        server.ask(key="clocks/clocks_1.jpg", k=7),
        server.ask(row=row, k=7),
    ):
        assert answer.status == 200, answer.body
        hits = answer.json["hits"]
        assert [hit["key"] for hit in hits] == [hit["key"] for hit in expected]
        assert np.allclose([h["score"] for h in hits], [h["score"] for h in expected], atol=2e-4)
    assert server.upload(CLOCK, "?k=7").json["hits"] == expected
    assert expected[0]["metadata"] == {"caption": "<script>alert(1)</script>"}


def test_options_are_those_of_a_search(server: Served, searcher: embedsearch.Searcher) -> None:
    from embedsearch.web.asked import Options

    assert {name: field.default for name, field in Options.model_fields.items()} == vars(
        SearchConfig()
    )
    options: dict[str, Any] = {
        "k": 5,
        "offset": 1,
        "where": "width > 500",
        "min_score": 0.1,
        "collapse": 0.99,
        "expand": 2,
    }
    expected = [hit.to_dict() for hit in searcher.query(CLOCK, **options)]
    assert expected
    query = "&".join(f"{name}={value}".replace(" ", "%20") for name, value in options.items())
    assert server.upload(CLOCK, "?" + query).json["hits"] == expected
    key = embedsearch.Key("clocks/clocks_1.jpg")
    expected = [hit.to_dict() for hit in searcher.query(key, **options)]
    assert server.ask(key=key.key, **options).json["hits"] == expected
    crop = embedsearch.Crop(CLOCK, 100, 50, 200, 300)
    expected = [hit.to_dict() for hit in searcher.query(crop, k=3)]
    assert server.upload(CLOCK, "?k=3&crop=100,50,200,300").json["hits"] == expected


def test_parts_and_marks(server: Served, searcher: embedsearch.Searcher) -> None:
    from embedsearch import Crop, Key, Mix

    part = Crop(Key(5), 100, 50, 200, 300)
    mix = Mix([Key(5), Key(9)], [Key(20), Key(21)])
    for query, answer in (
        (part, server.ask(row=5, crop=[100, 50, 200, 300], k=4)),
        (mix, server.ask(row=5, like=[9], unlike=[20, 21], k=4)),
        (mix, server.ask(like=[5, 9], unlike=[20, 21], k=4)),
        (Mix([CLOCK, Key(9)], [Key(20)]), server.upload(CLOCK, "?k=4&like=9&unlike=20")),
        (part, server.get("/search?row=5&crop=100,50,200,300&k=4")),
        (mix, server.get("/search?row=5&like=9&unlike=20,21&k=4")),
    ):
        assert answer.json["hits"] == [hit.to_dict() for hit in searcher.query(query, k=4)]
    for body in (
        *({"unlike": [3]}, {"row": 1, "crop": [1, 2, 3]}, {"row": 1, "crop": [0, 0, 0, 5]}),
        *(
            {"like": [3], "crop": [0, 0, 5, 5]},
            {"vector": [1.0] + [0.0] * 511, "crop": [0, 0, 5, 5]},
        ),
        *({"row": 1, "like": [1] * 101}, {"row": 1, "like": [-1]}, {"row": 1, "like": "1"}),
        *({"row": 1, "crop": [0, 0, 5, 1e9]}, {"like": [1], "unlike": [1], "row": None, "k": 0}),
    ):
        failed(server.ask(**body), 400)
    failed(server.ask(row=1, like=[99]), 404)
    failed(server.ask(row=1, crop=[5000, 5000, 5, 5]), 422)
    for query in ("like=", "like=a", "like=1,", "like=" + "1," * 100 + "1", "unlike=1&unlike=2"):
        failed(server.upload(CLOCK, "?" + query), 400)
    for query in ("", "?row=", "?row=1&row=2", "?row=-1", "?row=1&url=http://a", "?key=a"):
        failed(server.get("/search" + query), 400)
    failed(server.get("/search?row=99"), 404)


def test_a_part_of_an_image_that_has_gone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(4):
        paint(photos / f"{seed}.png", seed)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        assert server.ask(row=0, crop=[0, 0, 9, 9]).status == 200
        (photos / "0.png").unlink()
        failed(server.ask(row=0, crop=[0, 0, 9, 9]), 422, "the image of row 0")
        assert server.ask(row=0).status == 200  # its vector is there still


def test_lists(server: Served, searcher: embedsearch.Searcher) -> None:
    for query, options in (
        ("", {"k": 10}),
        ("?k=3&offset=52", {"k": 3, "offset": 52}),
        ("?k=4&where=format%20%3D%20'PNG'", {"k": 4, "where": "format = 'PNG'"}),
        ("?k=4&offset=99", {"k": 4, "offset": 99}),
    ):
        expected = searcher.images(**options)  # type: ignore[arg-type]
        assert server.get("/images" + query).json == {
            "images": [image.to_dict() for image in expected.images],
            "total": expected.total,
        }
    assert searcher.images(3, offset=52).total == 54
    assert len(searcher.images(3, offset=52).images) == 2
    for query in ("?k=0", "?k=1001", "?offset=-1", "?where=widht>1", "?where=", "?min_score=1"):
        failed(server.get("/images" + query), 400)


def test_a_browser_without_scripts(server: Served, searcher: embedsearch.Searcher) -> None:
    """Its form sends no referrer, and for that `Origin: null`."""

    def form(image: bytes, k: str = "5", **headers: str) -> Response:
        parts = [
            b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n' + image,
            b'--x\r\ncontent-disposition: form-data; name="where"\r\n\r\n',
            b'--x\r\ncontent-disposition: form-data; name="k"\r\n\r\n' + k.encode(),
            b"--x--",
        ]
        browser = {"accept": "text/html,*/*;q=0.8", "origin": "null", **headers}
        kind = "multipart/form-data; boundary=x"
        body = b"\r\n".join(parts)
        return server.request("POST", "/search", body, content_type=kind, **browser)

    answer = form(CLOCK, sec_fetch_site="same-origin")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    rows = [hit.row for hit in searcher.query(CLOCK, k=5)]
    assert [int(row) for row in re.findall(rb"/search\?row=(\d+)&amp;k=5", answer.body)] == rows
    more = server.get(f"/search?row={rows[1]}&k=5", accept="text/html")
    assert f"/images/{rows[1]}/thumbnail".encode() in more.body
    for status, answer in (
        (422, form(b"no image", sec_fetch_site="same-origin")),
        (400, form(CLOCK, k="<b>", sec_fetch_site="same-origin")),
        (404, server.get("/search?row=99", accept="text/html")),
    ):
        assert (answer.status, answer.headers["content-type"]) == (
            status,
            "text/html; charset=utf-8",
        )
        assert b'class="error"' in answer.body and b"<b>" not in answer.body
    failed(form(CLOCK, sec_fetch_site="cross-site"), 403)
    failed(form(CLOCK), 403)


def test_the_page_is_small_and_whole(server: Served) -> None:
    page = server.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    parts = [server.get(f"/static/{name}") for name in ("page.css", "page.js", "icon.svg")]
    assert [part.status for part in parts] == [200] * 3
    assert sum(len(part.body) for part in (page, *parts)) <= 60_000
    for part in (page, *parts):
        assert not re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", part.body)
    assert b"style=" not in page.body and b"<script>" not in page.body
    for name in ("", "page.html", "../app.py", "%2e%2e%2fapp.py", "page.css/", "..%5capp.py"):
        failed(server.get(f"/static/{name}"), 404)


def test_images(server: Served, searcher: embedsearch.Searcher) -> None:
    record = searcher.get("clocks/clocks_1.jpg")
    assert server.get(f"/images/{record.row}").json == record.to_dict()
    for query, side in (("", 256), ("?side=64", 64), ("?side=1024", 640)):
        answer = server.get(f"/images/{record.row}/thumbnail{query}")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert max(Image.open(io.BytesIO(answer.body)).size) == side
    for query in ("?side=0", "?side=1025", "?side=x", "?side=1&side=2", "?size=3", "?side=%D9%A1"):
        failed(server.get(f"/images/{record.row}/thumbnail{query}"), 400)


def test_the_document_describes_what_is_answered(server: Served) -> None:
    from embedsearch.web.app import ErrorAnswer, Health, SearchAnswer, StoreInfo

    document = server.get("/openapi.json").json
    assert set(document["paths"]) == {
        *("/search", "/images", "/images/{row}", "/images/{row}/thumbnail"),
        *("/info", "/health", "/metrics"),
    }
    assert set(document["paths"]["/search"]["post"]["requestBody"]["content"]) == {
        *("application/json", "image/*", "multipart/form-data")
    }
    SearchAnswer.model_validate(server.upload(CLOCK).json)
    Health.model_validate(server.get("/health").json)
    info = StoreInfo.model_validate(server.get("/info").json)
    assert (info.images, info.model, info.dim) == (54, "packaged", 512)
    ErrorAnswer.model_validate(server.get("/images/99").json)
    with pytest.raises(ValueError, match="hits"):
        SearchAnswer.model_validate(server.get("/health").json)


def test_metrics_count(server: Served) -> None:
    def count() -> float:
        line = (
            r'embedsearch_requests_total\{method="GET",route="/images/\{row\}",status="404"\} (.*)'
        )
        match = re.search(line, server.get("/metrics").body.decode())
        return float(match[1]) if match else 0.0

    before = count()
    for _ in range(3):
        assert server.get("/images/77").status == 404
    assert count() == before + 3
    text = server.get("/metrics").body.decode()
    assert "embedsearch_images 54.0" in text and "embedsearch_degraded 0.0" in text


def test_every_answer_carries_the_headers_of_a_careful_server(server: Served) -> None:
    for answer in (server.get("/health"), server.get("/nothing"), server.get("/", host="evil")):
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers


# Who may ask


def test_other_host_names_are_refused(server: Served) -> None:
    for host in ("evil.example", "localhost.evil.com", "127.0.0.1.nip.io", "a@localhost", "[::2]"):
        failed(server.get("/health", host=host), 403)
    line = b"GET /health HTTP/1.1\r\nconnection: close\r\n"
    assert parsed(server.raw(line + b"host:\r\n\r\n")).status == 403
    assert parsed(server.raw(line + b"\r\n")).status == 400
    assert parsed(server.raw(line + b"host: localhost\r\nhost: localhost\r\n\r\n")).status == 400
    port = server.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
        assert server.get("/health", host=host).status == 200


def test_other_sites_are_refused(server: Served) -> None:
    body = b'{"row": 1}'
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ):
        answer = server.request("POST", "/search", body, content_type="application/json", **headers)
        failed(answer, 403)
    origin = f"http://localhost:{server.port}"
    answer = server.request("POST", "/search", body, content_type="application/json", origin=origin)
    assert answer.status == 200
    assert server.request("OPTIONS", "/search").status == 405


def test_a_token_is_asked_for(store: Path) -> None:
    done = run_cli("serve", "--store", store, "--host", "0.0.0.0")
    assert (done.returncode, "--token" in done.stderr) == (2, True)
    assert run_cli("serve", "--store", store, "--token", "short").returncode == 2
    arguments = ("--host", "0.0.0.0", "--token", "auto", "--allow-host", "photos.lan", "-v")
    with served(store, *arguments) as server:
        token = server.url.partition("token=")[2]
        assert len(token) >= 32
        assert server.get("/health").status == 200
        assert server.get("/health", host="0.0.0.0").status == 403
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "embedsearch_token=x"}):
            failed(server.get("/info", **headers), 401)
            failed(server.request("POST", "/search", b"{}", **headers), 401)
        failed(server.get("/info?token=wrong"), 401)
        failed(
            server.get(
                "/info?token=é".encode().decode("latin-1").encode("ascii", "replace").decode()
            ),
            401,
        )
        assert server.get("/info", authorization=f"Bearer {token}", host="photos.lan").status == 200
        moved = server.get(f"//info?token={token}&side=3")
        assert (moved.status, moved.headers["location"]) == (303, "/info?side=3")
        cookie = moved.headers["set-cookie"]
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert server.get("/info", cookie=f"embedsearch_token={token}").status == 200
    server._reader.join(10)
    assert any("/info" in line for line in server.log)
    assert not any(token in line for line in server.log)


# What can be asked


def test_only_rows_are_found(server: Served) -> None:
    for path in (
        *("/image/../../etc/passwd", "/images/../../etc/passwd", "/images/%2e%2e%2fetc%2fpasswd"),
        *("/images/..%5c..%5cetc", "//etc/passwd", "/images/%00", "/etc/passwd", "/images//1"),
        *("/images/-1", "/images/9223372036854775808", "/images/1.5", "/images/", "/images/54"),
        *("/images/1e3", "/images/+1", "/images/%D9%A1", "/images/999999999999", "/images/0x1"),
        "/images/" + "1" * 5000,
    ):
        failed(server.get(path), 404)
        failed(server.get(path + "/thumbnail"), 404)


def test_what_became_of_a_file_is_never_shown(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(4):
        paint(photos / f"{seed}.png", seed)
    secret = paint(tmp_path / "secret.png", 99)
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged")
    with embedsearch.open_store(store) as searcher:
        rows = [searcher.get(f"{seed}.png").row for seed in range(4)]
    (photos / "1.png").unlink()
    (photos / "1.png").symlink_to(secret)
    (photos / "2.png").write_bytes(b"password")
    (photos / "3.png").unlink()
    with served(store) as server:
        assert server.get(f"/images/{rows[0]}/thumbnail").status == 200
        for row in rows[1:]:
            failed(server.get(f"/images/{row}/thumbnail"), 404)
        (photos / "3.png").write_bytes(secret.read_bytes())
        embedsearch.index(photos, store=store)
        wait_for(lambda: server.get("/health").json["generation"] > 2)
        failed(server.get(f"/images/{rows[2]}"), 404)  # the row has gone
        failed(server.ask(row=rows[2]), 404)


def test_options_that_cannot_be(server: Served) -> None:
    for query in (
        *(
            "k=1e9",
            "k=-1",
            "k=0",
            "k=NaN",
            "k=1001",
            "k=",
            "k=1&k=2",
            "offset=99999999999999999999",
        ),
        *("offset=-1", "min_score=2", "min_score=nan", "min_score=inf", "diverse=2", "expand=1000"),
        *("where=", "where=1%3D", "where=read_csv(%27/etc/passwd%27)", "where=" + "x" * 20_000),
        *("crop=1,2,3", "crop=0,0,0,0", "crop=9,9,1e9,4", "crop=5000,5000,10,10"),
        *("url=http://169.254.169.254/", "url=file:///etc/passwd", "unknown=1"),
    ):
        failed(server.upload(CLOCK, "?" + query), 422 if "5000" in query else 400)
    failed(server.upload(CLOCK, "?where=caption%20%3D%20captoin"), 400)


def test_bodies_that_cannot_be(server: Served) -> None:
    nested = b'{"key": ' * 100_000
    for body in (
        *(b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'"key"', nested, b"[" * 100_000),
        *(b'{"row": 1, "row": 2}', b'{"row": 1, "k": NaN}', b'{"row": 1, "k": 1e400}'),
        *(b'{"row": 1, "key": "a"}', b"{}", b'{"row": -1}', b'{"row": 1.5}', b'{"row": "1"}'),
        *(b'{"row": true}', b'{"vector": [1, 2]}', b'{"vector": ["1"]}', b'{"vector": []}'),
        *(b'{"vector": [[1]]}', b'{"vector": 1}', b'{"key": ""}', b'{"key": "\\ud800"}'),
        *(b'{"url": "http://127.0.0.1"}', b'{"row": 1, "url": "file:///etc/passwd"}'),
    ):
        failed(server.request("POST", "/search", body, content_type="application/json"), 400)
    for value in ("NaN", "Infinity", "1e999"):
        text = json.dumps({"vector": [0.0] * 511}).replace("]", f", {value}]").encode()
        failed(server.request("POST", "/search", text, content_type="application/json"), 400)
    failed(server.ask(vector=[1.0] * 512), 400, "length 1")
    failed(server.ask(vector=[0.0] * 1_000_000), 413)
    answer = server.request("POST", "/search?k=3", b'{"row": 1}', content_type="application/json")
    failed(answer, 400, "body")
    failed(server.ask(key="../../etc/passwd"), 404)
    failed(server.request("POST", "/search", b"x", content_type="text/plain"), 415)


def test_forms_that_cannot_be(server: Served) -> None:
    def form(body: bytes, kind: str = "multipart/form-data; boundary=x") -> Response:
        return server.request("POST", "/search", body, content_type=kind)

    part = b"--x\r\ncontent-disposition: form-data; name=image; filename=a\r\n\r\nabc\r\n"
    field = b"--x\r\ncontent-disposition: form-data; name=k\r\n\r\n3\r\n"
    for body in (
        *(
            part * 100_000 + b"--x--",
            part * 2 + b"--x--",
            field + b"--x--",
            part + field * 2 + b"--x--",
        ),
        *(part + field.replace(b"name=k", b"name=kk") + b"--x--", part + field * 5 + b"--x--"),
        *(b"", b"--x--", b"nothing", b"--x\r\n\r\n\r\n--x--", part.replace(b"name=image; ", b"")),
        b"--x\r\ncontent-disposition: form-data; name=image\r\n\r\nabc\r\n--x--",
        part[:40],
        b"--x\r\ncontent-type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\na\r\n--y--\r\n--x--",
    ):
        failed(form(body), 400)
    failed(form(part + b"--x--", "multipart/form-data"), 400)
    failed(form(part + b"--x--"), 422)


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_pictures_that_cannot_be(server: Served) -> None:
    before = server.resident_mib()
    for image, reason in (
        (bomb(30_000), "too_large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
        (CLOCK[: len(CLOCK) // 2], "truncated"),
        (b"<svg onload=alert(1)>", "unsupported_format"),
        (b"hello", "not_an_image"),
    ):
        started = time.monotonic()
        answer = server.upload(image)
        failed(answer, 422)
        assert answer.json["reason"] == reason
        assert time.monotonic() - started < 2
    failed(server.upload(b""), 400, "empty")
    assert server.resident_mib() < before + 100
    assert server.upload(CLOCK).status == 200


def test_text_of_others_is_text(server: Served, store: Path) -> None:
    answer = server.ask(key="clocks/clocks_1.jpg", k=1)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    failed(server.ask(key="<img src=x onerror=alert(1)>"), 404)


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    name = os.fsencode(photos) + b"/caf\xe9\n\x1b[31m.png"
    paint(photos / "a.png", 1)
    (photos / "a.png").rename(os.fsdecode(name))
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        (hit,) = server.ask(row=0).json["hits"]
        assert os.fsencode(hit["key"]) == os.path.basename(name)
        assert server.get("/images/0/thumbnail").status == 200


# How it is asked


def test_lengths_that_cannot_be(server: Served) -> None:
    def post(*fields: str) -> Response:
        lines = ["POST /search HTTP/1.1", "host: localhost", "content-type: image/png", *fields]
        with server.connect() as connection:  # nothing of a body is sent, and none waited for
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            return parsed(received(connection))

    started = time.monotonic()
    assert post("content-length: 22020096").status == 413
    assert post("content-length: 1000000000000").status == 413
    assert post("content-length: -1").status == 400
    assert post("content-length: 1, 2").status == 400
    assert post("content-length: 0x10").status == 400
    assert post().status == 411
    assert post("content-length: 3", "transfer-encoding: chunked").status == 400
    assert post("transfer-encoding: gzip").status in {400, 501}
    assert time.monotonic() - started < 5
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = b"POST /search HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    assert parsed(server.raw(head + chunk * 21)).status == 413
    assert (
        parsed(
            server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc")
        ).status
        == 400
    )


def test_lines_that_cannot_be(server: Served) -> None:
    host = b"host: localhost\r\nconnection: close\r\n\r\n"
    for request, statuses in (
        (b"TRACE /search HTTP/1.1\r\n" + host, {405}),
        (b"PUT /search HTTP/1.1\r\n" + host, {405}),
        (b"DELETE /images/1 HTTP/1.1\r\n" + host, {405}),
        (b"BREW /health HTTP/1.1\r\n" + host, {405}),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + host, {400, 414}),
        (b"GET /health\r\n\r\n", {400}),
        (b"GET /health HTTP/99\r\n" + host, {400}),
        (bytes(range(256)) * 16, {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nx: " + b"a" * 60_000 + b"\r\n" + host, {431}),
        (b"GET /health HTTP/1.1\r\nif-none-match: " + b"a" * 60_000 + b"\r\n" + host, {431}),
        (b"GET /health HTTP/1.1\r\nrange: bytes=" + b"0-," * 1000 + b"\r\n" + host, {200}),
        (b"GET /health HTTP/1.1\r\nx y: 1\r\n" + host, {400}),
        (b"GET /health HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n" + host, {200}),
    ):
        answer = parsed(server.raw(request))
        assert answer.status in statuses, (request[:60], answer.status)
        assert b"Traceback" not in answer.body
    assert server.get("/health").status == 200


def test_a_path_cannot_write_lines_into_the_log(server: Served) -> None:
    server.get("/images/%0d%0aembedsearch:%20forged%1b[31m")
    wait_for(lambda: any("forged" in line for line in server.log))
    lines = [line for line in server.log if "forged" in line]
    assert all("\\r\\n" in line and "\x1b" not in line for line in lines)


def test_slow_clients_are_cut_off_and_others_served(store: Path) -> None:
    with served(store, headers_s=1.5, body_s=2.0, connections=300) as server:
        idle = [server.connect() for _ in range(100)]
        head = b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        slow = []
        for number in range(100):
            connection = server.connect()
            length = b"transfer-encoding: chunked" if number % 2 else b"content-length: 1000"
            connection.sendall(head + length + b"\r\n\r\n" + b"1\r\nx\r\n")
            slow.append(connection)
        half = server.connect()
        half.sendall(b"GET /health HT")
        started = time.monotonic()
        assert server.get("/health").status == 200
        assert server.upload(CLOCK, "?k=1").json["hits"][0]["key"] == "clocks/clocks_1.jpg"
        assert time.monotonic() - started < 1
        for connection in (*slow, *idle, half):
            connection.settimeout(10)
            assert parsed(received(connection)).status == 408
            connection.close()
        assert time.monotonic() - started < 8
        assert server.get("/health").status == 200


def test_too_many_connections_are_told(store: Path) -> None:
    with served(store, connections=20) as server:
        held = [server.connect() for _ in range(20)]
        time.sleep(0.3)
        assert parsed(server.raw(b"")).status == 503
        for connection in held:
            connection.close()
        wait_for(
            lambda: server.raw(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")[9:12] == b"200"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_no_descriptor_and_no_space_left(store: Path) -> None:
    with served(store) as server:
        _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1000, most))
        full = server.upload(CLOCK)
        assert (full.status, full.json) == (
            503,
            {"error": "this cannot be answered now: see the server's log"},
        )
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
        assert server.upload(CLOCK).status == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (48, 48))
        held = [server.connect() for _ in range(60)]
        time.sleep(2.5)  # it tries again, and fails again
        for connection in held:
            connection.close()
        assert server.upload(CLOCK).status == 200
        time.sleep(1.5)  # until it has stopped trying
    server._reader.join(10)
    assert [line.split(": ", 1)[1] for line in server.log] == [
        "POST /search: an image cannot be handed to its decoder: [Errno 27] File too large\n",
        "socket.accept() out of system resource: [Errno 24] Too many open files\n",
    ]


def test_a_client_that_takes_no_answer_is_cut_off(store: Path) -> None:
    with served(store, answer_s=1.0, idle_s=60) as server:
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
            ended = False
            deadline = time.monotonic() + 20
            connection.settimeout(0.2)
            while not ended and time.monotonic() < deadline:
                try:
                    connection.sendall(line * 20)
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert ended
        assert server.get("/health").status == 200


def test_eight_run_and_some_wait(store: Path) -> None:
    with served(store, running=2, waiting=4) as server:
        answers: list[Response] = []

        def ask() -> None:
            answers.append(server.upload(CLOCK))

        threads = [threading.Thread(target=ask) for _ in range(60)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        assert server.get("/health").status == 200
        assert time.monotonic() - started < 1
        for thread in threads:
            thread.join()
        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 503} and counts[200] >= 6
        busy = [answer for answer in answers if answer.status == 503]
        assert all(answer.headers["retry-after"] == "1" for answer in busy)
        assert server.upload(CLOCK).status == 200


def test_many_at_once_get_their_own_answers(server: Served, searcher: embedsearch.Searcher) -> None:
    pictures = sorted(SAMPLES.glob("*/*.jpg"))[:16]
    expected = {path: searcher.query(path, k=3)[1].key for path in pictures}
    with ThreadPoolExecutor(16) as pool:
        jobs = [
            (path, pool.submit(server.upload, path.read_bytes(), "?k=3")) for path in pictures * 4
        ]
        for path, job in jobs:
            assert job.result().json["hits"][1]["key"] == expected[path]


def test_an_answer_does_not_wait_for_the_network(server: Served) -> None:
    """A server that leaves Nagle's algorithm on takes 40 ms for each."""
    times = []
    with server.connect() as connection:
        for _ in range(20):
            started = time.monotonic()
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
            times.append(time.monotonic() - started)
    assert sorted(times)[10] < 0.02


# What becomes of the store


def test_a_store_that_changes_is_damaged_and_goes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(6):
        paint(photos / f"{seed}.png", seed)
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged")
    with served(store) as server:
        paint(photos / "6.png", 6)
        embedsearch.index(photos, store=store)
        wait_for(lambda: server.get("/info").json["images"] == 7)
        paint(photos / "7.png", 7)
        embedsearch.index(photos, store=store)
        for path in (store / "manifests").iterdir():
            path.write_bytes(b"{}")
        wait_for(lambda: server.get("/health").json["status"] == "degraded")
        known = server.get("/info").json["images"]
        assert len(server.ask(row=0, k=10).json["hits"]) == known >= 7
        shutil.rmtree(store)
        wait_for(lambda: server.get("/health").json["status"] == "degraded")
        assert len(server.ask(row=0, k=10).json["hits"]) == known
        assert server.get("/images/0/thumbnail").status == 200
        embedsearch.index(photos, store=store, model="packaged")
        wait_for(lambda: server.get("/health").json["status"] == "ok")
        assert server.get("/info").json["images"] == 8
    server._reader.join(10)
    assert sum("still answering" in line for line in server.log) >= 1


def test_vectors_made_elsewhere(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float32)
    np.save(tmp_path / "v.npy", rows)
    (tmp_path / "paths.txt").write_text("a.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    done = run_cli(
        *("import", tmp_path / "v.npy", "--paths", tmp_path / "paths.txt", "--model", "other"),
        *("--root", tmp_path, "--store", tmp_path / "s.es"),
    )
    assert done.returncode == 0, done.stderr
    with served(tmp_path / "s.es") as server:
        assert server.ask(vector=[0, 1, 0, 0], k=1).json["hits"][0]["key"] == "b.jpg"
        failed(server.upload(CLOCK), 400, "made elsewhere")
        assert server.get("/info").json["takes_images"] is False


def test_a_store_whose_weights_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "mine.safetensors"
    packaged = load_file(
        next((REPOSITORY / "embedsearch" / "network" / "packaged").glob("*.safetensors"))
    )
    save_file({name: 0.99 * tensor for name, tensor in packaged.items()}, weights)
    paint(tmp_path / "photos" / "a.png", 1)
    embedsearch.index(tmp_path / "photos", store=tmp_path / "s.es", model=str(weights))
    weights.unlink()
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "empty"))
    with served(tmp_path / "s.es") as server:
        assert [hit["key"] for hit in server.ask(row=0).json["hits"]] == ["a.png"]
        failed(server.upload(CLOCK), 503, "log")
        assert server.get("/health").status == 200
        assert server.get("/info").json["takes_images"] is False  # and the page says so
    assert any("only keys and vectors" in line for line in server.first_lines)


def test_an_empty_store(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"no picture")
    run_cli("index", photos, "--store", tmp_path / "s.es", "--model", "packaged")
    with served(tmp_path / "s.es") as server:
        assert server.upload(CLOCK).json == {"hits": []}
        assert server.get("/info").json["images"] == 0


# How it starts and ends


def test_a_port_in_use(server: Served, store: Path) -> None:
    done = run_cli("serve", "--store", store, "--port", str(server.port))
    assert done.returncode == 2
    assert f"port {server.port}: Address already in use" in done.stderr


def test_it_ends_when_told(store: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with served(store) as server:
            assert server.upload(CLOCK).status == 200
            server.process.send_signal(number)
            assert server.process.wait(10) in {130, -number}


def test_without_its_libraries_it_says_so(store: Path) -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from embedsearch.cli.entry import run\n"
        f"sys.exit(run(['serve', '--store', {str(store)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip install 'embedsearch[serve]'" in done.stderr
