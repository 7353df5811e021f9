"""What frameworks copy and pickle: a copy has the same settings, and opens the store for itself."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch.core.errors import StoreNotFound
from tests.support.library import SAMPLES

CLOCK = str(SAMPLES / "clocks" / "clocks_1.jpg")
HOWS: list[Callable[[Any], Any]] = [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))]
each_way = pytest.mark.parametrize("how", HOWS, ids=["deepcopy", "pickle"])


@each_way
@pytest.mark.parametrize("is_used", [False, True])
def test_a_searcher(
    store: Path, how: Callable[[Any], Any], is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    searcher = embedsearch.open_store(store.name, follow=True)
    if is_used:
        searcher.query(CLOCK)
    made = how(searcher)
    monkeypatch.chdir("/")
    expected = searcher.query(CLOCK, 3)
    searcher.close()
    assert made.query(CLOCK, 3) == expected, "it does not share what is open"
    assert how(made).store == made.store == store
    made.close()
    with pytest.raises(StoreNotFound, match="closed"):
        made.query(CLOCK)
    again = how(searcher)
    again.close()
    with pytest.raises(StoreNotFound, match="closed"):
        len(again)


def test_a_copy_of_a_store_that_is_gone_is_made(store: Path, tmp_path: Path) -> None:
    os.symlink(store, tmp_path / "s.es")
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        data = pickle.dumps(searcher)
    (tmp_path / "s.es").unlink()
    made = pickle.loads(data)
    with pytest.raises(StoreNotFound):
        made.query(CLOCK)


@each_way
@pytest.mark.parametrize("is_used", [False, True])
def test_an_embedder(how: Callable[[Any], Any], is_used: bool) -> None:
    with embedsearch.ImageEmbedder("packaged", precision="fp32") as embedder:
        if is_used:
            embedder.embed([CLOCK])
        with how(embedder) as made:
            assert made.spec == embedder.spec
            assert np.array_equal(made.embed([CLOCK]), embedder.embed([CLOCK]))


@each_way
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
def test_langchain(store: Path, how: Callable[[Any], Any], is_used: bool, is_open: bool) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    from embedsearch.integrations import langchain

    where: Any = embedsearch.open_store(store) if is_open else store
    retriever = langchain.EmbedSearchRetriever(store=where, k=2, where="width > 10")
    images = langchain.EmbedSearchVectorStore(where, text_column="caption")
    embeddings = langchain.EmbedSearchEmbeddings("packaged")
    expected = retriever.invoke(CLOCK)
    if is_used:
        images.similarity_search(CLOCK)
    else:
        retriever.close()
    for made in (how(retriever), how(images).as_retriever(search_kwargs={"k": 2})):
        assert [found.id for found in made.invoke(CLOCK)] == [found.id for found in expected]
    assert how(retriever).where == "width > 10"
    chained = how(images.as_retriever(search_kwargs={"k": 2}))
    assert [found.id for found in chained.invoke(CLOCK)] == [found.id for found in expected]
    assert how(embeddings).embed_query(CLOCK) == embeddings.embed_query(CLOCK)


@each_way
def test_a_langchain_store_of_texts(tmp_path: Path, how: Callable[[Any], Any]) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from embedsearch.integrations import langchain

    texts = langchain.EmbedSearchVectorStore(tmp_path / "t.es", DeterministicFakeEmbedding(size=8))
    before = how(texts)
    texts.add_texts(["a", "b"])
    assert before.similarity_search("a", 1)[0].page_content == "a"
    how(texts).add_texts(["c"])
    before._opened.searcher.refresh()
    assert before.similarity_search("c", 1)[0].page_content == "c"


@each_way
@pytest.mark.parametrize("is_used", [False, True])
def test_llama_index(store: Path, how: Callable[[Any], Any], is_used: bool) -> None:
    pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    from embedsearch.integrations import llama_index

    retriever = llama_index.EmbedSearchRetriever(store, k=2, text_column="caption")
    embedding = llama_index.EmbedSearchEmbedding("packaged", embed_batch_size=7)
    if is_used:
        retriever.retrieve(CLOCK)
        embedding.get_image_embedding(CLOCK)
    found = how(retriever).retrieve(CLOCK)
    assert [node.text for node in found] == [node.text for node in retriever.retrieve(CLOCK)]
    for made in (
        how(embedding),
        type(embedding).from_dict(embedding.to_dict()),
        type(embedding).from_json(embedding.to_json()),
    ):
        assert (made.model_name, made.embed_batch_size) == ("packaged", 7)
        assert made.get_image_embedding(CLOCK) == embedding.get_image_embedding(CLOCK)


@each_way
@pytest.mark.parametrize("is_used", [False, True])
def test_haystack(store: Path, how: Callable[[Any], Any], is_used: bool) -> None:
    pytest.importorskip("haystack", reason="needs the extra `haystack`")
    from haystack import Pipeline

    from embedsearch.integrations import haystack

    retriever = haystack.EmbedSearchImageRetriever(store, top_k=2)
    embedder = haystack.EmbedSearchImageEmbedder("packaged")
    if is_used:
        retriever.run(image=CLOCK)
        embedder.warm_up()
    expected = [document.id for document in retriever.run(image=CLOCK)["documents"]]
    assert [document.id for document in how(retriever).run(image=CLOCK)["documents"]] == expected
    assert how(embedder).run(images=[CLOCK]) == embedder.run(images=[CLOCK])
    pipeline = Pipeline()
    pipeline.add_component("find", how(retriever))
    found = copy.deepcopy(pipeline).run({"find": {"image": CLOCK}})
    assert [document.id for document in found["find"]["documents"]] == expected
