"""A store, open for queries; in: images, keys, vectors or words, out: the best images as hits.

query_vectors.py makes vectors of the queries, generation.py finds their neighbors, following.py
keeps the newest generation open. Each call answers from one generation.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import DEFAULT_K, SearchConfig, check_device, check_precision
from embedsearch.core.dropped import close_with
from embedsearch.core.errors import (
    MissingLibrary,
    StoreNotFound,
    UnreadableImage,
    UsageError,
    WeightsUnavailable,
)
from embedsearch.core.options import SearchOptions, configured
from embedsearch.core.records import Hit
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors
from embedsearch.searching.browsing.stored_images import StoredImages
from embedsearch.searching.following import OpenGenerations, Settings, open_generations
from embedsearch.searching.generation import QUERIES_AT_ONCE
from embedsearch.searching.queries import Crop, Key, Mix, Query, Text, query_of
from embedsearch.searching.query_vectors import IMAGES_AT_ONCE
from embedsearch.searching.ranking.counts import SearchCounts
from embedsearch.store.locate import url_of
from embedsearch.store.manifest import Manifest

__all__ = ["Answer", "Crop", "Key", "Mix", "Query", "Searcher", "Text", "open_store"]

# A GIF of one pixel.
_PIXEL = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


@dataclass(frozen=True)
class Answer:
    """The answer to one query: hits, or why the image could not be read; counts if asked for."""

    query: Query
    hits: list[Hit]
    failure: UnreadableImage | None = None
    counts: SearchCounts | None = None


@checked
def open_store(
    store: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    follow: bool = False,
    serve_from: str | None = None,
    model: str | os.PathLike[str] | None = None,
    session: Session | None = None,
) -> Searcher:
    """Open a store for queries; by default `.embedsearch` in this folder or the nearest parent.

    Files of a store at a URL that are not in the user's cache are first fetched into it. Queries
    are answered from the newest generation at this time. With `follow`, later generations are
    opened in the background within seconds (from a URL, within a minute). `serve_from` is the URL
    of a vector database, filled by `export --to`, that supplies the candidates instead of FAISS.
    `model` is the file of the store's weights, for a store from another machine: it is needed once.
    Raises StoreNotFound, DamagedStore, IncompatibleStore, StorageError. Close it, or use it with
    `with`; one that is dropped is closed soon after.
    """
    path = None if store is None else os.fsdecode(store)
    weights = None if model is None else os.fsdecode(model)
    settings = Settings(path, device, precision, follow, serve_from, model=weights)
    return open_searcher(settings, session or Session())


def open_searcher(settings: Settings, session: Session) -> Searcher:
    """Return an open store. Raises what `open_store` does."""
    check_device(settings.device)
    check_precision(settings.precision)
    searcher = Searcher(settings, session)
    searcher.open()
    return searcher


class Searcher(StoredImages):
    """A store, open. Any number of threads may use it at once; each call sees one generation.

    It can be copied and pickled: a copy has the same settings, and opens the store again when it is
    first used.
    """

    def __init__(self, settings: Settings, session: Session) -> None:
        """Use `open_store` to create one."""
        self._settings = settings
        self._session = session
        self._opening = threading.Lock()
        self._opened: OpenGenerations | None = None
        self._is_closed = False
        self._has_network = True  # until no network is found

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy, perhaps in another folder and another process."""
        settings = self._settings
        if self._opened is not None and url_of(settings.store) is None:
            settings = replace(settings, store=os.path.abspath(self._opened.store))
        return _copy, (settings,)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images."""
        return self.manifest.live

    def open(self) -> None:
        """Open the store now, unless it is open. Raises what `open_store` does."""
        _ = self._generations

    @property
    def _generations(self) -> OpenGenerations:
        with self._opening:
            if self._opened is None:
                if self._is_closed:
                    raise StoreNotFound("this Searcher is closed: open the store again")
                self._opened = open_generations(self._settings, self._session)
                close_with(self, self._opened.close)
            return self._opened

    @property
    def store(self) -> Path:
        """Return the folder of the store; for a store at a URL, its folder in the cache."""
        return self._generations.store

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the generation that answers."""
        return self._generations.current.manifest

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that `where` can use, with the user's columns, and their types."""
        with self._generations.using() as opened:
            return opened.generation.columns

    @property
    def trouble(self) -> str | None:
        """Return why a newer generation could not be opened; the older one keeps answering."""
        return self._generations.trouble

    @property
    def takes_images(self) -> bool:
        """Return whether searching by image works; keys, rows and vectors always work."""
        return self._has_network and not self.manifest.model.is_foreign

    def warm_up(self) -> None:
        """Load now what the first query would otherwise have to wait for.

        Raises WeightsUnavailable and MissingLibrary if searching by image is unavailable.
        """
        spec = self.manifest.model
        self.query(np.eye(1, spec.dim, dtype=np.float32)[0], k=1)
        with self._generations.using() as opened:
            opened.decoders.thumbnailer.warm_up()
        if spec.is_foreign:
            return
        try:
            self.embed([_PIXEL] * min(IMAGES_AT_ONCE, available_processors()))
        except (MissingLibrary, WeightsUnavailable):
            self._has_network = False
            raise
        if spec.takes_texts:
            with suppress(MissingLibrary, WeightsUnavailable):  # a query by words says so
                self.embed([Text("a picture")])

    def close(self) -> None:
        """Release files, processes and memory, once the calls in progress have ended.

        A later call raises StoreNotFound. A second close does nothing.
        """
        with self._opening:
            self._is_closed = True
        if self._opened is not None:
            self._opened.close()

    @checked
    def query(
        self,
        image: Query | None = None,
        k: int = DEFAULT_K,
        *,
        text: str | None = None,
        like: Sequence[Any] = (),
        unlike: Sequence[Any] = (),
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Return the min(k, matching images) best images for an image, a text or both.

        With `like` and `unlike`, hits share what `image` and the `like` images have in common,
        and not what the `unlike` images show (`Mix`). A `text` is looked for in captions, paths
        and names of cameras (`Text`); with an image, the two rankings are fused.

        `options` are fields of SearchConfig: `query("a.jpg", where="width > 1000", offset=10)`.
        Ties are broken by root and key, so that answers are reproducible. Raises UnreadableImage
        and UsageError.
        """
        if like or unlike or text is not None or not isinstance(image, Mix | Text):
            image = query_of(image, like=like, unlike=unlike, text=text)
        return self.query_batch([image], k, **options)[0]

    async def aquery(
        self,
        image: Query | None = None,
        k: int = DEFAULT_K,
        *,
        text: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Return what `query` returns; it runs in a thread, so the event loop is not blocked."""
        import asyncio  # 20 ms, which other queries need not spend

        return await asyncio.to_thread(self.query, image, k, text=text, **options)

    @checked
    def query_batch(
        self, images: Iterable[Query], k: int = DEFAULT_K, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Return the hits of each query, in order; `options` are fields of SearchConfig.

        Raises UnreadableImage for the first image that cannot be read, and UsageError.
        """
        answers = []
        for answer in self.answers(images, k, **options):
            if answer.failure is not None:
                raise answer.failure
            answers.append(answer.hits)
        return answers

    @checked
    def answers(
        self,
        images: Iterable[Query],
        k: int = DEFAULT_K,
        *,
        config: SearchConfig | None = None,
        counts: bool = False,
        histogram: bool = False,
        **options: Unpack[SearchOptions],
    ) -> Iterator[Answer]:
        """Yield one Answer per query, in order; an unreadable image does not stop the others.

        With `counts` it says how many images are ranked, of which the hits are the first; with a
        `histogram`, also which cosines they have.
        """
        if isinstance(images, str | bytes):
            raise UsageError("images must be a list of queries; for one image use query()")
        config = configured(config or SearchConfig(k=k), options)
        with self._generations.using() as opened:
            generation = opened.generation
            for chunk in _chunks(images):
                self._generations.check_open()
                generation.prepare(config.where)
                found = opened.decoders.embedder.sought(chunk, generation, by=config.by)
                good = [one for one in found if not isinstance(one, UnreadableImage)]
                asked = {"counts": counts, "histogram": histogram}
                pages = iter(generation.found(good, config, **asked) if good else [])
                for query, sought in zip(chunk, found, strict=True):
                    if isinstance(sought, UnreadableImage):
                        yield Answer(query, [], sought)
                    else:
                        page = next(pages)
                        yield Answer(query, page.hits, counts=page.counts)

    @checked
    def embed(self, images: Sequence[Query]) -> npt.NDArray[np.float32]:
        """Return the embeddings, float32 (Q, D), unit rows. Raises UnreadableImage."""
        with self._generations.using() as opened:
            return opened.decoders.embedder.matrix(images, opened.generation)

    def refresh(self) -> bool:
        """Answer from the newest generation from now on; return whether it is a new one.

        Calls in progress finish with the generation that they started with. On StoreNotFound,
        DamagedStore or IncompatibleStore the old generation keeps answering.
        """
        return self._generations.refresh()


def _copy(settings: Settings) -> Searcher:
    """Return a Searcher that opens the store when it is first used."""
    return Searcher(settings, Session())  # a notice is for one process


def _chunks(queries: Iterable[Query]) -> Iterator[list[Query]]:
    """Yield the queries in chunks that are answered together."""
    chunk: list[Query] = []
    images = 0
    for query in queries:
        chunk.append(query)
        is_vector = isinstance(query, np.ndarray) and query.ndim == 1
        images += not (is_vector or isinstance(query, Key | Text))
        if len(chunk) == QUERIES_AT_ONCE or images == IMAGES_AT_ONCE:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk
