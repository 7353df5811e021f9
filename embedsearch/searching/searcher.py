"""A query to hits: images, keys or vectors in, the nearest images of a store out.

queries.py makes vectors of what is asked for, generation.py finds the images. Everything answers
from one generation; a Searcher that follows its store takes up the next one between two calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import (
    DEFAULT_K,
    DecodeLimits,
    SearchConfig,
    check_device,
    check_precision,
)
from embedsearch.core.errors import (
    EmbedSearchError,
    MissingLibrary,
    StoreNotFound,
    UnreadableImage,
    UsageError,
    WeightsUnavailable,
)
from embedsearch.core.options import SearchOptions, configured
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors
from embedsearch.images.thumbnails import Thumbnailer
from embedsearch.searching.generation import QUERIES_AT_ONCE, Generation
from embedsearch.searching.queries import IMAGES_AT_ONCE, Crop, Key, Mix, Query, QueryEmbedder
from embedsearch.store.current import current_pointer
from embedsearch.store.locate import locate_store, url_of
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import open_snapshot

if TYPE_CHECKING:
    from embedsearch.searching.vectordb.database import VectorDatabase
    from embedsearch.store.mirror import Mirror

__all__ = ["Answer", "Crop", "Key", "Mix", "Query", "Searcher", "open_store"]

_LOOK_EVERY_S = 2.0  # for a newer generation
_ASK_EVERY_S = 30.0  # a server for one
# A GIF of one pixel.
_PIXEL = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


@dataclass(frozen=True)
class Answer:
    """What became of one query: hits, or why the image could not be read."""

    query: Query
    hits: list[Hit]
    failure: UnreadableImage | None = None


@dataclass(frozen=True)
class ImageList:
    """Some images, and how many there are of that kind."""

    images: list[ImageRecord]
    total: int


def open_store(
    store: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    follow: bool = False,
    serve_from: str | None = None,
    session: Session | None = None,
) -> Searcher:
    """Open a store for queries; without `store`, the nearest `.embedsearch` upwards.

    One at a URL is fetched into the user's cache first, as far as it is not there. It answers
    from the generation that is the newest now; with `follow`, later ones are taken up as they
    come, within seconds (from a URL, a minute) and without a wait. `serve_from` is the URL of a
    vector database that `export --to` filled and that names the candidates in the place of
    FAISS. Raises StoreNotFound, DamagedStore, IncompatibleStore, StorageError. Close it, or use
    it with `with`.
    """
    check_device(device)
    check_precision(precision)
    session = session or Session()
    with ExitStack() as opened:
        mirror = database = None
        if (url := url_of(store)) is not None:
            from embedsearch.store.mirror import Mirror  # a store on the disk needs no bucket

            mirror = opened.enter_context(Mirror(url, session))
            mirror.open()
        if serve_from is not None:
            from embedsearch.searching.vectordb.open import open_database

            database = open_database(serve_from)
            opened.callback(database.close)
        place = locate_store(store) if mirror is None else mirror.folder
        searcher = Searcher(place, device, precision, follow, session, mirror, database)
        opened.pop_all()  # they are closed with the searcher
    return searcher


@dataclass(eq=False)
class _Opened:
    """A generation, what embeds and decodes for it, and how many calls are using them."""

    generation: Generation
    embedder: QueryEmbedder
    thumbnailer: Thumbnailer
    users: int = 0


class Searcher:
    """A store, open. Any number of threads may use it at once; each call sees one generation."""

    def __init__(
        self,
        store: Path,
        device: str,
        precision: str,
        follow: bool,
        session: Session,
        mirror: Mirror | None = None,
        database: VectorDatabase | None = None,
    ) -> None:
        """Open the newest generation; the database is closed with this."""
        self._store = store
        self._mirror = mirror  # what keeps the folder in step with a URL
        self._device = device
        self._precision = precision
        self._session = session
        self._database = database
        # Of what follows. Reentrant: the garbage collector may end an abandoned `answers` any time.
        self._lock = threading.RLock()
        self._reloading = threading.Lock()  # held while a generation is opened
        self._is_open = True
        self._looked_at = time.monotonic() if follow else None
        self._trouble: str | None = None
        self._has_network = True  # until a network is looked for in vain
        self._seen = current_pointer(store)
        self._opened = self._open(None)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images."""
        return self.manifest.live

    @property
    def store(self) -> Path:
        """Return the folder of the store; of one at a URL, that in the cache."""
        return self._store

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the generation that answers."""
        self._look()
        return self._opened.generation.manifest

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that `where` can name, the user's own too, and their types."""
        with self._using() as opened:
            return opened.generation.columns

    @property
    def trouble(self) -> str | None:
        """Return why a newer generation could not be taken up; the older one goes on answering."""
        self._look()
        return self._trouble

    @property
    def takes_images(self) -> bool:
        """Return whether images can be asked with; keys, rows and vectors always can."""
        return self._has_network and not self.manifest.model.is_foreign

    def warm_up(self) -> None:
        """Do once, for nothing, what the first query would have to wait for.

        Raises WeightsUnavailable and MissingLibrary where images cannot be asked with.
        """
        spec = self.manifest.model
        self.query(np.eye(1, spec.dim, dtype=np.float32)[0], k=1)
        with self._using() as opened:
            opened.thumbnailer.warm_up()
        if spec.is_foreign:
            return
        try:
            self.embed([_PIXEL] * min(IMAGES_AT_ONCE, available_processors()))
        except (MissingLibrary, WeightsUnavailable):
            self._has_network = False
            raise

    def close(self) -> None:
        """Release files, processes and memory, once the calls in progress have ended.

        A later call raises StoreNotFound. A second close does nothing.
        """
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            idle = not self._opened.users
        if self._mirror is not None:
            self._mirror.close()
        if idle:
            self._release(self._opened)

    def query(
        self,
        image: Query | None = None,
        k: int = DEFAULT_K,
        *,
        like: Sequence[Any] = (),
        unlike: Sequence[Any] = (),
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Return the min(k, matching images) nearest images, best first.

        With `like` and `unlike`, hits are to have in common what `image` and those like it
        have, and not what the others have (`Mix`). `options` are fields of SearchConfig:
        `query("a.jpg", where="width > 1000", offset=10)`. Ties are broken by root and key, so
        that an answer is reproducible. Raises UnreadableImage and UsageError.
        """
        if image is None or like or unlike:
            first: list[Any] = [] if image is None else [image]
            image = Mix([*first, *like], list(unlike))
        return self.query_batch([image], k, **options)[0]

    async def aquery(
        self, image: Query | None = None, k: int = DEFAULT_K, **options: Unpack[SearchOptions]
    ) -> list[Hit]:
        """Return what `query` returns, from a thread, while the event loop goes on."""
        import asyncio  # a fiftieth of a second of a query that does without

        return await asyncio.to_thread(self.query, image, k, **options)

    def query_batch(
        self, images: Iterable[Query], k: int = DEFAULT_K, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Return the hits of each query, in order; `options` are fields of SearchConfig.

        Raises UnreadableImage for the first that cannot be read, and UsageError.
        """
        answers = []
        for answer in self.answers(images, k, **options):
            if answer.failure is not None:
                raise answer.failure
            answers.append(answer.hits)
        return answers

    def answers(
        self,
        images: Iterable[Query],
        k: int = DEFAULT_K,
        *,
        config: SearchConfig | None = None,
        **options: Unpack[SearchOptions],
    ) -> Iterator[Answer]:
        """Yield an Answer a query, in order; one that cannot be read does not stop the others."""
        if isinstance(images, str | bytes):
            raise UsageError("several queries are a list; for one image there is query()")
        config = configured(config or SearchConfig(k=k), options)
        with self._using() as opened:
            generation = opened.generation
            for chunk in _chunks(images):
                self._check_open()
                vectors = opened.embedder.vectors(chunk, generation)
                good = [v for v in vectors if not isinstance(v, UnreadableImage)]
                hits = iter(generation.hits(good, config) if good else [])
                for query, vector in zip(chunk, vectors, strict=True):
                    if isinstance(vector, UnreadableImage):
                        yield Answer(query, [], vector)
                    else:
                        yield Answer(query, next(hits))

    def embed(self, images: Sequence[Query]) -> npt.NDArray[np.float32]:
        """Return the embeddings, float32 (Q, D), unit rows. Raises UnreadableImage."""
        with self._using() as opened:
            return opened.embedder.matrix(images, opened.generation)

    def get(self, image: str | int) -> ImageRecord:
        """Return what the store knows of an image, by its key, its whole path or its row.

        Raises ImageNotFound, also where several folders have that key.
        """
        with self._using() as opened:
            return opened.generation.record(image)

    def images(self, k: int = DEFAULT_K, *, where: str | None = None, offset: int = 0) -> ImageList:
        """Return images of the store that meet a condition, in the store's order.

        Raises UsageError.
        """
        if k < 1 or offset < 0:
            raise UsageError("k is at least 1, offset at least 0")
        with self._using() as opened:
            return ImageList(*opened.generation.listed(where, k, offset))

    def thumbnail(self, image: str | int, side: int = 256) -> bytes:
        """Return an image of the store, upright, as JPEG, its longer side at most `side` pixels.

        The file is decoded in a worker process, and the thumbnail kept in the user's cache folder
        while the file is the same; no link inside an indexed folder is followed. Raises
        ImageNotFound, UnreadableImage, and UsageError for a side above 1024.
        """
        with self._using() as opened:
            root, key = opened.generation.place(image)
            return opened.thumbnailer.jpeg(root, key, side)

    def refresh(self) -> bool:
        """Answer from the newest generation from now on; return whether that is another one.

        Calls in progress end with the one that they began with. Raises StoreNotFound,
        DamagedStore, IncompatibleStore, and goes on with the old one.
        """
        with self._reloading:
            if self._mirror is not None:
                try:
                    self._mirror.update()
                except EmbedSearchError as error:
                    self._trouble = str(error)
                    raise
            seen = current_pointer(self._store)
            if seen == self._seen and self._trouble is None:
                return False
            try:
                opened = self._open(self._opened)
            except EmbedSearchError as error:
                self._trouble = str(error)
                raise
            with self._lock:
                stale = opened
                if self._is_open:
                    stale, self._opened = self._opened, opened
                    self._seen, self._trouble = seen, None
                is_idle = not stale.users
            if is_idle:
                self._release(stale)
            return stale is not opened

    def _open(self, before: _Opened | None) -> _Opened:
        """Open the newest generation, with what the one before has, where that still fits."""
        snapshot = open_snapshot(self._store)
        generation = Generation(snapshot, self._session, self._database)
        spec, limits = snapshot.manifest.model, _limits(snapshot.manifest)
        if before is not None and before.embedder.fits(spec, limits):
            return _Opened(generation, before.embedder, before.thumbnailer)
        embedder = QueryEmbedder(spec, limits, self._device, self._precision, self._session)
        return _Opened(generation, embedder, Thumbnailer(limits))

    @contextmanager
    def _using(self) -> Iterator[_Opened]:
        """Give the generation that answers; it stays open at least as long."""
        self._look()
        with self._lock:
            self._check_open()
            opened = self._opened
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                is_over = not self._is_open or opened is not self._opened
                is_last = is_over and not opened.users
            if is_last:
                self._release(opened)

    def _release(self, opened: _Opened) -> None:
        """Close a generation that nobody will use again."""
        opened.generation.close()
        if self._database is not None and not self._is_open and opened is self._opened:
            self._database.close()
        if not self._is_open or opened.embedder is not self._opened.embedder:
            opened.embedder.close()
            opened.thumbnailer.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreNotFound("this Searcher is closed: open the store again")

    def _look(self) -> None:
        """Start to take up a newer generation, if it is time to look for one and there is one."""
        with self._lock:
            now = time.monotonic()
            every_s = _LOOK_EVERY_S if self._mirror is None else _ASK_EVERY_S
            if self._looked_at is None or now - self._looked_at < every_s:
                return
            self._looked_at = now
            if self._reloading.locked():
                return
        is_due = self._mirror is not None or self._trouble is not None
        if is_due or current_pointer(self._store) != self._seen:
            threading.Thread(target=self._follow, name="embedsearch-follow", daemon=True).start()

    def _follow(self) -> None:
        before = self._trouble
        try:
            self.refresh()
        except EmbedSearchError as error:
            if str(error) != before:
                self._session.notice(f"still answering from the generation before: {error}")


def _limits(manifest: Manifest) -> DecodeLimits:
    """Return the limits, raised as `index` runs did: what is in the store can be asked for."""
    least, last = DecodeLimits(), manifest.run.get("limits", {})
    return DecodeLimits(
        max_pixels=max(least.max_pixels, last.get("max_pixels", 0)),
        max_bytes=max(least.max_bytes, last.get("max_bytes", 0)),
        allow_truncated=last.get("allow_truncated", False),
    )


def _chunks(queries: Iterable[Query]) -> Iterator[list[Query]]:
    """Yield the queries in lists that are answered together."""
    chunk: list[Query] = []
    images = 0
    for query in queries:
        chunk.append(query)
        is_vector = isinstance(query, np.ndarray) and query.ndim == 1
        images += not (is_vector or isinstance(query, Key))
        if len(chunk) == QUERIES_AT_ONCE or images == IMAGES_AT_ONCE:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk
