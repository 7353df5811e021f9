"""LlamaIndex: a retriever of images, and an embedding of images.

Errors are ValueError, as in LlamaIndex, with our messages.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import PrivateAttr

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
from embedsearch.integrations.image_argument import image_of, image_or_text
from embedsearch.integrations.keywords import (
    check_settings,
    check_text_column,
    query_options,
    refuse_unknown,
)
from embedsearch.searching.embedder import ImageEmbedder
from embedsearch.searching.queries import ImageLike, Query

try:
    from llama_index.core.base.embeddings.base import Embedding
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.embeddings import MultiModalEmbedding
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import ImageNode, ImageType, NodeWithScore, QueryBundle
except ModuleNotFoundError as error:
    raise missing(error, "llama-index") from error

_SETTINGS = (*("store", "k", "where", "min_score", "text_column", "device", "callback_manager"),)
_NO_TEXT = "a residual network has never seen words: give an image, as QueryBundle.image_path"


class EmbedSearchRetriever(BaseRetriever):
    """Retrieves the images of a store that are like an image, or match words, as image nodes.

    retriever = EmbedSearchRetriever("photos.es", k=5, text_column="caption")
    nodes = retriever.retrieve(QueryBundle("", image_path="question.jpg"))

    The query is `image_path`, else `embedding`, else `query_str`: the path of an image, a `data:`
    URI, or words. Beside an image, `query_str` is a question for a language model.
    A node's id is the whole path; its text the user's column `text_column`, else empty.
    """

    def __init__(
        self,
        store: Store = None,
        *,
        k: int = 4,
        where: str | None = None,
        min_score: float | None = None,
        text_column: str | None = None,
        device: str = "cpu",
        callback_manager: CallbackManager | None = None,
        **unknown: Any,
    ) -> None:
        """Prepare to open a store, by default the nearest `.embedsearch` upward."""
        with raised_as(ValueError):
            refuse_unknown(unknown, _SETTINGS, "setting")
        super().__init__(callback_manager=callback_manager)
        self._opened = OpenedStore(store, device)
        self._options: dict[str, Any] = {"k": k, "where": where, "min_score": min_score}
        self._text_column = text_column
        with raised_as(ValueError):
            check_settings(self._opened, text_column, **self._options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with raised_as(ValueError):
            searcher = self._opened.searcher
            check_text_column(self._text_column, searcher)
            options = query_options(self._options, searcher)
            hits = searcher.query(_query(query_bundle), **options)
        return [self._node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _node(self, hit: Hit) -> NodeWithScore:
        node = ImageNode(
            id_=hit.full_path,
            image_path=hit.full_path,
            text=text_of(hit.metadata, self._text_column, ""),
            metadata=fields_of(hit),
        )
        return NodeWithScore(node=node, score=hit.ranked_by)

    def close(self) -> None:
        """Close the store, if this opened it."""
        self._opened.close()


class EmbedSearchEmbedding(MultiModalEmbedding):
    """Embeds images, given as paths, `data:` URIs or open binary files; text is refused.

    embedding = EmbedSearchEmbedding(model="resnet50")
    vector = embedding.get_image_embedding("photo.jpg")
    """

    device: str = "cpu"
    precision: str = "auto"
    _embedder: ImageEmbedder = PrivateAttr()

    def __init__(self, model: str = "auto", **options: Any) -> None:
        """Take a model of `embedsearch models`, or a file of weights."""
        # As LlamaIndex writes it down, and reads it again.
        model = options.pop("model_name", model)
        with raised_as(ValueError):
            refuse_unknown(set(options) - {"class_name"}, [*type(self).model_fields, "model"])
        super().__init__(model_name=model, **options)
        with raised_as(ValueError):
            self._embedder = ImageEmbedder(model, device=self.device, precision=self.precision)

    @classmethod
    def class_name(cls) -> str:
        """Return the name for LlamaIndex's records."""
        return "EmbedSearchEmbedding"

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        with raised_as(ValueError):
            vectors = self._embedder.embed([_image(image) for image in img_file_paths])
        rows: list[Embedding] = vectors.tolist()
        return rows

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    def _get_text_embedding(self, text: str) -> Embedding:
        raise ValueError(_NO_TEXT)

    def _get_query_embedding(self, query: str) -> Embedding:
        raise ValueError(_NO_TEXT)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        raise ValueError(_NO_TEXT)

    def close(self) -> None:
        """End the decoding processes; they start again when needed."""
        self._embedder.close()


def _query(bundle: QueryBundle) -> Query:
    if bundle.image_path is not None:
        return image_of(bundle.image_path)
    if bundle.embedding is not None:
        return unit(bundle.embedding)
    return image_or_text(bundle.query_str)


def _image(image: ImageType) -> ImageLike:
    return image_of(image) if isinstance(image, str | os.PathLike) else image.read()
