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

from embedsearch.ann.search import Candidates, FlatFile, cosines, search_rows
from embedsearch.config import (
    DEFAULT_K,
    DecodeLimits,
    available_processors,
    cache_folder,
    check_device,
    check_precision,
)
from embedsearch.decode.pool import DecodeJob, DecodePool
from embedsearch.errors import DamagedStore, StoreNotFound, UnreadableImage, UsageError
from embedsearch.network.runtime import PixelExtractor, load_extractor
from embedsearch.paths import printable
from embedsearch.records import Hit, ImageRef, Reason, check_unit_rows
from embedsearch.session import Session
from embedsearch.store.files import damaged, verify, verify_once
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import ExactRecord, Manifest
from embedsearch.store.store import Snapshot, open_snapshot

if TYPE_CHECKING:
    from PIL import Image

# A path, the bytes of an image file, a PIL image, uint8 (H, W, 3), or a unit vector float (D,).
Query: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"

# Up to here FAISS files are hashed at every opening, above once per file (see `verify_once`).
VERIFY_ALWAYS_BYTES = 128 << 20
_CHUNK = 32
_SPARE = 16  # candidates beyond k, so that one round is nearly always enough
_PRODUCT_ERROR = 2e-6  # of FAISS's float32 sums


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
            self._sources = list(self._open_sources())
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
            self._sources = []
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
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
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

    def _open_sources(self) -> Iterator[_Source]:
        """Yield a source for each FAISS file, and one for the shards that none covers."""
        snapshot, manifest = self._snapshot, self._snapshot.manifest
        alive = snapshot.live_mask() if manifest.deleted_rows else None
        starts = {
            r.name: int(start) for r, start in zip(manifest.shards, snapshot.starts, strict=False)
        }
        covered: set[str] = set()
        total = sum(record.bytes for record in manifest.exact)
        for record in manifest.exact:
            descriptor = snapshot.exact.get(record.name)
            if descriptor is None:
                self._session.notice(
                    f"{record.relative} is missing: searching the shards, slower; "
                    f"embedsearch repair --store {snapshot.store} makes it again"
                )
                continue
            if isinstance(descriptor, DamagedStore):
                raise descriptor
            if total <= VERIFY_ALWAYS_BYTES:
                verify(snapshot.store, record, descriptor)
            else:
                verify_once(snapshot.store, record, descriptor, cache_folder() / "verified")
            yield _FileSource(snapshot, record, descriptor, starts, alive)
            covered |= {part.shard for part in record.segments}
        rest = [i for i, record in enumerate(manifest.shards) if record.name not in covered]
        if rest:
            yield _ShardSource(snapshot, rest, alive)

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
            if self._snapshot.shards == [] and self.manifest.shards:
                raise StoreNotFound("this Searcher is closed: open the store again")
            for place, outcome in self._decode(paths, queries):
                if isinstance(outcome, UnreadableImage):
                    found[place] = outcome
                else:
                    pixels[place] = outcome
            if pixels:
                vectors = self._network()(np.stack(list(pixels.values())))
                for place, vector in zip(pixels, vectors, strict=True):
                    found[place] = vector
        return [found[place] for place in range(len(queries))]

    def _decode(
        self, paths: dict[int, str], queries: Sequence[Query]
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8] | UnreadableImage]]:
        if not paths:
            return
        if self._pool is None:
            workers = min(len(paths), available_processors())
            side = self.manifest.model.input_side
            self._pool = DecodePool(side, DecodeLimits(), workers=workers)
        refs = [ImageRef(place, path.lstrip("/"), -1, -1) for place, path in paths.items()]
        batches = self._pool.run(DecodeJob(ref, "/") for ref in refs)
        self._network()  # loads while the worker starts and decodes
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
                f"a query vector has {self.manifest.model.dim} components here, not {len(vector)}"
            )
        try:
            check_unit_rows(vector.reshape(1, -1))
        except ValueError as error:
            raise UsageError(f"a query vector has length 1: {error}") from error
        return vector

    def _hits(
        self, queries: npt.NDArray[np.float32], k: int, min_score: float | None
    ) -> list[list[Hit]]:
        found = self._nearest(queries, k)
        roots = {root.id: root.path for root in self.manifest.roots}
        answers: list[list[Hit]] = []
        for ordinals, scores in found:
            if not len(ordinals):
                answers.append([])
                continue
            with self._reading:
                names = ["root", "key", "width", "height"]
                rows = self._snapshot.take(ordinals, names).to_pylist()
            order = sorted(range(len(rows)), key=lambda i: _sort_key(float(scores[i]), rows[i]))[:k]
            answers.append(
                [
                    Hit(
                        rank=rank,
                        score=float(scores[i]),
                        path=os.path.join(roots[rows[i]["root"]], os.fsdecode(rows[i]["key"])),
                        key=os.fsdecode(rows[i]["key"]),
                        width=rows[i]["width"],
                        height=rows[i]["height"],
                    )
                    for rank, i in enumerate(order, start=1)
                    if min_score is None or scores[i] >= min_score
                ]
            )
        return answers

    def _nearest(
        self, queries: npt.NDArray[np.float32], k: int
    ) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Return (ordinals, cosines) of each query: the k nearest and all that tie with the kth.

        Sources rank by inner product with rows that are unit to fp16 rounding only, so more is
        fetched until no row that was not can reach the kth cosine.
        """
        k = min(k, self.manifest.live)
        answers: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = [
            (np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries
        ]
        open_queries = list(range(len(queries))) if k else []
        fetch = k + _SPARE
        smallest = min((record.min_norm for record in self.manifest.shards), default=1.0)
        while open_queries:
            still_open = []
            with self._reading:
                found = [s.search(queries[open_queries], fetch) for s in self._sources]
            for number, place in enumerate(open_queries):
                parts = [source[number] for source in found]
                ordinals = np.concatenate([part.ordinals for part in parts])
                vectors = np.concatenate([part.vectors for part in parts])
                scores = cosines(queries[place], vectors)
                kth = np.sort(scores)[-k]
                bound = max((part.bound for part in parts), default=-np.inf)
                if kth > max(bound / smallest, bound) + _PRODUCT_ERROR or bound == -np.inf:
                    kept = scores >= kth
                    answers[place] = (ordinals[kept], scores[kept])
                else:
                    still_open.append(place)
            open_queries = still_open
            fetch *= 4
        return answers


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
        refs = (
            ImageRef(place, _path_of(image, folder, place).lstrip("/"), -1, -1)
            for place, image in enumerate(images)
        )
        for batch in pool.run(DecodeJob(ref, "/") for ref in refs):
            found = {
                ref.root: pixels.copy()
                for ref, pixels in zip(batch.images.refs, batch.images.pixels, strict=True)
            }
            for place in sorted([*found, *(failure.root for failure in batch.failures)]):
                yield found.get(place)


@dataclass(frozen=True)
class _Found:
    """One query's candidates of one source: ordinals int64 (c,), vectors float16 (c, D).

    `bound` is the largest inner product that a row not among them can have, -inf if none is.
    """

    ordinals: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]
    bound: float


class _FileSource:
    """The rows of one FAISS file."""

    def __init__(
        self,
        snapshot: Snapshot,
        record: ExactRecord,
        descriptor: int,
        starts: dict[str, int],
        alive: npt.NDArray[np.bool_] | None,
    ) -> None:
        try:
            self._file = FlatFile(descriptor, snapshot.manifest.model.dim, record.rows)
        except ValueError as error:
            raise damaged(snapshot.store, record.relative, str(error)) from error
        # -1: the shard was merged into another one since, its rows are found there
        self._ordinals = np.concatenate(
            [
                np.arange(starts[part.shard], starts[part.shard] + part.rows, dtype=np.int64)
                if part.shard in starts
                else np.full(part.rows, -1, dtype=np.int64)
                for part in record.segments
            ]
        )
        mask = self._ordinals >= 0
        if alive is not None:
            mask &= alive[self._ordinals]
        self._alive = None if mask.all() else mask
        self._live = int(mask.sum())

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[_Found]:
        return [
            _Found(
                self._ordinals[c.positions],
                self._file.vectors[c.positions],
                float(c.products[-1]) if len(c.positions) < self._live else -np.inf,
            )
            for c in self._file.search(queries, k, self._alive)
        ]


class _ShardSource:
    """The rows of shards that no FAISS file covers, read from Parquet at every query."""

    def __init__(
        self, snapshot: Snapshot, numbers: list[int], alive: npt.NDArray[np.bool_] | None
    ) -> None:
        self._snapshot = snapshot
        self._numbers = numbers
        self._alive = alive
        for number in numbers:
            snapshot.shards[number].verify()

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[_Found]:
        dim = self._snapshot.manifest.model.dim
        nothing = _Found(np.empty(0, np.int64), np.empty((0, dim), np.float16), -np.inf)
        best = [nothing for _ in queries]
        for number in self._numbers:
            start = int(self._snapshot.starts[number])
            for vectors in self._snapshot.shards[number].vectors():
                alive = None if self._alive is None else self._alive[start : start + len(vectors)]
                live = len(vectors) if alive is None else int(alive.sum())
                some = search_rows(vectors, queries, k, alive)
                best = [
                    _join(mine, new, vectors, start, live)
                    for mine, new in zip(best, some, strict=True)
                ]
                start += len(vectors)
        return best


_Source = _FileSource | _ShardSource


def _join(
    mine: _Found, new: Candidates, vectors: npt.NDArray[np.float16], start: int, live: int
) -> _Found:
    bound = float(new.products[-1]) if 0 < len(new.positions) < live else -np.inf
    return _Found(
        np.concatenate([mine.ordinals, new.positions + start]),
        np.concatenate([mine.vectors, vectors[new.positions]]),
        max(mine.bound, bound),
    )


def _sort_key(score: float, row: dict[str, Any]) -> tuple[float, int, bytes]:
    return -score, row["root"], row["key"]


def _path_of(image: str | os.PathLike[str] | bytes, folder: str, place: int) -> str:
    """Return where a worker process can open an image; bytes are written into `folder`."""
    if not isinstance(image, bytes):
        return os.path.realpath(image)
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
