"""An error says by a code what it is, and names the option that is wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from embedsearch.core.errors import FilterTooSlow
from tests.support.answers import CLOCK, failed
from tests.support.serving import Response, Served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

PATHS = ["/images?where=", "/search?row=1&where=", "/values/width?where=", "/folders?where="]


def told(answer: Response) -> tuple[str, str | None]:
    failed(answer, 400)
    return answer.json["code"], answer.json.get("field")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "where",
    [
        "",
        " ",
        "widht > 1",
        "width >",
        "width > 'a'",
        "1; drop table x",
        "a" * 10_001,
        "%00",
        "1=1)",
    ],
    ids=lambda where: where[:20] or "nothing",
)
def test_a_condition_that_cannot_be(server: Served, path: str, where: str) -> None:
    text = where if where == "%00" else quote(where)
    answer = server.get(path + text)
    assert told(answer) == ("bad_filter", "where")
    assert not answer.json["error"].startswith("where:")


def test_wherever_it_stands(server: Served) -> None:
    assert told(server.ask(row=1, where="widht > 1")) == ("bad_filter", "where")
    assert told(server.ask(row=1, where=5)) == ("bad_filter", "where")
    assert told(server.upload(CLOCK, "?where=widht%20%3E%201")) == ("bad_filter", "where")
    error = server.ask(row=1, where="width > 1 and widht > 1").json["error"]
    assert "widht" in error and "columns: " in error


def test_other_options(server: Served) -> None:
    for query, field in {
        "k=0": "k",
        "k=a": "k",
        "offset=-1": "offset",
        "order=age": "order",
        "nothing=1": "nothing",
    }.items():
        assert told(server.get("/images?" + query)) == ("bad_request", field)
    assert told(server.ask(row=1, min_score=2)) == ("bad_request", "min_score")
    assert told(server.ask(row=1, min_score="a")) == ("bad_request", "min_score")


def test_what_is_wrong_is_said_in_our_words(server: Served) -> None:
    for query, words in {
        "/search?q=boat": "there is no parameter q: did you mean text? there are k, offset, where",
        "/search?text=boat&limit=3": "there is no parameter limit: did you mean k?",
        "/images?top_k=3": "there is no parameter top_k: did you mean k?",
        "/images?k=1001": "k must be at most 1000, not '1001'",
        "/search?row=x": "row must be a whole number, not 'x'",
        "/search?row=1&crop=1,2": "crop must be whole numbers with commas between them, not '1,2'",
    }.items():
        assert words in server.get(query).json["error"]
    assert server.request("POST", "/search", b"[]", content_type="application/json").json[
        "error"
    ] == ("the body must be a JSON object, not []")
    assert "text must be a text, not true" in server.ask(text=True).json["error"]
    kind = "application/x-www-form-urlencoded"
    refused = server.request("POST", "/search", b'{"row": 1}', content_type=kind)
    assert refused.status == 415
    assert "the header Content-Type: application/json" in refused.json["error"]


def test_a_filter_that_took_too_long() -> None:
    from starlette.requests import Request

    from embedsearch.web.answers import error_answer

    scope: dict[str, Any] = {"type": "http", "headers": [], "path": "/images", "method": "GET"}
    error = FilterTooSlow("where: took more than 10 s: ask for less at once", "where")
    answer = asyncio.run(error_answer(Request(scope), error))
    assert answer.status_code == 400
    assert json.loads(bytes(answer.body)) == {
        "error": "took more than 10 s: ask for less at once",
        "code": "filter_too_slow",
        "field": "where",
    }
