"""Texts with vectors as a store, images without one, and what a client may name."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import (
    IncompatibleStore,
    UnreadableImage,
    UsageError,
)
from embedsearch.exchange.texts import StoredText, delete_texts, put_texts
from embedsearch.integrations.image_argument import image_of, image_of_client
from embedsearch.searching.embedder import ImageEmbedder
from embedsearch.searching.queries import Inside
from embedsearch.store.current import read_current
from tests.support.answers import shortened
from tests.support.library import SAMPLES

BOAT = SAMPLES / "boats" / "boats_1.jpg"


def stored(store: Path) -> dict[str, str]:
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(np.eye(4, dtype=np.float32)[0], k=100)
        texts = [StoredText.of(hit.key, hit.metadata) for hit in hits]
    return {text.id: text.text for text in texts}


def put(store: Path, *pairs: tuple[str, str], seed: int = 0, model: str = "m") -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(pairs), 4))
    put_texts(store, [StoredText(*pair, {"n": 1}) for pair in pairs], vectors, model=model)


def test_texts_come_change_and_go(tmp_path: Path) -> None:
    store = tmp_path / "t.es"
    put(store, ("a", "one"), ("../b/ü", "two"), ("a", "one again"))
    assert stored(store) == {"a": "one again", "../b/ü": "two"}
    put(store, ("a", "three"), ("c", "four"), seed=1)
    assert stored(store) == {"a": "three", "../b/ü": "two", "c": "four"}
    delete_texts(store, ["c", "unknown"])
    assert stored(store) == {"a": "three", "../b/ü": "two"}
    delete_texts(store)
    assert stored(store) == {}
    put(store, ("d", "five"))
    assert stored(store) == {"d": "five"}
    delete_texts(tmp_path / "none.es")
    assert not (tmp_path / "none.es" / "CURRENT").exists()


def test_what_cannot_be_put(tmp_path: Path) -> None:
    store = tmp_path / "t.es"
    put(store, ("a", "one"))
    with pytest.raises(IncompatibleStore, match="vectors of m with 4"):
        put(store, ("b", "two"), model="other")
    assert stored(store) == {"a": "one"}
    embedsearch.index(SAMPLES / "boats", store=tmp_path / "images.es", model="packaged")
    with pytest.raises(IncompatibleStore, match="holds images"):
        delete_texts(tmp_path / "images.es")


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((1, 4)), np.full((1, 4), np.nan), np.ones((2, 4)), np.ones(4)],
    ids=["zeros", "no numbers", "two vectors", "one dimension"],
)
def test_vectors_that_cannot_be_put(tmp_path: Path, vectors: npt.NDArray[np.float64]) -> None:
    store = tmp_path / "t.es"
    put(store, ("a", "one"))
    with pytest.raises(UsageError):
        put_texts(store, [StoredText("b", "two")], vectors, model="m")
    assert stored(store) == {"a": "one"}


def test_an_embedder_gives_what_a_store_gives(tmp_path: Path) -> None:
    embedsearch.index(SAMPLES / "boats", store=tmp_path / "s.es", model="packaged")
    with (
        embedsearch.open_store(tmp_path / "s.es") as searcher,
        ImageEmbedder("packaged") as embedder,
    ):
        images: list[Path | bytes] = [BOAT, BOAT.read_bytes()]
        assert embedder.spec == searcher.manifest.model
        assert np.array_equal(embedder.embed(images), searcher.embed(images))
        assert embedder.embed([]).shape == (0, embedder.spec.dim)
        with pytest.raises(UnreadableImage):
            embedder.embed([b"no image"])
        with pytest.raises(UsageError, match="no store"):
            embedder.embed([embedsearch.Key("a")])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="list"):
            embedder.embed(str(BOAT))


def nobody(_: str) -> int | None:
    """Return the row of an image in a store without any."""
    return None


def test_what_a_client_may_name(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(BOAT.read_bytes())
    (tmp_path / "secret.jpg").write_bytes(BOAT.read_bytes())
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    folders = [str(folder)]
    picture = BOAT.read_bytes()
    assert image_of(str(BOAT)) == str(BOAT)
    for name in ("a.jpg", "in.jpg", "../open/a.jpg"):
        assert image_of_client(str(folder / name), folders, nobody) == Inside(str(folder), "a.jpg")
    uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    assert image_of(uri) == image_of_client(uri, folders, nobody) == picture
    for name in ("../secret.jpg", "out.jpg", "/etc/passwd", "../open2/a.jpg"):
        with pytest.raises(UsageError, match="not in a folder"):
            image_of_client(str(folder / name), folders, nobody)
    with ImageEmbedder("packaged") as embedder:
        expected = embedder.embed([BOAT])
        assert np.array_equal(embedder.embed([Inside(str(folder), "a.jpg")]), expected)
        for name in ("none.jpg", "pipe.jpg", "out.jpg", "in.jpg", "a.jpg/b.jpg"):
            with pytest.raises(UnreadableImage):
                embedder.embed([Inside(str(folder), name)])
    for name in ("../secret.jpg", "/etc/passwd", "a/../../b", "./a.jpg", "", "a\0b"):
        with pytest.raises(UsageError, match="inside a folder"):
            Inside(str(folder), name)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "http://127.0.0.1/a.jpg",
            "file://elsewhere/etc/passwd",
            "",
            "a\0b",
            "red shoes",
            "x" * 10_000,
        ),
        *("data:image/png,abc", "data:image/png;base64,%%%", "data:image/png;base64,"),
        "data:image/png;base64," + "A" * (28 << 20),
    ],
    ids=shortened,
)
def test_what_names_no_image(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as raised:
        image_of(text)
    assert len(str(raised.value)) < 300
    with pytest.raises(UsageError):
        image_of_client(text, [str(tmp_path)], nobody)


@pytest.mark.parametrize("columns", [{}, {"label": ["cat", "dog"]}, "texts"], ids=str)
@pytest.mark.parametrize("act", ["add", "delete"])
def test_texts_never_touch_a_store_of_images(tmp_path: Path, columns: Any, act: str) -> None:
    """One that `import` made, whatever its columns are called."""
    if columns == "texts":
        columns = {"text": ["a", "b"], "fields": ["{}", "{}"]}
    vectors = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32).tolist()
    table = pa.table({"path": ["1.jpg", "2.jpg"], "vector": vectors, **columns})
    pq.write_table(table, tmp_path / "r.parquet")
    store = tmp_path / "s.es"
    embedsearch.import_vectors(tmp_path / "r.parquet", model="m", root=tmp_path, store=store)
    before = read_current(store)
    with pytest.raises(IncompatibleStore, match="texts have a store of their own"):
        if act == "add":
            put_texts(store, [StoredText("x", "hello")], np.ones((1, 8)), model="m")
        else:
            delete_texts(store)
    assert read_current(store) == before


def test_images_never_touch_a_store_of_texts(tmp_path: Path) -> None:
    store = tmp_path / "t.es"
    put_texts(store, [StoredText("x", "hello")], np.ones((1, 8)), model="m")
    np.save(tmp_path / "v.npy", np.ones((1, 8), np.float32))
    (tmp_path / "n").write_text("a.jpg\n")
    with pytest.raises(IncompatibleStore, match="holds texts"):
        embedsearch.import_vectors(
            tmp_path / "v.npy", paths=tmp_path / "n", model="m", root=tmp_path, store=store
        )
