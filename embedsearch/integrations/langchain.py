"""LangChain: a retriever of images, an embedding of images, and a vector store.

Errors are LangChainException, with our messages.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr, model_validator

from embedsearch.core.errors import ImageNotFound, StoreNotFound
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.exchange.texts import StoredText, delete_texts, holds_texts, put_texts
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
from embedsearch.searching.columns import BUILT_IN
from embedsearch.searching.queries import Query
from embedsearch.searching.searcher import Searcher
from embedsearch.store.locate import locate_store

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.exceptions import LangChainException
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError as error:
    raise missing(error, "langchain") from error

_SHOWN_SIDE = 768
_BATCH = "batch_size"  # LangChain's indexing passes it; a call is one commit anyway


class EmbedSearchRetriever(BaseRetriever):
    """Retrieves the images of a store that are like an image, or have words in their columns.

    The query is an image, as the path of a file or a `data:` URI; everything else is words.

    retriever = EmbedSearchRetriever(store="photos.es", k=5, text_column="caption")
    documents = retriever.invoke("question.jpg")
    documents = retriever.invoke("red shoes")

    A document's text is the user's column `text_column`, else the whole path, which is also its id.
    Options of a query can be given to `invoke`, as `k=3`, `where="width > 1000"` or
    `filter={"format": "PNG"}`.
    """

    store: Any = None  # a folder or an open Searcher; default: the nearest `.embedsearch` upward
    k: int = Field(default=4, ge=1)
    where: str | None = None
    min_score: float | None = None
    text_column: str | None = None
    device: str = "cpu"
    _opened: OpenedStore = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Refuse a setting that does not exist: pydantic would ignore it."""
        with raised_as(LangChainException):
            refuse_unknown(given, cls.model_fields, "setting")
        return given

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings; the store is opened for that only if there is a `text_column`."""
        super().model_post_init(context)
        self._opened = OpenedStore(self.store, self.device)
        own: dict[str, Any] = {"k": self.k, "where": self.where, "min_score": self.min_score}
        with raised_as(LangChainException):
            check_settings(self._opened, self.text_column, **own)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        with raised_as(LangChainException):
            hits = self._opened.searcher.query(_asked(query), **self._with(options))
        return [_document(hit, self.text_column) for hit in hits]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        with raised_as(LangChainException):
            searcher = await asyncio.to_thread(lambda: self._opened.searcher)
            hits = await searcher.aquery(_asked(query), **self._with(options))
        return [_document(hit, self.text_column) for hit in hits]

    def _with(self, options: dict[str, Any]) -> dict[str, Any]:
        check_text_column(self.text_column, self._opened.searcher)
        own = {"k": self.k, "where": self.where, "min_score": self.min_score}
        return query_options({**own, **options}, self._opened.searcher)

    def content_block(self, document: Document, side: int = _SHOWN_SIDE) -> dict[str, Any]:
        """Return a document's image as a content block of a message to a multimodal model.

        It is a JPEG, its longer side at most `side` pixels.
        """
        with raised_as(LangChainException):
            jpeg = self._opened.searcher.thumbnail(document.metadata["source"], side)
        encoded = base64.b64encode(jpeg).decode()
        return {"type": "image", "base64": encoded, "mime_type": "image/jpeg"}

    def close(self) -> None:
        """Close the store, if this opened it."""
        self._opened.close()


class EmbedSearchEmbeddings(Embeddings):
    """Embeds images, each given as its path or as a `data:` URI; text is refused.

    embeddings = EmbedSearchEmbeddings(model="resnet50")
    vector = embeddings.embed_query("photo.jpg")
    """

    def __init__(self, model: str = "auto", device: str = "cpu", precision: str = "auto") -> None:
        """Take a model of `embedsearch models`, or a file of weights."""
        from embedsearch.searching.embedder import ImageEmbedder

        with raised_as(LangChainException):
            self._embedder = ImageEmbedder(model, device=device, precision=precision)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the embedding of each image, D floats, of length 1."""
        with raised_as(LangChainException):
            vectors = self._embedder.embed([image_of(text) for text in texts])
        rows: list[list[float]] = vectors.tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Return the embedding of an image."""
        return self.embed_documents([text])[0]

    def close(self) -> None:
        """End the decoding processes; they start again when needed."""
        self._embedder.close()


class EmbedSearchVectorStore(VectorStore):
    """Texts with the vectors of any embedding in a store, or an image store for queries.

    texts = EmbedSearchVectorStore("texts.es", embedding)
    texts.add_texts(["a red boat"], metadatas=[{"page": 3}])
    images = EmbedSearchVectorStore("photos.es")  # made by `embedsearch index`, which changes it

    Scores are cosines. Each call that changes the store is one commit: give many texts at once.
    """

    def __init__(
        self,
        store: Store,
        embedding: Embeddings | None = None,
        *,
        model: str | None = None,
        text_column: str | None = None,
    ) -> None:
        """Use an existing store, or one that the first text creates.

        `model` names the model of the vectors, which must not change; by default it is the class
        of `embedding`. `text_column` is for a store of images, as in the retriever.
        """
        if isinstance(store, Searcher):
            self._path = store.store
        else:
            store = self._path = locate_store(store, create=True)
        self._opened = OpenedStore(store)
        self._embedding = embedding
        kind = type(embedding)
        self._model = model or f"{kind.__module__}.{kind.__qualname__}"
        self._text_column = text_column
        self._changing = threading.Lock()
        with raised_as(LangChainException):
            check_settings(self._opened, text_column)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has; it opens the store for itself."""
        return {name: value for name, value in vars(self).items() if name != "_changing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the settings of another one."""
        self.__dict__.update(state, _changing=threading.Lock())

    @property
    def embeddings(self) -> Embeddings | None:
        """Return the embedding of texts."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and add them, all or none; return their ids. Known ids are replaced."""
        with raised_as(LangChainException):
            refuse_unknown(kwargs, ["texts", "metadatas", "ids", _BATCH])
        listed = list(texts)
        names = [name or uuid.uuid4().hex for name in ids or [""] * len(listed)]
        fields = metadatas or [{} for _ in listed]
        if not len(listed) == len(names) == len(fields):
            raise LangChainException("texts, metadatas and ids differ in number")
        if not listed:
            return []
        if self._embedding is None:
            raise LangChainException("adding texts needs an embedding of texts: give one")
        rows = [StoredText(*row) for row in zip(names, listed, fields, strict=True)]
        vectors = np.array(self._embedding.embed_documents(listed), np.float64)
        with self._changing, raised_as(LangChainException):
            put_texts(self._path, rows, vectors, model=self._model)
            self._opened.searcher.refresh()
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete texts by id, or all without `ids`; unknown ids are accepted."""
        with raised_as(LangChainException):
            refuse_unknown(kwargs, ["ids"])
        with self._changing, raised_as(LangChainException):
            delete_texts(self._path, ids)
            if (searcher := self._searcher()) is not None:
                searcher.refresh()
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents that exist, in the order of the ids."""
        found: list[Document] = []
        with raised_as(LangChainException):
            if (searcher := self._searcher()) is None:
                return found
            is_text = _holds_texts(searcher)
            for name in ids:
                try:
                    record = searcher.get(StoredText.key(name) if is_text else name)
                except ImageNotFound:
                    continue
                found.append(self._known(record, is_text=is_text))
        return found

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents nearest to a text; of images, those for an image or words."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the nearest documents and their cosines, best first."""
        return self._search(self._query(query), k, **kwargs)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the documents nearest to a vector."""
        return [document for document, _ in self._search(_query_vector(embedding), k, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return near documents that differ from each other; `fetch_k` is always 256."""
        found = self._search(self._query(query), k, diverse=1.0 - lambda_mult, **kwargs)
        return [document for document, _ in found]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents near a vector that differ from each other."""
        found = self._search(_query_vector(embedding), k, diverse=1.0 - lambda_mult, **kwargs)
        return [document for document, _ in found]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: Store = None,
        **kwargs: Any,
    ) -> EmbedSearchVectorStore:
        """Return a vector store with texts in it."""
        with raised_as(LangChainException):
            refuse_unknown(kwargs, ["model", "text_column"])
        vector_store = cls(store, embedding, **kwargs)
        vector_store.add_texts(texts, metadatas, ids=ids)
        return vector_store

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return a function from a cosine to a relevance between 0 and 1."""
        return lambda score: min(1.0, max(0.0, score))

    def _searcher(self) -> Searcher | None:
        """Return the open store, None if none was created yet."""
        try:
            return self._opened.searcher
        except StoreNotFound:
            return None

    def _query(self, query: str) -> Query:
        with raised_as(LangChainException):
            if self._embedding is not None:
                return unit(self._embedding.embed_query(query))
            return _asked(query)

    def _search(self, query: Query, k: int, **options: Any) -> list[tuple[Document, float]]:
        with raised_as(LangChainException):
            if (searcher := self._searcher()) is None:
                return []
            if not _holds_texts(searcher):
                check_text_column(self._text_column, searcher)
            hits = searcher.query(query, **query_options({"k": k, **options}, searcher))
            return [(self._found(searcher, hit), hit.ranked_by) for hit in hits]

    def _found(self, searcher: Searcher, hit: Hit) -> Document:
        if _holds_texts(searcher):
            return _text(StoredText.of(hit.key, hit.metadata))
        return _document(hit, self._text_column)

    def _known(self, record: ImageRecord, *, is_text: bool) -> Document:
        if is_text:
            return _text(StoredText.of(record.key, record.metadata))
        return _document(record, self._text_column)


def _asked(query: Any) -> Query:
    return image_or_text(query)


def _document(found: Hit | ImageRecord, text_column: str | None) -> Document:
    text = text_of(found.metadata, text_column, found.full_path)
    return Document(text, id=found.full_path, metadata=fields_of(found))


def _text(text: StoredText) -> Document:
    return Document(text.text, id=text.id, metadata=dict(text.fields))


def _holds_texts(searcher: Searcher) -> bool:
    own = (name for name in searcher.columns if name not in BUILT_IN)
    return holds_texts(searcher.store, searcher.manifest, own)


def _query_vector(vector: Sequence[float]) -> npt.NDArray[np.float32]:
    with raised_as(LangChainException):
        return unit(vector)
