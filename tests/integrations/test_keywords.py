"""Keyword arguments of frameworks: LangChain's `filter`, and names that do not exist."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.integrations.keywords import query_options, refuse_unknown
from tests.support.library import SAMPLES, paint

CLOCK = str(SAMPLES / "clocks" / "clocks_1.jpg")
SAY = 'Say "it"'
NASTY = "O'Brien's \" ; DROP -- größe"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keywords")
    values: list[dict[str, Any]] = [
        {"t": "x", "n": 1, "f": 0.5, "ok": True, "a b": "p", SAY: NASTY, "d": "2024-05-06"},
        {"t": "y", "n": 2, "f": 1.5, "ok": False, "a b": "q", SAY: "", "d": "2024-05-07"},
        {"t": None, "n": 3, "f": None, "ok": None, "a b": None, SAY: None, "d": None},
    ]
    lines = []
    for number, row in enumerate(values):
        paint(folder / "in" / f"{number}.png", number)
        lines.append(json.dumps({"path": f"{number}.png", **row, "in": {"n": number}}))
    (folder / "t.jsonl").write_text("\n".join(lines))
    embedsearch.index(
        folder / "in", store=folder / "s.es", model="packaged", metadata=str(folder / "t.jsonl")
    )
    return folder / "s.es"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"t": "x"}, {0}),
        ({"T": "x"}, {0}),
        ({"t": ["x", "y"]}, {0, 1}),
        ({"t": ("x", None)}, {0, 2}),
        ({"t": None}, {2}),
        ({"t": []}, set()),
        ({"n": 2}, {1}),
        ({"n": [1, 3], "ok": True}, {0}),
        ({"f": 0.5}, {0}),
        ({"ok": False}, {1}),
        ({"a b": "q"}, {1}),
        ({SAY: NASTY}, {0}),
        ({"t": "x' OR 't' = 't"}, set()),
        ({"in.n": 2}, {2}),
        ({"format": "PNG"}, {0, 1, 2}),
        ({"format": "JPEG"}, set()),
        ({"d": datetime.date(2024, 5, 7)}, {1}),
        ({}, {0, 1, 2}),
        (None, {0, 1, 2}),
    ],
)
def test_a_filter_of_equal_values(rows: Path, values: Any, found: set[int]) -> None:
    with embedsearch.open_store(rows) as searcher:
        options = query_options({"filter": values, "k": 9}, searcher)
        assert {hit.row for hit in searcher.query(embedsearch.Key(0), **options)} == found
        both = query_options({"filter": values, "where": "n < 2 or n = 2 -- all", "k": 9}, searcher)
        hits = searcher.query(embedsearch.Key(0), **both)
        assert {hit.row for hit in hits} == found - {2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"filter": {"formt": "PNG"}}, "no column formt: did you mean format"),
        ({"filter": {"n": {"$gt": 1, "$lte": 9}}}, 'give where="n > 1 AND n <= 9"'),
        ({"filter": {"n": {"$near": 1}}}, "give where=\"format = 'PNG'\""),
        ({"filter": {"$or": []}}, r"\$or is not supported; give where="),
        ({"filter": "format = 'PNG'"}, "filter maps columns to equal values.*give where="),
        ({"filter": lambda _: True}, "filter maps columns"),
        ({"filter": {"n": float("nan")}}, "cannot be equal to nan"),
        ({"filter": {"t": "a\0b"}}, "cannot contain NUL"),
        ({"where": {"n": 3}}, "where must be text"),
        ({"where": 3}, "where must be text"),
        ({"top_k": 3}, "no option top_k: did you mean k"),
        ({"similarity_top_k": 3}, "did you mean k"),
        ({"score_threshold": 0.3}, "did you mean min_score"),
        ({"min_scor": 0.3}, "did you mean min_score"),
        ({"wher": "n = 1"}, "did you mean where"),
        ({"zzz": 1}, "there is no option zzz; there are by, collapse, diverse"),
    ],
)
def test_what_is_refused(rows: Path, options: dict[str, Any], words: str) -> None:
    with (
        embedsearch.open_store(rows) as searcher,
        pytest.raises(UsageError, match=words),
    ):
        query_options(options, searcher)


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="no setting k: did you mean top_k"):
        refuse_unknown({"k": 1}, ["top_k"], "setting")
    with pytest.raises(UsageError, match="give a condition, as where="):
        refuse_unknown({"filters": 1}, ["where", "k"])


def test_langchain(rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.exceptions import LangChainException

    from embedsearch.integrations.langchain import EmbedSearchRetriever, EmbedSearchVectorStore

    image = str(rows.parent / "in" / "0.png")
    images = EmbedSearchVectorStore(rows)
    retriever = EmbedSearchRetriever(store=rows)
    chosen: Any = {"filter": {"t": ["x", "y"]}}
    for found in (
        images.as_retriever(search_kwargs=chosen).invoke(image),
        images.similarity_search(image, **chosen),
        [each for each, _ in images.similarity_search_with_score(image, **chosen)],
        images.max_marginal_relevance_search(image, **chosen),
        retriever.invoke(image, **chosen),
        asyncio.run(retriever.ainvoke(image, **chosen)),
    ):
        assert {document.metadata["n"] for document in found} == {1, 2}
    wrong: Any = {"wher": "n = 1"}
    wrong_too: Any = {"top_k": 1}
    for work in (
        lambda: images.as_retriever(search_kwargs={"top_k": 3}).invoke(image),
        lambda: images.similarity_search(image, filtre={}),
        lambda: EmbedSearchRetriever(store=rows, **wrong),
        lambda: EmbedSearchRetriever(store=rows, **wrong_too),
        lambda: retriever.invoke(image, min_scor=1),
        lambda: retriever.invoke(bytes(99_000)),  # type: ignore[arg-type]
        lambda: EmbedSearchRetriever(store=rows, text_column="T").invoke(image),
        lambda: EmbedSearchVectorStore(rows, text_column="tt").similarity_search(image),
        lambda: EmbedSearchVectorStore.from_texts(
            ["a"], DeterministicFakeEmbedding(size=8), store=tmp_path / "x.es", modle="m"
        ),
        lambda: images.delete(idz=["a"]),
        lambda: images.add_texts(["a"], metadata=[{}]),
    ):
        with pytest.raises(LangChainException, match=r"did you mean|not a text") as caught:
            work()
        assert len(str(caught.value)) < 200
    texts = EmbedSearchVectorStore(tmp_path / "t.es", DeterministicFakeEmbedding(size=8))
    texts.add_texts(
        ["a", "b", "c"],
        [{"page": 3, "a/~b": NASTY, "ok": True}, {"page": "3", "ok": False}, {"page": 3.0}],
    )
    for values, expected in (
        ({"page": 3}, {"a", "c"}),
        ({"page": "3"}, {"b"}),
        ({"page": [3, "3"]}, {"a", "b", "c"}),
        ({"a/~b": NASTY}, {"a"}),
        ({"ok": True}, {"a"}),
        ({"ok": None}, {"c"}),
        ({"no": 1}, set()),
    ):
        found = texts.similarity_search("a", 9, filter=values)
        assert {document.page_content for document in found} == expected, values


def test_llama_index(rows: Path) -> None:
    pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    from embedsearch.integrations.llama_index import EmbedSearchEmbedding, EmbedSearchRetriever

    with pytest.raises(ValueError, match="no setting similarity_top_k: did you mean k"):
        EmbedSearchRetriever(rows, similarity_top_k=3)
    with pytest.raises(ValueError, match="no setting filters: give a condition"):
        EmbedSearchRetriever(rows, filters={})
    with pytest.raises(ValueError, match="no column tt of your own: did you mean t"):
        EmbedSearchRetriever(rows, text_column="tt").retrieve(CLOCK)
    with pytest.raises(ValueError, match="precison: did you mean precision"):
        EmbedSearchEmbedding("packaged", precison="int8")


def test_haystack(rows: Path) -> None:
    pytest.importorskip("haystack", reason="needs the extra `haystack`")
    from haystack import Pipeline

    from embedsearch.integrations.haystack import (
        EmbedSearchImageEmbedder,
        EmbedSearchImageRetriever,
    )

    retriever = EmbedSearchImageRetriever(rows)
    for work in (
        lambda: EmbedSearchImageRetriever(rows, k=3),
        lambda: EmbedSearchImageRetriever(rows, text_column="tt").run(image=CLOCK),
        lambda: EmbedSearchImageEmbedder("packaged", precison="int8"),
        lambda: retriever.run(image=CLOCK, topk=3),
        lambda: asyncio.run(retriever.run_async(image=CLOCK, topk=3)),
    ):
        with pytest.raises(ValueError, match="did you mean"):
            work()
    with pytest.raises(ValueError, match="no argument filters: give a condition"):
        retriever.run(image=CLOCK, filters={})
    pipeline = Pipeline()
    pipeline.add_component("find", retriever)
    assert len(pipeline.run({"find": {"image": CLOCK, "top_k": 2}})["find"]["documents"]) == 2
