"""What `embedsearch serve` must not be made to answer: rows, options, bodies, forms, pictures."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
import zlib
from pathlib import Path

import pytest

import embedsearch
from tests.support.answers import CLOCK, failed, shortened
from tests.support.library import paint, wait_for
from tests.support.serving import Response, Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")
JSON = "application/json"


@pytest.mark.parametrize("side", ["", "/thumbnail"], ids=["image", "thumbnail"])
@pytest.mark.parametrize(
    "path",
    [
        *("/image/../../etc/passwd", "/images/../../etc/passwd", "/images/%2e%2e%2fetc%2fpasswd"),
        *("/images/..%5c..%5cetc", "//etc/passwd", "/images/%00", "/etc/passwd", "/images//1"),
        *("/images/-1", "/images/9223372036854775808", "/images/1.5", "/images/", "/images/54"),
        *("/images/1e3", "/images/+1", "/images/%D9%A1", "/images/999999999999", "/images/0x1"),
        "/images/" + "1" * 5000,
    ],
    ids=shortened,
)
def test_only_rows_are_found(server: Served, path: str, side: str) -> None:
    failed(server.get(path + side), 404)


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


@pytest.mark.parametrize(
    "query",
    [
        *("k=1e9", "k=-1", "k=0", "k=NaN", "k=1001", "k=", "k=1&k=2"),
        *("offset=99999999999999999999", "offset=-1"),
        *("min_score=2", "min_score=nan", "min_score=inf", "diverse=2", "expand=1000"),
        *("where=", "where=1%3D", "where=read_csv(%27/etc/passwd%27)", "where=" + "x" * 20_000),
        "where=caption%20%3D%20captoin",
        *("crop=1,2,3", "crop=0,0,0,0", "crop=9,9,1e9,4", "crop=5000,5000,10,10"),
        *("url=http://169.254.169.254/", "url=file:///etc/passwd", "unknown=1"),
    ],
    ids=shortened,
)
def test_options_that_cannot_be(server: Served, query: str) -> None:
    failed(server.upload(CLOCK, "?" + query), 422 if "5000" in query else 400)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'"key"'),
        *(b'{"key": ' * 100_000, b"[" * 100_000),
        *(b'{"row": 1, "row": 2}', b'{"row": 1, "k": NaN}', b'{"row": 1, "k": 1e400}'),
        *(b'{"row": 1, "key": "a"}', b"{}", b'{"row": -1}', b'{"row": 1.5}', b'{"row": "1"}'),
        *(b'{"row": true}', b'{"vector": [1, 2]}', b'{"vector": ["1"]}', b'{"vector": []}'),
        *(b'{"vector": [[1]]}', b'{"vector": 1}', b'{"key": ""}', b'{"key": "\\ud800"}'),
        *(b'{"url": "http://127.0.0.1"}', b'{"row": 1, "url": "file:///etc/passwd"}'),
    ],
    ids=shortened,
)
def test_bodies_that_cannot_be(server: Served, body: bytes) -> None:
    failed(server.request("POST", "/search", body, content_type=JSON), 400)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_vectors_of_what_is_no_number(server: Served, value: str) -> None:
    text = json.dumps({"vector": [0.0] * 511}).replace("]", f", {value}]").encode()
    failed(server.request("POST", "/search", text, content_type=JSON), 400)


def test_other_things_that_cannot_be_asked(server: Served) -> None:
    failed(server.ask(vector=[1.0] * 512), 400, "length 1")
    failed(server.ask(vector=[0.0] * 1_000_000), 413)
    answer = server.request("POST", "/search?k=3", b'{"row": 1}', content_type=JSON)
    failed(answer, 400, "body")
    failed(server.ask(key="../../etc/passwd"), 404)
    failed(server.request("POST", "/search", b"x", content_type="text/plain"), 415)


IMAGE = b"--x\r\ncontent-disposition: form-data; name=image; filename=a\r\n\r\nabc\r\n"
FIELD = b"--x\r\ncontent-disposition: form-data; name=k\r\n\r\n3\r\n"
FORMS = {
    "100,000 images": IMAGE * 100_000 + b"--x--",
    "two images": IMAGE * 2 + b"--x--",
    "no image": FIELD + b"--x--",
    "a field twice": IMAGE + FIELD * 2 + b"--x--",
    "an unknown field": IMAGE + FIELD.replace(b"name=k", b"name=kk") + b"--x--",
    "a field five times": IMAGE + FIELD * 5 + b"--x--",
    "nothing": b"",
    "an end alone": b"--x--",
    "no form": b"nothing",
    "a part without headers": b"--x\r\n\r\n\r\n--x--",
    "a part without a name": IMAGE.replace(b"name=image; ", b""),
    "an image without a file name": (
        b"--x\r\ncontent-disposition: form-data; name=image\r\n\r\nabc\r\n--x--"
    ),
    "a part that is cut off": IMAGE[:40],
    "a form in a form": (
        b"--x\r\ncontent-type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\na\r\n--y--\r\n--x--"
    ),
}


def form(server: Served, body: bytes, kind: str = "multipart/form-data; boundary=x") -> Response:
    return server.request("POST", "/search", body, content_type=kind)


@pytest.mark.parametrize("what", FORMS)
def test_forms_that_cannot_be(server: Served, what: str) -> None:
    failed(form(server, FORMS[what]), 400)


def test_a_form_that_could_be(server: Served) -> None:
    failed(form(server, IMAGE + b"--x--", "multipart/form-data"), 400)
    failed(form(server, IMAGE + b"--x--"), 422)


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def resident_before(server: Served) -> float:
    """Return the server's memory before any picture of those below, in MiB."""
    return server.resident_mib()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (bomb(30_000), "too_large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
        (CLOCK[: len(CLOCK) // 2], "truncated"),
        (b"<svg onload=alert(1)>", "unsupported_format"),
        (b"hello", "not_an_image"),
    ],
    ids=["a bomb", "PostScript", "a half", "SVG", "a word"],
)
def test_pictures_that_cannot_be(
    server: Served, resident_before: float, image: bytes, reason: str
) -> None:
    started = time.monotonic()
    answer = server.upload(image)
    failed(answer, 422)
    assert answer.json["reason"] == reason
    assert time.monotonic() - started < 2
    assert server.resident_mib() < resident_before + 100
    assert server.upload(CLOCK).status == 200


def test_a_picture_of_no_bytes(server: Served) -> None:
    failed(server.upload(b""), 400, "empty")


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
        assert hit["key"] == "caf\\xe9\n\x1b[31m.png", "with the exact bytes beside it"
        assert hit["path"] == hit["key"]
        assert base64.b64decode(hit["path_bytes"]) == os.path.basename(name)
        assert base64.b64decode(hit["full_path_bytes"]) == name
        assert server.get("/images/0/thumbnail").status == 200
