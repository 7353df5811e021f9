"""The nearest rows of one generation, exactly; in: unit vectors, out: Neighbors a query.

Candidates by inner product come from the FAISS files and from the shards that none covers; the
scores are true cosines of the stored rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.ann.search import Candidates, FlatFile, cosines, search_rows
from embedsearch.config import cache_folder
from embedsearch.errors import DamagedStore
from embedsearch.records import Neighbors
from embedsearch.session import Session
from embedsearch.store.files import damaged, verify, verify_once
from embedsearch.store.manifest import ExactRecord, Manifest
from embedsearch.store.snapshot import Snapshot

# Up to here FAISS files are hashed at every opening, above once per file (see `verify_once`).
VERIFY_ALWAYS_BYTES = 128 << 20
_SPARE = 16  # candidates beyond k, so that one round is nearly always enough
_PRODUCT_ERROR = 2e-6  # of FAISS's float32 sums
_MAX_NORM = 1.002  # of a unit vector rounded to float16, with room


def open_sources(snapshot: Snapshot, session: Session) -> Iterator[Source]:
    """Yield a source for each FAISS file, and one for the shards that none covers.

    A missing file is noticed and done without. Raises DamagedStore for a damaged one.
    """
    manifest = snapshot.manifest
    alive = snapshot.live_mask() if manifest.deleted_rows else None
    starts = {
        r.name: int(start) for r, start in zip(manifest.shards, snapshot.starts, strict=False)
    }
    covered: set[str] = set()
    total = sum(record.bytes for record in manifest.exact)
    for record in manifest.exact:
        descriptor = snapshot.exact.get(record.name)
        if descriptor is None:
            session.notice(
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
        yield FileSource(snapshot, record, descriptor, starts, alive)
        covered |= {part.shard for part in record.segments}
    rest = [i for i, record in enumerate(manifest.shards) if record.name not in covered]
    if rest:
        yield ShardSource(snapshot, rest, alive)


def nearest(
    manifest: Manifest, sources: Sequence[Source], queries: npt.NDArray[np.float32], k: int
) -> list[Neighbors]:
    """Return the neighbors of each of the queries, float32 (Q, D), unit rows.

    Sources rank by inner product with rows that are unit to fp16 rounding only, so more is
    fetched until no row that was not can reach the kth cosine.
    """
    k = min(k, manifest.live)
    none = Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))
    answers = [none for _ in queries]
    open_queries = list(range(len(queries))) if k else []
    fetch = k + _SPARE
    smallest = min((record.min_norm for record in manifest.shards), default=1.0)
    while open_queries:
        still_open = []
        found = [source.search(queries[open_queries], fetch) for source in sources]
        for number, place in enumerate(open_queries):
            parts = [some[number] for some in found]
            ordinals = np.concatenate([part.ordinals for part in parts])
            vectors = np.concatenate([part.vectors for part in parts])
            scores = cosines(queries[place], vectors)
            kth = np.sort(scores)[-k]
            bound = max((part.bound for part in parts), default=-np.inf)
            if kth > max(bound / smallest, bound / _MAX_NORM) + _PRODUCT_ERROR or bound == -np.inf:
                kept = scores >= kth
                answers[place] = Neighbors(ordinals[kept], scores[kept])
            else:
                still_open.append(place)
        open_queries = still_open
        fetch *= 4
    return answers


@dataclass(frozen=True)
class _Found:
    """One query's candidates of one source: ordinals int64 (c,), vectors float16 (c, D).

    `bound` is the largest inner product that a row not among them can have, -inf if none is.
    """

    ordinals: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]
    bound: float


class FileSource:
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


class ShardSource:
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
        best = [_Best(dim, k) for _ in queries]
        for number in self._numbers:
            start = int(self._snapshot.starts[number])
            for vectors in self._snapshot.shards[number].vectors():
                alive = None if self._alive is None else self._alive[start : start + len(vectors)]
                live = len(vectors) if alive is None else int(alive.sum())
                for mine, new in zip(best, search_rows(vectors, queries, k, alive), strict=True):
                    mine.take(new, vectors, start, live)
                start += len(vectors)
        return [mine.found() for mine in best]


class _Best:
    """The k best candidates of one query so far: memory does not grow with the rows seen."""

    def __init__(self, dim: int, k: int) -> None:
        self._k = k
        self._ordinals = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float16)
        self._products = np.empty(0, np.float32)
        self._bound = -np.inf

    def take(
        self, new: Candidates, vectors: npt.NDArray[np.float16], start: int, live: int
    ) -> None:
        """Take up candidates among `vectors`, of which `live` count, at ordinals from `start`."""
        if not len(new.positions):
            return
        if len(new.positions) < live:
            self._bound = max(self._bound, float(new.products[-1]))
        products = np.concatenate([self._products, new.products])
        order = np.argsort(-products, kind="stable")
        if len(order) > self._k:
            self._bound = max(self._bound, float(products[order[self._k]]))
        kept = order[: self._k]
        self._products = products[kept]
        self._ordinals = np.concatenate([self._ordinals, new.positions + start])[kept]
        self._vectors = np.concatenate([self._vectors, vectors[new.positions]])[kept]

    def found(self) -> _Found:
        """Return the candidates."""
        return _Found(self._ordinals, self._vectors, self._bound)


Source = FileSource | ShardSource
