"""What `embedsearch serve` answers: what Python gives, its page, its images, its document."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch import Crop, Key, Mix
from embedsearch.core.config import SearchConfig
from tests.support.answers import CLOCK, failed, shortened
from tests.support.library import paint
from tests.support.serving import Response, Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


BOUNDARY = b"--x\r\ncontent-disposition: form-data; name=image; filename=../../x\r\n\r\n"
# Ways to ask for what is near CLOCK, given its vector and its row.
WAYS: dict[str, Callable[[Served, list[float], int], Response]] = {
    "an image": lambda server, vector, row: server.upload(CLOCK, "?k=7"),
    "a form": lambda server, vector, row: server.request(
        "POST",
        "/search?k=7",
        BOUNDARY + CLOCK + b"\r\n--x--\r\n",
        content_type="multipart/form-data; boundary=x",
    ),
    "a vector": lambda server, vector, row: server.ask(vector=vector, k=7),
    "a key": lambda server, vector, row: server.ask(key="clocks/clocks_1.jpg", k=7),
    "a row": lambda server, vector, row: server.ask(row=row, k=7),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_search_gives_what_python_gives(
    way: str, server: Served, searcher: embedsearch.Searcher
) -> None:
    vector = searcher.embed([CLOCK])[0]
    expected = [hit.to_dict() for hit in searcher.query(CLOCK, k=7)]
    row = expected[0]["row"]
    assert row == searcher.get("clocks/clocks_1.jpg").row
    answer = WAYS[way](server, [float(x) for x in vector], row)
    assert answer.status == 200, answer.body
    hits = answer.json["hits"]
    assert [hit["key"] for hit in hits] == [hit["key"] for hit in expected]
    assert np.allclose([h["score"] for h in hits], [h["score"] for h in expected], atol=2e-4)
    if way == "an image":
        assert hits == expected
    assert expected[0]["metadata"] == {"caption": "<script>alert(1)</script>"}


def test_options_are_those_of_a_search(server: Served, searcher: embedsearch.Searcher) -> None:
    from embedsearch.web.search_request import Options

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
        "rerank": True,
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


PART = Crop(Key(5), 100, 50, 200, 300)
MIX = Mix([Key(5), Key(9)], [Key(20), Key(21)])


@pytest.mark.parametrize(
    ("query", "ask"),
    [
        (PART, lambda server: server.ask(row=5, crop=[100, 50, 200, 300], k=4)),
        (MIX, lambda server: server.ask(row=5, like=[9], unlike=[20, 21], k=4)),
        (MIX, lambda server: server.ask(like=[5, 9], unlike=[20, 21], k=4)),
        (Mix([CLOCK, Key(9)], [Key(20)]), lambda s: s.upload(CLOCK, "?k=4&like=9&unlike=20")),
        (PART, lambda server: server.get("/search?row=5&crop=100,50,200,300&k=4")),
        (MIX, lambda server: server.get("/search?row=5&like=9&unlike=20,21&k=4")),
    ],
    ids=["a part", "a row and marks", "marks", "an image and marks", "GET a part", "GET marks"],
)
def test_parts_and_marks(
    query: Crop | Mix,
    ask: Callable[[Served], Response],
    server: Served,
    searcher: embedsearch.Searcher,
) -> None:
    expected = [hit.to_dict() for hit in searcher.query(query, k=4)]
    assert ask(server).json["hits"] == expected


@pytest.mark.parametrize(
    "body",
    [
        {"unlike": [3]},
        {"row": 1, "crop": [1, 2, 3]},
        {"row": 1, "crop": [0, 0, 0, 5]},
        {"like": [3], "crop": [0, 0, 5, 5]},
        {"vector": [1.0] + [0.0] * 511, "crop": [0, 0, 5, 5]},
        {"row": 1, "like": [1] * 101},
        {"row": 1, "like": [-1]},
        {"row": 1, "like": "1"},
        {"row": 1, "crop": [0, 0, 5, 1e9]},
        {"like": [1], "unlike": [1], "row": None, "k": 0},
    ],
    ids=lambda body: shortened(str(body)),
)
def test_parts_and_marks_that_cannot_be(server: Served, body: dict[str, Any]) -> None:
    failed(server.ask(**body), 400)


def test_parts_and_marks_of_what_is_not_there(server: Served) -> None:
    failed(server.ask(row=1, like=[99]), 404)
    failed(server.ask(row=1, crop=[5000, 5000, 5, 5]), 422)
    failed(server.get("/search?row=99"), 404)


@pytest.mark.parametrize(
    "query",
    ["like=", "like=a", "like=1,", "like=" + "1," * 100 + "1", "unlike=1&unlike=2"],
    ids=shortened,
)
def test_marks_that_cannot_be(server: Served, query: str) -> None:
    failed(server.upload(CLOCK, "?" + query), 400)


@pytest.mark.parametrize(
    "query",
    ["", "?row=", "?row=1&row=2", "?row=-1", "?row=1&url=http://a", "?key=a"],
    ids=lambda query: query or "nothing",
)
def test_links_that_cannot_be(server: Served, query: str) -> None:
    failed(server.get("/search" + query), 400)


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


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {"k": 10}),
        ("?k=3&offset=52", {"k": 3, "offset": 52}),
        ("?k=4&where=format%20%3D%20'PNG'", {"k": 4, "where": "format = 'PNG'"}),
        ("?k=4&offset=99", {"k": 4, "offset": 99}),
        ("?k=4&offset=2&order=-size", {"k": 4, "offset": 2, "order": "-size"}),
    ],
    ids=["as it is", "the end", "a filter", "beyond the end", "an order"],
)
def test_lists(
    server: Served, searcher: embedsearch.Searcher, query: str, options: dict[str, Any]
) -> None:
    expected = searcher.images(**options)
    assert server.get("/images" + query).json == {
        "images": [image.to_dict() for image in expected.images],
        "total": expected.total,
        "generation": searcher.manifest.generation,
    }
    assert searcher.images(3, offset=52).total == 54
    assert len(searcher.images(3, offset=52).images) == 2


@pytest.mark.parametrize(
    "query", ["?k=0", "?k=1001", "?offset=-1", "?where=widht>1", "?where=", "?min_score=1"]
)
def test_lists_that_cannot_be(server: Served, query: str) -> None:
    failed(server.get("/images" + query), 400)


@pytest.mark.parametrize("order", ["", "-", "width", "Path", "--path", "path;", "x" * 200])
def test_orders_that_cannot_be(server: Served, order: str) -> None:
    answer = server.get(f"/images?order={order}")
    failed(answer, 400, "order")
    assert (answer.json["code"], answer.json["field"]) == ("bad_request", "order")


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
    for answer in (form(CLOCK, sec_fetch_site="cross-site"), form(CLOCK)):
        assert (answer.status, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert b"Requests of other sites are not answered" in answer.body
    failed(form(CLOCK, accept="*/*"), 403)


def test_the_page_is_small_and_whole(server: Served) -> None:
    page = server.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    names = re.findall(r'(?:href|src)="(?:\./)?(static/[^"]+)"', page.body.decode())
    parts = [server.get(f"/{name}") for name in dict.fromkeys(names)]
    assert len(parts) > 15 and {part.status for part in parts} == {200}
    assert {part.headers["cache-control"] for part in parts} == {
        "public, max-age=31536000, immutable"
    }
    for part in (page, *parts):
        assert not re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", part.body)
    assert page.body.count(b'<div class="tile ') == 24
    assert b"style=" not in page.body and b"<script>" not in page.body


@pytest.mark.parametrize(
    "name",
    ["", "page.html", "../app.py", "%2e%2e%2fapp.py", "000000000000/css/grid.css", "..%5capp.py"],
    ids=lambda name: name or "nothing",
)
def test_the_page_has_no_other_parts(server: Served, name: str) -> None:
    from embedsearch.web import assets

    failed(server.get(f"/static/{name}"), 404)
    folder = assets.folder()
    failed(server.get(f"/{folder}{name}"), 404)


def test_an_image(server: Served, searcher: embedsearch.Searcher) -> None:
    record = searcher.get("clocks/clocks_1.jpg")
    assert server.get(f"/images/{record.row}").json == record.to_dict()


@pytest.mark.parametrize(("query", "side"), [("", 256), ("?side=64", 64), ("?side=1024", 640)])
def test_thumbnails(server: Served, searcher: embedsearch.Searcher, query: str, side: int) -> None:
    record = searcher.get("clocks/clocks_1.jpg")
    answer = server.get(f"/images/{record.row}/thumbnail{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(answer.body)).size) == side


@pytest.mark.parametrize(
    "query",
    [
        *("?side=0", "?side=1025", "?side=x", "?side=1&side=2", "?size=3", "?side=", "?fill="),
        *("?fill=0", "?fill=1025", "?fill=-1", "?fill=1.5", "?fill=9&side=9", "?fill=1&fill=1"),
    ],
)
def test_thumbnails_that_cannot_be(
    server: Served, searcher: embedsearch.Searcher, query: str
) -> None:
    record = searcher.get("clocks/clocks_1.jpg")
    failed(server.get(f"/images/{record.row}/thumbnail{query}"), 400)


def test_the_document_describes_what_is_answered(server: Served) -> None:
    from embedsearch.web.answers import ErrorAnswer
    from embedsearch.web.routes.search import SearchAnswer
    from embedsearch.web.routes.store import Health, StoreInfo

    document = server.get("/openapi.json").json
    assert set(document["paths"]) == {
        *("/search", "/images", "/images/{row}", "/images/{row}/thumbnail"),
        *("/info", "/health", "/livez", "/readyz", "/metrics", "/images/{row}/original"),
        *("/export/csv", "/export/zip", "/values/{column}", "/folders"),
        *("/copies", "/copies/script", "/groups", "/groups/{number}", "/outliers", "/map"),
    }
    assert document["servers"] == [{"url": "."}], "below whatever path a proxy shows it"
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


@pytest.mark.parametrize(
    ("target", "fields"), [("/health", {}), ("/nothing", {}), ("/", {"host": "evil"})]
)
def test_every_answer_carries_the_headers_of_a_careful_server(
    server: Served, target: str, fields: dict[str, str]
) -> None:
    headers = server.request("GET", target, None, **fields).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["referrer-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


@pytest.mark.parametrize("target", ["/", "/health", "/images/0/thumbnail", "/nothing"])
def test_head_is_get_without_a_body(server: Served, target: str) -> None:
    whole, head = server.get(target), server.request("HEAD", target)
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers["content-length"] == str(len(whole.body))


def test_answers_are_compressed_for_those_who_can_read_it(server: Served) -> None:
    plain = server.get("/images?k=50")
    packed = server.get("/images?k=50", accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) * 4 < len(plain.body)
    picture = server.get("/images/0/thumbnail", accept_encoding="gzip")
    assert "content-encoding" not in picture.headers
