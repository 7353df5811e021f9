"""Haystack: components that retrieve images by image and words, and that embed images.

Errors are ValueError, as in Haystack's own components, with our messages. To load a pipeline with
these components, allow them:
`Pipeline.loads(text, allowed_modules=["embedsearch.integrations.haystack"])`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.field_types import listed
from embedsearch.core.records import Hit
from embedsearch.integrations.adapters import (
    OpenedStore,
    Store,
    fields_of,
    missing,
    raised_as,
    text_of,
    unit,
)
from embedsearch.integrations.image_argument import image_of
from embedsearch.integrations.keywords import check_settings, check_text_column, refuse_unknown
from embedsearch.searching.embedder import ImageEmbedder
from embedsearch.searching.queries import ImageLike, Query, query_of
from embedsearch.searching.searcher import Searcher

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import ByteStream
except ModuleNotFoundError as error:
    raise missing(error, "haystack") from error

_BLOB_SIDE = 1024
_log = logging.getLogger(__name__)
_SETTINGS = ("store", "top_k", "where", "min_score", "text_column", "load_blobs", "device")
_ARGUMENTS = ("image", "query_embedding", "query", "top_k", "where")


@component
class EmbedSearchImageRetriever:
    """Retrieves the images of a store that are like an image or an embedding, or match words.

    retriever = EmbedSearchImageRetriever("photos.es", top_k=5, load_blobs=True)
    documents = retriever.run(image="question.jpg")["documents"]

    A document's id is the whole path, its content the user's column `text_column`. With
    `load_blobs`, its blob is the image as JPEG, its longer side at most 1024 pixels; an image whose
    file is gone is left out, with a warning.
    """

    def __init__(
        self,
        store: Store = None,
        *,
        top_k: int = 10,
        where: str | None = None,
        min_score: float | None = None,
        text_column: str | None = None,
        load_blobs: bool = False,
        device: str = "cpu",
        **unknown: Any,
    ) -> None:
        """Prepare to open a store, by default the nearest `.embedsearch` upward."""
        with raised_as(ValueError):
            refuse_unknown(unknown, _SETTINGS, "setting")
        self.store = store
        self.top_k = top_k
        self.where = where
        self.min_score = min_score
        self.text_column = text_column
        self.load_blobs = load_blobs
        self.device = device
        self._opened = OpenedStore(store, device)
        with raised_as(ValueError):
            check_settings(self._opened, text_column, top_k, where=where, min_score=min_score)

    def warm_up(self) -> None:
        """Open the store."""
        with raised_as(ValueError):
            _ = self._opened.searcher

    def to_dict(self) -> dict[str, Any]:
        """Return the settings to recreate the component. Raises ValueError for an open Searcher."""
        if isinstance(self.store, Searcher):
            raise ValueError("an open store cannot be serialized: give the folder of the store")
        store = None if self.store is None else os.fspath(self.store)
        values: dict[str, Any] = default_to_dict(
            self,
            store=store,
            top_k=self.top_k,
            where=self.where,
            min_score=self.min_score,
            text_column=self.text_column,
            load_blobs=self.load_blobs,
            device=self.device,
        )
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbedSearchImageRetriever:
        """Return the component that `to_dict` has written down."""
        made: EmbedSearchImageRetriever = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(
        self,
        image: str | Path | ByteStream | None = None,
        query_embedding: list[float] | None = None,
        query: str | None = None,
        top_k: int | None = None,
        where: str | None = None,
        **unknown: Any,
    ) -> dict[str, list[Document]]:
        """Return the best images for an image, words or both; arguments override the settings.

        `image` is a path, a `data:` URI or a ByteStream; the words of `query` are looked for in
        the user's columns and in paths. Raises ValueError.
        """
        with raised_as(ValueError):
            refuse_unknown(unknown, _ARGUMENTS, "argument")
            searcher = self._opened.searcher
            check_text_column(self.text_column, searcher)
            hits = searcher.query(
                _query(image, query_embedding, query),
                k=self.top_k if top_k is None else top_k,
                where=self.where if where is None else where,
                min_score=self.min_score,
            )
            documents = [self._document(searcher, hit) for hit in hits]
            return {"documents": [each for each in documents if each is not None]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        image: str | Path | ByteStream | None = None,
        query_embedding: list[float] | None = None,
        query: str | None = None,
        top_k: int | None = None,
        where: str | None = None,
        **unknown: Any,
    ) -> dict[str, list[Document]]:
        """Return what `run` returns, from a thread, while the event loop goes on."""
        return await asyncio.to_thread(
            self.run, image, query_embedding, query, top_k, where, **unknown
        )

    def _document(self, searcher: Searcher, hit: Hit) -> Document | None:
        """Return a hit as a document, None where its blob is asked for and its file is gone."""
        blob = None
        if self.load_blobs:
            try:
                jpeg = searcher.thumbnail(hit.row, _BLOB_SIDE)
            except UnreadableImage as error:
                _log.warning("left out: %s", error)
                return None
            blob = ByteStream(jpeg, mime_type="image/jpeg")
        return Document(
            id=hit.full_path,
            content=text_of(hit.metadata, self.text_column, "") or None,
            blob=blob,
            meta=fields_of(hit, "file_path"),
            score=hit.ranked_by,
        )

    def close(self) -> None:
        """Close the store, if this opened it."""
        self._opened.close()


@component
class EmbedSearchImageEmbedder:
    """Embeds images, for `query_embedding` and for Haystack's own document stores.

    embedder = EmbedSearchImageEmbedder(model="resnet50")
    embeddings = embedder.run(images=["photo.jpg"])["embeddings"]
    """

    def __init__(
        self,
        model: str = "auto",
        *,
        device: str = "cpu",
        precision: str = "auto",
        **unknown: Any,
    ) -> None:
        """Take a model of `embedsearch models`, or a file of weights."""
        with raised_as(ValueError):
            refuse_unknown(unknown, ("model", "device", "precision"), "setting")
        self.model = model
        self.device = device
        self.precision = precision
        self._embedder: ImageEmbedder | None = None

    def warm_up(self) -> None:
        """Find the weights, which may have to be downloaded."""
        if self._embedder is None:
            with raised_as(ValueError):
                self._embedder = ImageEmbedder(
                    self.model, device=self.device, precision=self.precision
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings to recreate the component."""
        values: dict[str, Any] = default_to_dict(
            self, model=self.model, device=self.device, precision=self.precision
        )
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbedSearchImageEmbedder:
        """Return the component that `to_dict` has written down."""
        made: EmbedSearchImageEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(embeddings=list[list[float]], embedding=list[float])
    def run(self, images: list[str | Path | ByteStream]) -> dict[str, Any]:
        """Return the embedding of each image, D floats, and separately that of the first.

        An image is a path, a `data:` URI or a ByteStream. Raises ValueError.
        """
        self.warm_up()
        assert self._embedder is not None, "it is warm"
        with raised_as(ValueError):
            given = listed("images", images, "a list of paths, data: URIs or ByteStreams")
            vectors = self._embedder.embed([_image(image) for image in given])
        rows: list[list[float]] = vectors.tolist()
        return {"embeddings": rows, "embedding": rows[0] if rows else []}

    @component.output_types(embeddings=list[list[float]], embedding=list[float])
    async def run_async(self, images: list[str | Path | ByteStream]) -> dict[str, Any]:
        """Return what `run` returns, from a thread, while the event loop goes on."""
        return await asyncio.to_thread(self.run, images)

    def close(self) -> None:
        """End the decoding processes; they start again when needed."""
        if self._embedder is not None:
            self._embedder.close()


def _image(image: str | Path | ByteStream) -> ImageLike:
    return image.data if isinstance(image, ByteStream) else image_of(image)


def _query(
    image: str | Path | ByteStream | None, embedding: list[float] | None, text: str | None
) -> Query:
    if image is not None and embedding is not None:
        raise ValueError("give an image or a query_embedding, not both")
    if image is None and embedding is None and text is None:
        raise ValueError("give an image, a query_embedding or a query")
    first = None if image is None else _image(image)
    return query_of(first if embedding is None else unit(embedding), text=text)
