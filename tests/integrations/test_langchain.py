"""LangChain: its own conformance suites, unmodified, and what they do not ask."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.searching.searcher import Searcher
from tests.support.frameworks import CAPTIONS, imported_without
from tests.support.library import SAMPLES, paint

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.exceptions import LangChainException
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from embedsearch.integrations.langchain import (
    EmbedSearchEmbeddings,
    EmbedSearchRetriever,
    EmbedSearchVectorStore,
)

CLOCK = str(SAMPLES / "clocks" / "clocks_1.jpg")


# Conformance


class TestRetrieverConformance(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _with(self, store: Path) -> None:
        self.store = store

    @property
    def retriever_constructor(self) -> type[EmbedSearchRetriever]:
        return EmbedSearchRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return CLOCK


class TestVectorStoreConformance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:
        return EmbedSearchVectorStore(tmp_path / "texts.es", self.get_embeddings())


class TestEmbeddingsConformance(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite embeds the words foo, bar and baz: images are called so here."""
        for seed, name in enumerate(("foo", "bar", "baz")):
            paint(tmp_path / f"{name}.png", seed).rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)

    @property
    def embeddings_class(self) -> type[EmbedSearchEmbeddings]:
        return EmbedSearchEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "packaged"}


class TestEmbeddingsUnits(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[EmbedSearchEmbeddings]:
        return EmbedSearchEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "packaged"}


# The retriever


def test_documents_say_what_hits_say(store: Path, searcher: Searcher) -> None:
    retriever = EmbedSearchRetriever(store=store, k=3, text_column="caption")
    documents = retriever.invoke(CLOCK)
    for document, hit in zip(documents, searcher.query(CLOCK, k=3), strict=True):
        assert document.id == document.metadata["source"] == hit.full_path
        assert document.page_content == hit.metadata["caption"] == CAPTIONS[hit.key]
        assert document.metadata["score"] == hit.score
        assert document.metadata["row"] == hit.row
        assert (document.metadata["width"], document.metadata["height"]) == (hit.width, hit.height)
        assert document.metadata["user_score"] == 7  # a column of the user's hides none of ours
        json.dumps(document.metadata)
    plain = EmbedSearchRetriever(store=store, k=1).invoke(CLOCK)
    assert plain[0].page_content == plain[0].id == str(SAMPLES / "clocks" / "clocks_1.jpg")


def test_options(store: Path, searcher: Searcher) -> None:
    retriever = EmbedSearchRetriever(store=searcher, k=50, where="format = 'PNG'", min_score=0.1)
    expected = searcher.query(CLOCK, k=50, where="format = 'PNG'", min_score=0.1)
    assert [d.id for d in retriever.invoke(CLOCK)] == [hit.full_path for hit in expected]
    expected = searcher.query(CLOCK, k=2, where="width > 500")
    found = retriever.invoke(CLOCK, k=2, where="width > 500", min_score=None)
    assert [document.id for document in found] == [hit.full_path for hit in expected]
    uri = "data:image/jpeg;base64," + base64.b64encode(Path(CLOCK).read_bytes()).decode()
    assert retriever.invoke(uri) == retriever.invoke(CLOCK)


async def test_async_is_the_same_and_holds_nobody_up(store: Path) -> None:
    retriever = EmbedSearchRetriever(store=store)
    assert await retriever.ainvoke(CLOCK) == retriever.invoke(CLOCK)
    many = await asyncio.gather(*(retriever.ainvoke(CLOCK) for _ in range(16)))
    assert all(documents == many[0] for documents in many)


def test_many_threads(store: Path, searcher: Searcher) -> None:
    images = sorted(str(path) for path in SAMPLES.glob("*/*.jpg"))[:16]
    expected = [[hit.full_path for hit in searcher.query(image, k=4)] for image in images]
    retriever = EmbedSearchRetriever(store=store)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(retriever.invoke, images * 2))
    assert [[document.id for document in documents] for documents in found] == expected * 2


def test_an_image_for_a_model_that_sees(store: Path) -> None:
    retriever = EmbedSearchRetriever(store=store, k=1)
    (document,) = retriever.invoke(CLOCK)
    block = retriever.content_block(document, side=100)
    message = HumanMessage(content=[{"type": "text", "text": "What time is it?"}, block])
    (image,) = [b for b in message.content_blocks if b["type"] == "image"]
    picture = Image.open(io.BytesIO(base64.b64decode(image["base64"])))
    assert (picture.format, max(picture.size)) == ("JPEG", 100)
    assert block["mime_type"] == "image/jpeg"
    with pytest.raises(LangChainException, match="no single image"):
        retriever.content_block(Document("a", metadata={"source": "/none.jpg"}))


def test_a_store_that_is_indexed_again(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    paint(photos / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with embedsearch.open_store(tmp_path / "s.es", follow=True) as searcher:
        retriever = EmbedSearchRetriever(store=searcher, k=9)
        assert len(retriever.invoke(str(photos / "a.png"))) == 1
        paint(photos / "b.png", 2)
        embedsearch.index(photos, store=tmp_path / "s.es")
        searcher.refresh()
        assert len(retriever.invoke(str(photos / "a.png"))) == 2


def test_errors_are_langchains_with_our_words(store: Path, tmp_path: Path) -> None:
    retriever = EmbedSearchRetriever(store=store)
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    for query, words in (
        ("http://127.0.0.1/a.jpg", "is a URL"),
        ("file:///etc/passwd", "not_an_image"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,aGVsbG8=", "not_an_image"),
        (str(text), "not_an_image"),
        ("", "neither the path"),
        ("...", "no word to look for"),
        ("sample_images/clocks/nope.jpg", "there is no such file"),
    ):
        with pytest.raises(LangChainException, match=words):
            retriever.invoke(query)
        with pytest.raises(LangChainException, match=words):
            asyncio.run(retriever.ainvoke(query))
    assert retriever.invoke('"nope.jpg"') == retriever.invoke("path:nope.jpg") == []
    for options in ({"k": 0}, {"where": "captoin = 'a'"}, {"min_score": 3}, {"unknown": 1}):
        with pytest.raises(LangChainException):
            retriever.invoke(CLOCK, **options)
    with pytest.raises(LangChainException, match="no store"):
        EmbedSearchRetriever(store=tmp_path / "none.es").invoke(CLOCK)
    with pytest.raises(ValueError, match="greater than"):
        EmbedSearchRetriever(store=store, k=0)
    closed = embedsearch.open_store(store)
    closed.close()
    with pytest.raises(LangChainException, match="closed"):
        EmbedSearchRetriever(store=closed).invoke(CLOCK)
    retriever.close()
    assert retriever.invoke(CLOCK)  # opened again


# The embedding


def test_embeddings_are_those_of_a_store(searcher: Searcher) -> None:
    embeddings = EmbedSearchEmbeddings(model="packaged")
    vector = embeddings.embed_query(CLOCK)
    assert np.array_equal(np.array(vector, np.float32), searcher.embed([CLOCK])[0])
    path: Any = Path(CLOCK)
    assert embeddings.embed_query(path) == vector
    asked = EmbedSearchRetriever(store=searcher).invoke
    assert asked(path) == asked(CLOCK) != []
    for words in ("red shoes", "http://127.0.0.1/a.jpg"):
        with pytest.raises(LangChainException):
            embeddings.embed_documents([CLOCK, words])
    with pytest.raises(LangChainException, match="no-such-model"):
        EmbedSearchEmbeddings(model="no-such-model")
    embeddings.close()


# The vector store


@pytest.fixture
def texts(tmp_path: Path) -> EmbedSearchVectorStore:
    made = EmbedSearchVectorStore.from_texts(
        [f"text {number}" for number in range(20)],
        DeterministicFakeEmbedding(size=16),
        metadatas=[{"page": number} for number in range(20)],
        ids=[str(number) for number in range(20)],
        store=tmp_path / "texts.es",
    )
    assert isinstance(made, EmbedSearchVectorStore)
    return made


def test_the_nearest_are_those_of_numpy(texts: EmbedSearchVectorStore) -> None:
    embedding = DeterministicFakeEmbedding(size=16)
    rows = np.array(embedding.embed_documents([f"text {number}" for number in range(20)]))
    query = np.array(embedding.embed_query("text 3"))
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    order = np.argsort(-cosines)[:5]
    found = texts.similarity_search_with_score("text 3", k=5)
    assert [document.id for document, _ in found] == [str(number) for number in order]
    assert np.allclose([score for _, score in found], cosines[order], atol=1e-3)
    assert found[0][0] == Document("text 3", id="3", metadata={"page": 3})
    by_vector = texts.similarity_search_by_vector(query.tolist(), k=5)
    assert by_vector == [document for document, _ in found]
    assert texts.similarity_search("text 3", k=5, where="fields like '%: 3}'") == by_vector[:1]


def test_without_a_folder_it_is_the_nearest_or_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    embedding = DeterministicFakeEmbedding(size=4)
    made = EmbedSearchVectorStore(None, embedding)
    assert made.similarity_search("a") == []
    made.add_texts(["a"], ids=["1"])
    assert (tmp_path / ".embedsearch").is_dir()
    (found,) = EmbedSearchVectorStore(None, embedding).similarity_search("a")
    assert found.id == "1"


def test_as_a_retriever(texts: EmbedSearchVectorStore) -> None:
    assert texts.as_retriever(search_kwargs={"k": 2}).invoke("text 5")[0].id == "5"
    some = texts.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99}
    )
    assert [document.id for document in some.invoke("text 5")] == ["5"]
    diverse = texts.as_retriever(search_type="mmr", search_kwargs={"k": 20, "lambda_mult": 0.1})
    found = [document.id for document in diverse.invoke("text 5")]
    plain = [document.id for document in texts.similarity_search("text 5", k=20)]
    assert found[0] == "5" and Counter(found) == Counter(plain) and found != plain
    same = texts.max_marginal_relevance_search("text 5", k=20, lambda_mult=1.0)
    assert [document.id for document in same] == plain


def test_what_cannot_be_taken_in(texts: EmbedSearchVectorStore, tmp_path: Path) -> None:
    place = tmp_path / "texts.es"
    with pytest.raises(LangChainException, match="vectors of"):
        EmbedSearchVectorStore(place, DeterministicFakeEmbedding(size=8)).add_texts(["a"])
    with pytest.raises(LangChainException, match="differ in number"):
        texts.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(LangChainException, match="give one"):
        EmbedSearchVectorStore(place).add_texts(["a"])
    with pytest.raises(LangChainException, match="JSON"):
        texts.add_texts(["a"], metadatas=[{"what": object()}])
    with pytest.raises(LangChainException, match="components"):
        texts.similarity_search_by_vector([1.0, 2.0])
    assert texts.add_texts([]) == []
    assert len(texts.similarity_search("text 1", k=100)) == 20


def test_threads_add_and_search(texts: EmbedSearchVectorStore) -> None:
    def add(number: int) -> list[str]:
        return texts.add_texts([f"new {number}"], ids=[f"new {number}"])

    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(add, range(8)))
    assert added == [[f"new {number}"] for number in range(8)]
    assert len(texts.similarity_search("text 1", k=100)) == 28
    assert texts.delete() is True
    assert texts.similarity_search("text 1", k=100) == []


def test_a_store_of_images_can_be_asked(store: Path) -> None:
    images = EmbedSearchVectorStore(store, text_column="caption")
    retriever = EmbedSearchRetriever(store=store, text_column="caption")
    assert images.similarity_search(CLOCK, k=4) == retriever.invoke(CLOCK)
    embedded = EmbedSearchVectorStore(store, EmbedSearchEmbeddings("packaged"))
    assert embedded.similarity_search(CLOCK, k=1)[0].id == CLOCK
    (known,) = images.get_by_ids([CLOCK, "/none.jpg"])
    assert (known.id, known.page_content) == (CLOCK, CAPTIONS["clocks/clocks_1.jpg"])
    with pytest.raises(LangChainException, match="texts have a store of their own"):
        embedded.add_texts([CLOCK])
    with pytest.raises(LangChainException, match="texts have a store of their own"):
        images.delete([CLOCK])


def test_without_langchain_it_says_what_to_install() -> None:
    assert "pip install 'langchain-core>=1.4,<2'" in imported_without("langchain")
