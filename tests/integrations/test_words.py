"""Words at every door: the same list as Python's, with what matched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import embedsearch
from embedsearch import Key, Searcher
from tests.support.library import CLOCK, run_cli
from tests.support.serving import Served, served

pytest.importorskip("mcp", reason="needs the extra `mcp`")

from mcp.client import Client

from embedsearch.integrations.mcp import create_server

TEXT = 'boat -"fishing boats" sail*'
BOAT = "boats/boats_1.jpg"


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Served]:
    with served(store) as running:
        yield running


def expected(searcher: Searcher, image: bool) -> list[dict[str, Any]]:
    hits = searcher.query(Key(BOAT) if image else None, text=TEXT, k=6)
    assert len(hits) == 6 if image else 0 < len(hits) < 6
    assert any("caption" in hit.matched for hit in hits)
    return [hit.to_dict() for hit in hits]


def by_command(store: Path, server: Served, image: bool) -> list[dict[str, Any]]:
    key = ["--key", BOAT] if image else []
    done = run_cli("query", *key, "--text", TEXT, "-k", 6, "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        assert row.pop("query") == (f"{BOAT} + {TEXT}" if image else TEXT)
    return rows


def by_json(store: Path, server: Served, image: bool) -> list[dict[str, Any]]:
    answer = server.ask(text=TEXT, k=6, **({"key": BOAT} if image else {}))
    assert answer.status == 200, answer.body
    return list(answer.json["hits"])


def by_address(store: Path, server: Served, image: bool) -> list[dict[str, Any]]:
    with embedsearch.open_store(store) as searcher:
        row = f"&row={searcher.get(BOAT).row}" if image else ""
    answer = server.request("GET", f"/search?k=6&text={quote(TEXT)}{row}")
    assert answer.status == 200, answer.body
    return list(answer.json["hits"])


@pytest.mark.parametrize("door", [by_command, by_json, by_address])
@pytest.mark.parametrize("image", [False, True])
def test_a_door_gives_what_python_gives(
    door: Callable[[Path, Served, bool], list[dict[str, Any]]],
    image: bool,
    store: Path,
    server: Served,
    searcher: Searcher,
) -> None:
    shown = [{**hit, "matched": list(hit["matched"])} for hit in expected(searcher, image)]
    assert door(store, server, image) == json.loads(json.dumps(shown))


@pytest.mark.parametrize("image", [False, True])
async def test_agents_get_what_python_gives(image: bool, searcher: Searcher) -> None:
    asked: dict[str, Any] = {"text": TEXT, "k": 6} | ({"key": BOAT} if image else {})
    async with Client(create_server({"s": searcher})) as client:
        found = await client.call_tool("search_similar_images", asked)
    assert not found.is_error, found.content
    assert found.structured_content == {"hits": json.loads(json.dumps(expected(searcher, image)))}


def test_langchain_takes_a_file_as_an_image_and_all_else_as_words(searcher: Searcher) -> None:
    adapter = pytest.importorskip("embedsearch.integrations.langchain")
    retriever = adapter.EmbedSearchRetriever(store=searcher, k=6, text_column="caption")
    words = [hit.full_path for hit in searcher.query(text=TEXT, k=6)]
    assert [document.id for document in retriever.invoke(TEXT)] == words
    pictures = [hit.full_path for hit in searcher.query(CLOCK, k=6)]
    assert [document.id for document in retriever.invoke(str(CLOCK))] == pictures
    assert retriever.invoke('"clocks_1.jpg"')[0].metadata["matched"] == ["path"]
    for wrong, message in (("", "neither"), (" ", "neither"), ("http://a/b.jpg", "not fetched")):
        with pytest.raises(Exception, match=message):
            retriever.invoke(wrong)
    images = adapter.EmbedSearchVectorStore(searcher)
    found = images.similarity_search_with_score(TEXT, k=6)
    assert [document.id for document, _ in found] == words
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_llama_index_takes_words_alone_and_a_question_beside_an_image(searcher: Searcher) -> None:
    adapter = pytest.importorskip("embedsearch.integrations.llama_index")
    from llama_index.core.schema import QueryBundle

    retriever = adapter.EmbedSearchRetriever(searcher, k=6)
    words = [hit.full_path for hit in searcher.query(text=TEXT, k=6)]
    assert [node.node.id_ for node in retriever.retrieve(QueryBundle(TEXT))] == words
    pictures = [hit.full_path for hit in searcher.query(CLOCK, k=6)]
    asked = QueryBundle(TEXT, image_path=str(CLOCK))
    assert [node.node.id_ for node in retriever.retrieve(asked)] == pictures


def test_haystack_takes_words_alone_and_beside_an_image(searcher: Searcher) -> None:
    adapter = pytest.importorskip("embedsearch.integrations.haystack")
    retriever = adapter.EmbedSearchImageRetriever(searcher, top_k=6)
    words = [hit.full_path for hit in searcher.query(text=TEXT, k=6)]
    assert [found.id for found in retriever.run(query=TEXT)["documents"]] == words
    both = [hit.full_path for hit in searcher.query(CLOCK, text=TEXT, k=6)]
    found = retriever.run(image=str(CLOCK), query=TEXT)["documents"]
    assert [document.id for document in found] == both
    with pytest.raises(ValueError, match="give an image, a query_embedding or a query"):
        retriever.run()


def test_a_file_that_is_not_there_may_have_been_meant_as_words(store: Path) -> None:
    done = run_cli("query", "red shoes", "--store", store)
    assert done.returncode == 1
    assert "there is no such file; to search by words: embedsearch query --text" in done.stderr


def test_the_table_says_what_matched(store: Path) -> None:
    done = run_cli("query", "--text", "lighthouse", "--store", store, "-k", 2)
    header, first = done.stdout.splitlines()[1:3]
    assert header.split() == ["rank", "words", "size", "matched", "path"]
    assert " caption " in first
    both = run_cli("query", CLOCK, "--text", "lighthouse", "--store", store, "-k", 2)
    header = both.stdout.splitlines()[1]
    wanted = "rank  score  words  rank score  nearer than       size  matched"
    assert header.split() == [*wanted.split(), "path"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", " "], "--text is empty"),
        (["--text", "..."], "no word to look for"),
        (["--text", "a", "--by", "picture"], "--by picture needs an image"),
        (["--text", "a", "--weight", "caption"], "--weight is NAME=NUMBER"),
        (["--unlike", CLOCK, "--text", "a"], "--unlike needs an image"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(
    arguments: list[Any], message: str, store: Path
) -> None:
    done = run_cli("query", *arguments, "--store", store)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "asked",
    [{"text": ""}, {"text": 3}, {"text": "x" * 10_001}, {"text": "a", "by": "x"},
     {"text": "a", "weight": "caption"}, {"unlike": [0], "text": "a"}],
)  # fmt: skip
def test_a_server_refuses_what_is_no_text(asked: dict[str, Any], server: Served) -> None:
    answer = server.ask(**asked)
    assert answer.status == 400, answer.body


def test_a_server_takes_weights_in_every_usual_form(server: Served) -> None:
    wanted = server.ask(text="red", weight=["caption=2", "path=0"]).json["hits"]
    assert server.ask(text="red", weight={"caption": 2, "path": 0}).json["hits"] == wanted
    for query in ("weight=caption=2&weight=path=0", "weight=caption=2,path=0"):
        assert server.get(f"/search?text=red&{query}").json["hits"] == wanted
    assert server.get("/search?text=red&k=1&k=2").status == 400
