"""LlamaIndex: image nodes from a store, in its own engines, and embeddings of images."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embedsearch.searching.searcher import Searcher
from tests.support.frameworks import CAPTIONS, imported_without
from tests.support.library import SAMPLES

pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import ImageNode, MetadataMode, QueryBundle

from embedsearch.integrations.llama_index import EmbedSearchEmbedding, EmbedSearchRetriever

CLOCK = str(SAMPLES / "clocks" / "clocks_1.jpg")
ASKED = QueryBundle("What time is it?", image_path=CLOCK)


def test_nodes_say_what_hits_say(store: Path, searcher: Searcher) -> None:
    retriever = EmbedSearchRetriever(store, k=3, text_column="caption")
    for found, hit in zip(retriever.retrieve(ASKED), searcher.query(CLOCK, k=3), strict=True):
        node = found.node
        assert isinstance(node, ImageNode)
        assert (node.node_id, node.image_path, node.image_mimetype) == (
            hit.full_path,
            hit.full_path,
            {"jpg": "image/jpeg", "png": "image/png"}[hit.full_path[-3:]],
        )
        assert found.score == node.metadata["score"] == hit.score
        assert node.text == CAPTIONS[hit.key]
        json.dumps(node.metadata)
        with open(node.resolve_image(), "rb") as file:  # type: ignore[arg-type]
            assert file.read() == Path(hit.full_path).read_bytes()
    (plain,) = EmbedSearchRetriever(store, k=1).retrieve(ASKED)
    assert plain.node.get_content(metadata_mode=MetadataMode.NONE) == ""


def test_all_ways_to_ask(store: Path, searcher: Searcher) -> None:
    expected = [hit.full_path for hit in searcher.query(CLOCK, k=4)]
    vector = searcher.embed([CLOCK])[0]
    uri = "data:image/jpeg;base64," + base64.b64encode(Path(CLOCK).read_bytes()).decode()
    retriever = EmbedSearchRetriever(store)
    for query in (
        *(ASKED, CLOCK, QueryBundle(CLOCK), uri, QueryBundle("", image_path=uri)),
        QueryBundle("", embedding=(3 * vector).tolist()),
    ):
        assert [found.node.node_id for found in retriever.retrieve(query)] == expected
    filtered = EmbedSearchRetriever(searcher, k=50, where="format = 'PNG'", min_score=0.1)
    expected = [
        h.full_path for h in searcher.query(CLOCK, k=50, where="format = 'PNG'", min_score=0.1)
    ]
    assert [found.node.node_id for found in filtered.retrieve(ASKED)] == expected


async def test_async_is_the_same_and_holds_nobody_up(store: Path) -> None:
    retriever = EmbedSearchRetriever(store)
    expected = retriever.retrieve(ASKED)
    assert await retriever.aretrieve(ASKED) == expected
    many = await asyncio.gather(*(retriever.aretrieve(ASKED) for _ in range(16)))
    assert all(found == expected for found in many)


def test_many_threads(store: Path, searcher: Searcher) -> None:
    images = sorted(str(path) for path in SAMPLES.glob("*/*.jpg"))[:16]
    retriever = EmbedSearchRetriever(store)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(retriever.retrieve, images))
    for image, nodes in zip(images, found, strict=True):
        expected = [hit.full_path for hit in searcher.query(image, k=4)]
        assert [node.node.node_id for node in nodes] == expected


def test_in_a_query_engine(store: Path) -> None:
    engine = RetrieverQueryEngine(
        retriever=EmbedSearchRetriever(store, k=2, text_column="caption"),
        response_synthesizer=get_response_synthesizer(llm=MockLLM()),
    )
    response = engine.query(ASKED)
    assert response.source_nodes[0].node.node_id == CLOCK
    assert CAPTIONS["clocks/clocks_1.jpg"] in str(response)  # the mock repeats its prompt


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (QueryBundle("..."), "no word to look for"),
        (QueryBundle("", image_path="/none.jpg"), "no such file"),
        (QueryBundle("clocks/none.jpg"), "no such file"),
        (QueryBundle("", image_path="http://127.0.0.1/a.jpg"), "is a URL"),
        (QueryBundle("", image_path="data:image/png;base64,aGVsbG8="), "not_an_image"),
        (QueryBundle("", embedding=[0.0] * 512), "zero"),
        (QueryBundle("", embedding=[1.0, 2.0]), "components"),
    ],
    ids=[
        "no words",
        "no file",
        "a name",
        "a URL",
        "no image",
        "zeros",
        "two components",
    ],
)
def test_errors_are_value_errors_with_our_words(
    store: Path, query: QueryBundle, words: str
) -> None:
    retriever = EmbedSearchRetriever(store)
    with pytest.raises(ValueError, match=words):
        retriever.retrieve(query)
    with pytest.raises(ValueError, match=words):
        asyncio.run(retriever.aretrieve(query))
    retriever.close()
    assert retriever.retrieve(ASKED)  # opened again
    retriever.close()


def test_wrong_settings_are_value_errors(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no store"):
        EmbedSearchRetriever(tmp_path / "none.es").retrieve(ASKED)
    with pytest.raises(ValueError, match="k must be"):
        EmbedSearchRetriever(store, k=0).retrieve(ASKED)


async def test_embeddings_are_those_of_a_store(searcher: Searcher) -> None:
    embedding = EmbedSearchEmbedding("packaged", embed_batch_size=5)
    images = sorted(str(path) for path in SAMPLES.glob("*/*.jpg"))[:12]
    expected = searcher.embed(images)
    assert np.allclose(embedding.get_image_embedding_batch([*images]), expected, atol=1e-6)
    assert np.allclose(await embedding.aget_image_embedding_batch([*images]), expected, atol=1e-6)
    one = embedding.get_image_embedding(CLOCK)
    assert one == await embedding.aget_image_embedding(CLOCK)
    with open(CLOCK, "rb") as file:
        assert embedding.get_image_embedding(file) == one  # type: ignore[arg-type]
    for ask in (embedding.get_text_embedding, embedding.get_query_embedding):
        with pytest.raises(ValueError, match="never seen words"):
            ask("red shoes")
    with pytest.raises(ValueError, match="never seen words"):
        await embedding.aget_query_embedding("red shoes")
    with pytest.raises(ValueError, match="no-such-model"):
        EmbedSearchEmbedding("no-such-model")
    embedding.close()


def test_without_llama_index_it_says_what_to_install() -> None:
    assert "pip install 'llama-index-core>=0.14.20,<0.15'" in imported_without("llama_index")
