"""A query to hits: images, bytes, arrays or vectors in, the nearest images of a store out.

decode (worker process) → embed → candidates from the FAISS files and from shards that none
covers → true cosines → hits. Everything answers from one generation.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.config import (
    DEFAULT_K,
    DecodeLimits,
    available_processors,
    check_device,
    check_precision,
)
from embedsearch.decode.pool import DecodedBatch, DecodePool
from embedsearch.decode.process import DecodeJob
from embedsearch.errors import StoreNotFound, UnreadableImage, UsageError
from embedsearch.neighbors import RowSearch
from embedsearch.network.runtime import PixelExtractor, load_extractor
from embedsearch.paths import printable
from embedsearch.records import Hit, ImageRef, Neighbors, Reason, StoredImage, check_unit_rows
from embedsearch.session import Session
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    from PIL import Image

# A path, the bytes of an image file, a PIL image, uint8 (H, W, 3), or a unit vector float (D,).
Query: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"

_CHUNK = 32
NOT_FINITE = "the network gave no finite vector for the image"


@dataclass(frozen=True)
class Answer:
    """What became of one query: hits, or why the image could not be read."""

    query: Query
    hits: list[Hit]
    failure: UnreadableImage | None = None


def open_store(
    store: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    session: Session | None = None,
) -> Searcher:
    """Open a store for queries; without `store`, the nearest `.embedsearch` upwards.

    Raises StoreNotFound, DamagedStore, IncompatibleStore. Close it, or use it with `with`.
    """
    check_device(device)
    check_precision(precision)
    path = locate_store(store)
    return Searcher(open_snapshot(path), device, precision, session or Session())


class Searcher:
    """A store opened at one generation. Any number of threads may query it at once."""

    def __init__(self, snapshot: Snapshot, device: str, precision: str, session: Session) -> None:
        self._snapshot = snapshot
        self._device = device
        self._precision = precision
        self._session = session
        self._embedding = threading.Lock()  # one decoder pool and one network serve all threads
        self._reading = threading.Lock()  # a Parquet reader is not thread-safe
        self._extractor: PixelExtractor | None = None
        self._pool: DecodePool | None = None
        try:
            self._rows = RowSearch(snapshot, session)
        except BaseException:
            snapshot.close()
            raise

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images."""
        return self.manifest.live

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the generation that answers."""
        return self._snapshot.manifest

    def close(self) -> None:
        """Release files, processes and memory; a later query raises StoreNotFound."""
        with self._embedding, self._reading:
            if self._pool is not None:
                self._pool.close()
                self._pool = None
            self._rows.close()
            self._snapshot.close()
            self._extractor = None

    def query(
        self, image: Query, k: int = DEFAULT_K, *, min_score: float | None = None
    ) -> list[Hit]:
        """Return the min(k, images) nearest images, best first.

        Ties are broken by root and key, so that an answer is reproducible. Raises
        UnreadableImage and UsageError.
        """
        return self.query_batch([image], k, min_score=min_score)[0]

    def query_batch(
        self, images: Iterable[Query], k: int = DEFAULT_K, *, min_score: float | None = None
    ) -> list[list[Hit]]:
        """Return the hits of each query, in order. Raises UnreadableImage for the first bad one."""
        answers = []
        for answer in self.answers(images, k, min_score=min_score):
            if answer.failure is not None:
                raise answer.failure
            answers.append(answer.hits)
        return answers

    def answers(
        self, images: Iterable[Query], k: int = DEFAULT_K, *, min_score: float | None = None
    ) -> Iterator[Answer]:
        """Yield an Answer a query, in order; one that cannot be read does not stop the others."""
        if isinstance(images, str | bytes):
            raise UsageError("several queries are a list; for one image there is query()")
        if not isinstance(k, int | np.integer) or k < 1:
            raise UsageError(f"k must be a whole number of at least 1, not {k!r}")
        if min_score is not None and not -1.0 <= min_score <= 1.0:
            raise UsageError(f"min_score is a cosine between -1 and 1, not {min_score}")
        queries = iter(images)
        while chunk := list(islice(queries, _CHUNK)):
            vectors = self._vectors(chunk)
            good = [v for v in vectors if not isinstance(v, UnreadableImage)]
            hits = iter(self._hits(np.array(good, dtype=np.float32), k, min_score) if good else [])
            for query, vector in zip(chunk, vectors, strict=True):
                if isinstance(vector, UnreadableImage):
                    yield Answer(query, [], vector)
                else:
                    yield Answer(query, next(hits))

    def embed(self, images: Sequence[Query]) -> npt.NDArray[np.float32]:
        """Return the embeddings, float32 (Q, D), unit rows. Raises UnreadableImage."""
        vectors = self._vectors(images)
        for vector in vectors:
            if isinstance(vector, UnreadableImage):
                raise vector
        return np.array(vectors, dtype=np.float32).reshape(len(images), self.manifest.model.dim)

    def _vectors(self, queries: Sequence[Query]) -> list[npt.NDArray[np.float32] | UnreadableImage]:
        """Return the unit vector of each query, or why there is none."""
        found: dict[int, npt.NDArray[np.float32] | UnreadableImage] = {}
        pixels: dict[int, npt.NDArray[np.uint8]] = {}
        with tempfile.TemporaryDirectory(prefix="embedsearch-") as folder, self._embedding:
            paths: dict[int, str] = {}
            for place, query in enumerate(queries):
                if isinstance(query, bytes | str | os.PathLike):
                    paths[place] = _path_of(query, folder, place)
                elif isinstance(query, np.ndarray) and query.ndim == 1:
                    found[place] = self._checked_vector(query)
                else:
                    pixels[place] = _square(query, self.manifest.model.input_side)
            self._check_open()
            for place, outcome in self._decode(paths, queries):
                if isinstance(outcome, UnreadableImage):
                    found[place] = outcome
                else:
                    pixels[place] = outcome
            if pixels:
                vectors = self._network()(np.stack(list(pixels.values())))
                for place, vector in zip(pixels, vectors, strict=True):
                    finite = np.isfinite(vector).all()
                    found[place] = vector if finite else UnreadableImage(NOT_FINITE)
        return [found[place] for place in range(len(queries))]

    def _check_open(self) -> None:
        if self._snapshot.shards == [] and self.manifest.shards:
            raise StoreNotFound("this Searcher is closed: open the store again")

    def _decode(
        self, paths: dict[int, str], queries: Sequence[Query]
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8] | UnreadableImage]]:
        if not paths:
            return
        if self._pool is None:
            workers = min(len(paths), available_processors())
            side = self.manifest.model.input_side
            self._pool = DecodePool(side, self._limits(), workers=workers)
        jobs = (_job(place, path) for place, path in paths.items())
        try:
            batches = self._pool.run(jobs)
            self._network()  # loads while the worker starts and decodes
            yield from self._outcomes(batches, queries)
        except BaseException:  # an abandoned stream's late answers must not reach the next one
            self._pool.close()
            self._pool = None
            raise

    def _outcomes(
        self, batches: Iterator[DecodedBatch], queries: Sequence[Query]
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8] | UnreadableImage]]:
        for batch in batches:
            for ref, pixels in zip(batch.images.refs, batch.images.pixels, strict=True):
                yield ref.root, pixels.copy()
            for failure in batch.failures:
                query = queries[failure.root]
                name = "the image given" if isinstance(query, bytes) else printable(str(query))
                words = f"{name} cannot be read: {failure.reason} ({failure.detail})"
                if failure.reason is Reason.VANISHED:
                    words = f"{name}: there is no such file"
                yield failure.root, UnreadableImage(words)

    def _limits(self) -> DecodeLimits:
        """Return the limits, raised as `index` runs did: what is in the store can be asked for."""
        least, last = DecodeLimits(), self.manifest.run.get("limits", {})
        return DecodeLimits(
            max_pixels=max(least.max_pixels, last.get("max_pixels", 0)),
            max_bytes=max(least.max_bytes, last.get("max_bytes", 0)),
            allow_truncated=last.get("allow_truncated", False),
        )

    def _network(self) -> PixelExtractor:
        if self._extractor is None:
            self._extractor = load_extractor(
                self.manifest.model, self._device, self._precision, self._session
            )
        return self._extractor

    def _checked_vector(self, query: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        vector: npt.NDArray[np.float32] = np.asarray(query, dtype=np.float32)
        if vector.shape != (self.manifest.model.dim,):
            raise UsageError(
                f"a query vector has {self.manifest.model.dim} components here, not {vector.size}"
            )
        try:
            check_unit_rows(vector.reshape(1, -1))
        except ValueError as error:
            raise UsageError(f"a query vector has length 1: {error}") from error
        return vector

    def _hits(
        self, queries: npt.NDArray[np.float32], k: int, min_score: float | None
    ) -> list[list[Hit]]:
        with self._reading:
            self._check_open()
            found = self._rows.nearest(queries, k)
            return [self._ranked(neighbors, k, min_score) for neighbors in found]

    def _ranked(self, neighbors: Neighbors, k: int, min_score: float | None) -> list[Hit]:
        scores = neighbors.scores.tolist()
        if not scores:
            return []
        images = self._snapshot.images(neighbors.ordinals)
        order = sorted(range(len(images)), key=lambda i: _sort_key(scores[i], images[i]))[:k]
        roots = {root.id: root.path for root in self.manifest.roots}
        return [
            Hit(
                rank=rank,
                score=scores[i],
                path=os.path.join(roots[images[i].root], os.fsdecode(images[i].key)),
                key=os.fsdecode(images[i].key),
                width=images[i].width,
                height=images[i].height,
            )
            for rank, i in enumerate(order, start=1)
            if min_score is None or scores[i] >= min_score
        ]


def thumbnails(
    images: Sequence[str | os.PathLike[str] | bytes], side: int
) -> Iterator[npt.NDArray[np.uint8] | None]:
    """Yield uint8 (side, side, 3) of each image, whole and centred on white, in order.

    None stands for one that cannot be read.
    """
    if not images:
        return
    workers = min(len(images), available_processors())
    with (
        tempfile.TemporaryDirectory(prefix="embedsearch-") as folder,
        DecodePool(side, DecodeLimits(), workers=workers, fit=True) as pool,
    ):
        jobs = (_job(place, _path_of(image, folder, place)) for place, image in enumerate(images))
        found: dict[int, npt.NDArray[np.uint8] | None] = {}
        place = 0
        for batch in pool.run(jobs):
            for ref, pixels in zip(batch.images.refs, batch.images.pixels, strict=True):
                found[ref.root] = pixels.copy()
            found |= {failure.root: None for failure in batch.failures}
            while place in found:  # a slow one comes later than those after it
                yield found.pop(place)
                place += 1


def _sort_key(score: float, image: StoredImage) -> tuple[float, int, bytes]:
    return -score, image.root, image.key


def _job(place: int, path: str) -> DecodeJob:
    """Return the job for a real path; its folder may be one that can be passed, not listed."""
    folder, name = os.path.split(path)
    return DecodeJob(ImageRef(place, name, -1, -1), folder)


def _path_of(image: str | os.PathLike[str] | bytes, folder: str, place: int) -> str:
    """Return where a worker process can open an image; bytes are written into `folder`."""
    if not isinstance(image, bytes):
        if "\0" in os.fsdecode(image):
            raise UsageError(f"a path holds no NUL: {os.fsdecode(image)!r}")
        return os.path.realpath(os.fsdecode(image))
    path = Path(os.path.realpath(folder)) / str(place)
    path.write_bytes(image)
    return str(path)


def _square(query: Any, side: int) -> npt.NDArray[np.uint8]:
    """Return a PIL image or a uint8 array as pixels of the network's size."""
    from PIL import Image

    from embedsearch.decode.image import square

    if isinstance(query, np.ndarray):
        if query.dtype != np.uint8 or query.ndim != 3 or query.shape[2] != 3 or not query.size:
            raise UsageError(
                f"a query array is uint8 (H, W, 3) or a unit vector, not {query.dtype} "
                f"{query.shape}"
            )
        query = Image.fromarray(query)
    if not isinstance(query, Image.Image):
        raise UsageError(f"a query is a path, bytes, an image or an array, not {type(query)}")
    return square(query, side)
