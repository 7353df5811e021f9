"""A query to hits: images, keys or vectors in, the nearest images of a store out.

decode and embed (queries.py) → the rows that a filter leaves (filters.py) → the nearest of
them (neighbors.py) → hits. Everything answers from one generation.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.columns import RowColumns
from embedsearch.config import (
    DEFAULT_K,
    DIVERSE_POOL,
    DecodeLimits,
    SearchConfig,
    available_processors,
    check_device,
    check_precision,
)
from embedsearch.decode.pool import DecodePool
from embedsearch.errors import StoreNotFound, UnreadableImage, UsageError
from embedsearch.neighbors import Mask, RowSearch
from embedsearch.queries import (
    Crop,
    Key,
    Mix,
    Query,
    QueryEmbedder,
    Vector,
    decode_job,
    drawn_towards,
    path_of,
)
from embedsearch.records import Hit, Neighbors, StoredImage
from embedsearch.session import Session
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot, open_snapshot

__all__ = ["Answer", "Crop", "Key", "Mix", "Query", "Searcher", "open_store", "thumbnails"]

_IMAGES = 32  # embedded at a time
_QUERIES = 512  # answered at a time: many share the passes over the rows
_FILTERS_KEPT = 8
_COLLAPSE_MORE = 4  # times as many are fetched where too few are left after collapsing


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
        self._reading = threading.RLock()  # a Parquet reader is not thread-safe
        self._is_open = True
        try:
            self._rows = RowSearch(snapshot, session)
            self._columns = RowColumns(snapshot)
        except BaseException:
            snapshot.close()
            raise
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._embedder = QueryEmbedder(
            self.manifest.model, self._limits(), device, precision, session, self._stored
        )

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
        self._embedder.close()
        with self._reading:
            self._is_open = False
            self._rows.close()
            self._snapshot.close()
            self._masks.clear()

    def query(
        self,
        image: Query | None = None,
        k: int = DEFAULT_K,
        *,
        like: Sequence[Any] = (),
        unlike: Sequence[Any] = (),
        **options: Any,
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

    def query_batch(
        self, images: Iterable[Query], k: int = DEFAULT_K, **options: Any
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
        **options: Any,
    ) -> Iterator[Answer]:
        """Yield an Answer a query, in order; one that cannot be read does not stop the others."""
        if isinstance(images, str | bytes):
            raise UsageError("several queries are a list; for one image there is query()")
        config = config or _search_config(k, options)
        for chunk in _chunks(images):
            vectors = self._vectors(chunk)
            good = [v for v in vectors if not isinstance(v, UnreadableImage)]
            hits = iter(self._hits(np.array(good, dtype=np.float32), config) if good else [])
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

    def _vectors(self, queries: Sequence[Query]) -> list[Vector | UnreadableImage]:
        self._check_open()
        return self._embedder.vectors(queries)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreNotFound("this Searcher is closed: open the store again")

    def _limits(self) -> DecodeLimits:
        """Return the limits, raised as `index` runs did: what is in the store can be asked for."""
        least, last = DecodeLimits(), self.manifest.run.get("limits", {})
        return DecodeLimits(
            max_pixels=max(least.max_pixels, last.get("max_pixels", 0)),
            max_bytes=max(least.max_bytes, last.get("max_bytes", 0)),
            allow_truncated=last.get("allow_truncated", False),
        )

    def _stored(self, key: str) -> Vector:
        """Return the vector of an image of the store as a query. Raises UsageError."""
        with self._reading:
            self._check_open()
            ordinals = self._columns.find(key)
            alive = self._rows.alive
            found = [int(place) for place in ordinals if alive is None or alive[place]]
            if len(found) != 1:
                folders = f": give its whole path, {len(found)} folders have it" if found else ""
                raise UsageError(f"no single image of the store has the key {key!r}{folders}")
            vector = self._rows.vectors(np.array(found))[0].astype(np.float32)
        unit: Vector = vector / np.linalg.norm(vector)
        return unit

    def _mask(self, where: str | None) -> Mask | None:
        """Return which rows meet a condition, bool (all shard rows,); the last ones are kept."""
        if where is None:
            return None
        if where not in self._masks:
            self._masks[where] = self._columns.where(where)
        self._masks.move_to_end(where)
        while len(self._masks) > _FILTERS_KEPT:
            self._masks.popitem(last=False)
        return self._masks[where]

    def _hits(self, queries: Vector, config: SearchConfig) -> list[list[Hit]]:
        """Return the hits of each of the queries, float32 (Q, D), unit rows."""
        with self._reading:
            self._check_open()
            mask = self._mask(config.where)
            if config.expand:
                queries = self._expanded(queries, config.expand, mask)
            fetch = DIVERSE_POOL if config.diverse is not None else config.offset + config.k
            found = self._rows.nearest(queries, fetch, mask)
            candidates = self._candidates(found)
            return [
                self._page(query, rows, fetch, mask, config)
                for query, rows in zip(queries, candidates, strict=True)
            ]

    def _expanded(self, queries: Vector, count: int, mask: Mask | None) -> Vector:
        """Return the queries drawn towards their nearest rows."""
        found = self._rows.nearest(queries, count, mask)
        return np.array(
            [
                drawn_towards(query, near.scores, self._rows.vectors(near.ordinals))
                for query, near in zip(queries, found, strict=True)
            ]
        )

    def _page(
        self,
        query: Vector,
        candidates: list[_Row],
        fetch: int,
        mask: Mask | None,
        config: SearchConfig,
    ) -> list[Hit]:
        """Return the hits that the config asks for, of `fetch` nearest rows and more if need be."""
        wanted = config.offset + config.k
        while True:
            ranked = _ranked(candidates, fetch, config.min_score)
            is_all = len(ranked) < fetch
            if config.collapse is not None:
                ranked = self._distinct(ranked, config.collapse, wanted)
                if len(ranked) < wanted and not is_all:
                    fetch *= _COLLAPSE_MORE
                    more = self._rows.nearest(query[None], fetch, mask)
                    (candidates,) = self._candidates(more)
                    continue
            break
        if config.diverse is not None:
            ranked = self._diversified(ranked, config.diverse, wanted)
        page = ranked[config.offset : wanted]
        roots = {root.id: root.path for root in self.manifest.roots}
        metadata = self._columns.metadata([row.image.row for row in page])
        return [
            Hit(
                rank=rank,
                score=row.score,
                percentile=self._percentile(row.score),
                path=os.path.join(roots[row.image.root], os.fsdecode(row.image.key)),
                key=os.fsdecode(row.image.key),
                width=row.image.width,
                height=row.image.height,
                metadata=user,
            )
            for rank, (row, user) in enumerate(
                zip(page, metadata, strict=True), start=config.offset + 1
            )
        ]

    def _candidates(self, found: list[Neighbors]) -> list[list[_Row]]:
        """Return the neighbors of each query with their images, in no order."""
        images = iter(self._snapshot.images(np.concatenate([near.ordinals for near in found])))
        return [
            [
                _Row(score, ordinal, next(images))
                for score, ordinal in zip(near.scores.tolist(), near.ordinals.tolist(), strict=True)
            ]
            for near in found
        ]

    def _distinct(self, ranked: list[_Row], limit: float, count: int) -> list[_Row]:
        """Return up to `count` rows of which no two reach a cosine of `limit`, the best first."""
        vectors = self._units(ranked)
        kept: list[int] = []
        for place in range(len(ranked)):
            if not kept or float((vectors[kept] @ vectors[place]).max()) < limit:
                kept.append(place)
                if len(kept) == count:
                    break
        return [ranked[place] for place in kept]

    def _diversified(self, ranked: list[_Row], weight: float, count: int) -> list[_Row]:
        """Return rows by maximal marginal relevance.

        Each is the best of (1 - weight) score - weight (its highest cosine with those before):
        Carbonell and Goldstein, "The use of MMR" (1998).
        """
        vectors = self._units(ranked)
        scores = np.array([row.score for row in ranked], np.float64)
        nearest = np.zeros(len(ranked))
        left = np.ones(len(ranked), np.bool_)
        chosen: list[_Row] = []
        while left.any() and len(chosen) < count:
            worth = np.where(left, (1.0 - weight) * scores - weight * nearest, -np.inf)
            best = int(worth.argmax())
            chosen.append(ranked[best])
            left[best] = False
            cosine = vectors @ vectors[best]
            nearest = cosine if len(chosen) == 1 else np.maximum(nearest, cosine)
        return chosen

    def _percentile(self, score: float) -> float | None:
        """Return the percentage of pairs of rows, drawn at random, that have a lower cosine."""
        search = self.manifest.search
        if not search.pair_cosines:
            return None
        share = np.interp(score, search.pair_cosines, search.pair_levels)
        return math.floor(1e6 * float(share)) / 1e4

    def _units(self, rows: list[_Row]) -> npt.NDArray[np.float64]:
        """Return the stored vectors of rows, float64 (n, D), of length 1."""
        ordinals = np.array([row.ordinal for row in rows], np.int64)
        vectors = self._rows.vectors(ordinals).astype(np.float64)
        units: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units


@dataclass(frozen=True)
class _Row:
    """A row among the nearest, before it becomes a hit."""

    score: float
    ordinal: int
    image: StoredImage


def _ranked(candidates: list[_Row], count: int, min_score: float | None) -> list[_Row]:
    """Return the first `count` in their final order, those of too low a score cut off."""
    rows = sorted(candidates, key=lambda row: (-row.score, row.image.root, row.image.key))
    least = -1.0 if min_score is None else min_score
    return [row for row in rows[:count] if row.score >= least]


def _chunks(queries: Iterable[Query]) -> Iterator[list[Query]]:
    """Yield the queries in lists that are answered together."""
    chunk: list[Query] = []
    images = 0
    for query in queries:
        chunk.append(query)
        is_vector = isinstance(query, np.ndarray) and query.ndim == 1
        images += not (is_vector or isinstance(query, Key))
        if len(chunk) == _QUERIES or images == _IMAGES:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk


def _search_config(k: int, options: dict[str, Any]) -> SearchConfig:
    try:
        return replace(SearchConfig(k=k), **options)
    except TypeError as error:  # an option that there is not
        raise UsageError(str(error)) from error


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
        jobs = (
            decode_job(place, path_of(image, folder, place)) for place, image in enumerate(images)
        )
        found: dict[int, npt.NDArray[np.uint8] | None] = {}
        place = 0
        for batch in pool.run(jobs):
            for ref, pixels in zip(batch.images.refs, batch.images.pixels, strict=True):
                found[ref.root] = pixels.copy()
            found |= {failure.root: None for failure in batch.failures}
            while place in found:  # a slow one comes later than those after it
                yield found.pop(place)
                place += 1
