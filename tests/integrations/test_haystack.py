"""Haystack: components that embed images and retrieve them, in pipelines that are written down."""

from __future__ import annotations

import asyncio
import base64
import io
import json
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

pytest.importorskip("haystack", reason="needs the extra `haystack`")

from haystack import Pipeline
from haystack.components.builders import PromptBuilder
from haystack.dataclasses import ByteStream

from embedsearch.integrations.haystack import EmbedSearchImageEmbedder, EmbedSearchImageRetriever

CLOCK = SAMPLES / "clocks" / "clocks_1.jpg"
ALLOWED = ["embedsearch.integrations.haystack"]


def test_documents_say_what_hits_say(store: Path, searcher: Searcher) -> None:
    retriever = EmbedSearchImageRetriever(store, top_k=3, text_column="caption", load_blobs=True)
    retriever.warm_up()
    documents = retriever.run(image=CLOCK)["documents"]
    for document, hit in zip(documents, searcher.query(CLOCK, k=3), strict=True):
        assert document.id == document.meta["file_path"] == hit.full_path
        assert (document.content, document.score) == (CAPTIONS[hit.key], hit.score)
        assert document.blob is not None and document.blob.mime_type == "image/jpeg"
        assert max(Image.open(io.BytesIO(document.blob.data)).size) <= 1024
        json.dumps(document.meta)
    (plain,) = EmbedSearchImageRetriever(store, top_k=1).run(image=str(CLOCK))["documents"]
    assert (plain.content, plain.blob) == (None, None)


def test_all_ways_to_ask(store: Path, searcher: Searcher) -> None:
    expected = [hit.full_path for hit in searcher.query(CLOCK, k=10)]
    picture = CLOCK.read_bytes()
    uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    retriever = EmbedSearchImageRetriever(store)
    for image in (CLOCK, str(CLOCK), uri, ByteStream(picture)):
        assert [d.id for d in retriever.run(image=image)["documents"]] == expected
    vector = (3 * searcher.embed([CLOCK])[0]).tolist()
    assert [d.id for d in retriever.run(query_embedding=vector)["documents"]] == expected
    found = retriever.run(image=CLOCK, top_k=2, where="format = 'PNG'")["documents"]
    assert [d.id for d in found] == [
        hit.full_path for hit in searcher.query(CLOCK, k=2, where="format = 'PNG'")
    ]
    limited = EmbedSearchImageRetriever(searcher, min_score=0.5).run(image=CLOCK)["documents"]
    assert all(document.score is not None and document.score >= 0.5 for document in limited)


def pipeline(store: Path) -> Pipeline:
    made = Pipeline()
    made.add_component("embedder", EmbedSearchImageEmbedder("packaged"))
    made.add_component("retriever", EmbedSearchImageRetriever(store, text_column="caption"))
    template = "{% for document in documents %}{{ document.content }}\n{% endfor %}"
    made.add_component("prompt", PromptBuilder(template, required_variables=["documents"]))
    made.connect("embedder.embedding", "retriever.query_embedding")
    made.connect("retriever.documents", "prompt.documents")
    return made


def test_in_a_pipeline_that_is_written_down_and_loaded(store: Path, searcher: Searcher) -> None:
    expected = [CAPTIONS[hit.key] for hit in searcher.query(CLOCK, k=10)]
    text = pipeline(store).dumps()
    with pytest.raises(Exception, match="allow"):
        Pipeline.loads(text)
    for made in (pipeline(store), Pipeline.loads(text, allowed_modules=ALLOWED)):
        found = made.run({"embedder": {"images": [str(CLOCK)]}})
        assert found["prompt"]["prompt"].splitlines() == expected
        again = asyncio.run(made.run_async({"embedder": {"images": [str(CLOCK)]}}))
        assert again["prompt"] == found["prompt"]
    assert Pipeline.loads(text, allowed_modules=ALLOWED).dumps() == text
    with embedsearch.open_store(store) as opened, pytest.raises(ValueError, match="folder"):
        EmbedSearchImageRetriever(opened).to_dict()


def test_many_threads(store: Path, searcher: Searcher) -> None:
    images = sorted(SAMPLES.glob("*/*.jpg"))[:16]
    retriever = EmbedSearchImageRetriever(store, top_k=4)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda image: retriever.run(image=image)["documents"], images))
    for image, documents in zip(images, found, strict=True):
        assert [d.id for d in documents] == [hit.full_path for hit in searcher.query(image, k=4)]


def test_embeddings_are_those_of_a_store(searcher: Searcher) -> None:
    embedder = EmbedSearchImageEmbedder("packaged")
    images = [str(path) for path in sorted(SAMPLES.glob("*/*.jpg"))[:5]]
    found = embedder.run(images=[*images, ByteStream(CLOCK.read_bytes())])
    assert np.allclose(found["embeddings"], searcher.embed([*images, CLOCK]), atol=1e-6)
    assert found["embedding"] == found["embeddings"][0]
    assert embedder.run(images=[]) == {"embeddings": [], "embedding": []}
    assert asyncio.run(embedder.run_async(images=[images[0]]))["embedding"] == found["embedding"]
    with pytest.raises(ValueError, match="not words"):
        embedder.run(images=["red shoes"])
    with pytest.raises(ValueError, match=r"images must be a list of paths.*, not 'a/b.jpg'"):
        embedder.run(images="a/b.jpg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no-such-model"):
        EmbedSearchImageEmbedder("no-such-model").warm_up()
    embedder.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": "red shoes"}, "not words"),
        ({"image": "/none.jpg"}, "no such file"),
        ({"image": "http://127.0.0.1/a.jpg"}, "is a URL"),
        ({"image": ByteStream(b"hello")}, "not_an_image"),
        ({}, "give an image"),
        ({"image": CLOCK, "query_embedding": [1.0]}, "give an image"),
        ({"query_embedding": [0.0] * 512}, "zero"),
        ({"query_embedding": [1.0, 2.0]}, "components"),
        ({"image": CLOCK, "where": "captoin = 'a'"}, "captoin"),
        ({"image": CLOCK, "top_k": 0}, "k must be"),
    ],
    ids=[
        *("words", "no file", "a URL", "no image", "nothing", "two queries", "zeros"),
        *("two components", "an unknown column", "none wanted"),
    ],
)
def test_errors_are_value_errors_with_our_words(
    store: Path, arguments: dict[str, Any], words: str
) -> None:
    retriever = EmbedSearchImageRetriever(store)
    with pytest.raises(ValueError, match=words):
        retriever.run(**arguments)
    retriever.close()


def test_a_store_that_is_not_there_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no store"):
        EmbedSearchImageRetriever(tmp_path / "none.es").warm_up()


def test_a_closed_retriever_opens_anew(store: Path) -> None:
    retriever = EmbedSearchImageRetriever(store)
    retriever.warm_up()
    retriever.close()
    assert retriever.run(image=CLOCK)["documents"]
    retriever.close()


def test_without_haystack_it_says_what_to_install() -> None:
    assert "pip install 'haystack-ai>=3.4,<4'" in imported_without("haystack")


def test_a_file_that_is_gone_costs_its_own_document(tmp_path: Path) -> None:
    for seed in range(4):
        paint(tmp_path / "p" / f"{seed}.png", seed)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    (tmp_path / "p" / "2.png").unlink()
    image = tmp_path / "p" / "0.png"
    for load_blobs, count in ((True, 3), (False, 4)):
        retriever = EmbedSearchImageRetriever(tmp_path / "s.es", load_blobs=load_blobs)
        assert len(retriever.run(image=image)["documents"]) == count
        retriever.close()
