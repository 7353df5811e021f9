"""The store's center, kept in step with its images; in: vectors that come, out: manifests.

It is set with the first commit. It stays while the store grows, and is recomputed at the end of a
run where it would move far, or the images are twice as many and it would move a little. The FAISS
files are then built again from the shards; nothing is embedded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import MODEL_CENTER, NO_CENTER, STORE_CENTER
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.core.unknown_fields import replaced
from embedsearch.store.center import CenterRecord, mean_sum
from embedsearch.store.manifest import Manifest, SearchRecord, ShardRecord
from embedsearch.store.shards import Shard
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter

_FEW_LEFT = 0.5  # of the images that were ever added: then those that are left are read


class Centering:
    """The center of the generations that an update commits."""

    def __init__(
        self, writer: StoreWriter, model: ModelSpec, kind: str | None, *, rebuild: bool
    ) -> None:
        """`kind` is what was requested, None to keep that of the store."""
        before = writer.manifest
        kept = None if before is None or before.center is None else before.center.kind
        was_pooled = before is not None and before.model.is_of_pooled_maps
        if rebuild and before is not None and was_pooled != model.is_of_pooled_maps:
            kept = None  # it was the choice for another kind of vectors
        if before is None or rebuild:
            kept = kept or (STORE_CENTER if model.is_of_pooled_maps else NO_CENTER)
        self._kind = kind or kept  # None for a store that has none, made by an older version
        self._writer = writer
        self._sum: npt.NDArray[np.float64] = np.zeros(model.dim)
        self._count = 0

    def add(self, vectors: npt.NDArray[np.floating]) -> None:
        """Count images that are added, by their vectors, (n, D)."""
        self._sum += vectors.astype(np.float16).sum(axis=0, dtype=np.float64)
        self._count += len(vectors)

    def add_shards(self, shards: Iterable[ShardRecord]) -> None:
        """Count the images of shards that other processes wrote."""
        for record in shards:
            shard = Shard(self._writer.store, record, len(self._sum))
            try:
                total, count = mean_sum(shard.vectors(), len(self._sum))
            finally:
                shard.close()
            self._sum, self._count = self._sum + total, self._count + count

    def counted(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the images that came; the first ones make its center."""
        if self._kind is None:
            return manifest
        record = manifest.center or CenterRecord(self._kind)
        is_first = not record.vector and manifest.live == self._count > 0
        record = record.added(self._sum, self._count)
        self._sum, self._count = np.zeros_like(self._sum), 0
        if is_first:
            record = record.taken(self._expected(manifest.model))
        return replace(manifest, center=record)

    def renewed(self, manifest: Manifest, session: Session) -> Manifest:
        """Return the manifest, where that is due with a new center and without FAISS files."""
        before = manifest.center or CenterRecord(NO_CENTER)
        if self._kind is None or not manifest.live:
            return manifest
        record = replaced(before, kind=self._kind)
        few_left = manifest.live <= _FEW_LEFT * record.seen
        if record.kind == STORE_CENTER and (few_left or not record.seen):
            record = self._recounted(manifest, record)
        elif record.kind == MODEL_CENTER and record == before and before.vector:
            return manifest  # the weights are the same
        newer = record.taken(self._expected(manifest.model))
        if not before.is_out_of_date(newer, manifest.model.dim):
            return replace(manifest, center=record)
        session.notice(
            f"the center of the vectors is recomputed, from {newer.images:,} images"
            if newer.images
            else "vectors are measured from an estimate made of the weights"
            if newer.vector
            else "vectors are compared as they are"
        )
        none = vars(SearchRecord(manifest.search.budget))  # nothing is measured of these vectors
        search = replaced(manifest.search, **none)
        return replace(manifest, center=newer, exact=(), ann=None, search=search)

    def _recounted(self, manifest: Manifest, record: CenterRecord) -> CenterRecord:
        """Return the record with the mean of the images that are there."""
        with Snapshot(self._writer.store, manifest) as snapshot:
            live = snapshot.live_mask()
            starts = snapshot.starts.tolist()
            parts = (
                vectors[live[first : first + len(vectors)]]
                for shard, start in zip(snapshot.shards, starts, strict=False)
                for first, vectors in _placed(shard, start)
            )
            total, count = mean_sum(parts, manifest.model.dim)
        return replaced(record, seen=0, mean="").added(total, count)

    def _expected(self, model: ModelSpec) -> npt.NDArray[np.float32]:
        """Return the mean as estimated from the weights, zeros if no such center is wanted.

        Raises WeightsUnavailable.
        """
        if self._kind != MODEL_CENTER:
            return np.zeros(model.dim, np.float32)
        from embedsearch.network.expected import expected_of

        return expected_of(model)


def _placed(shard: Shard, start: int) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
    """Yield (ordinal of the first row, vectors) of each row group."""
    for vectors in shard.vectors():
        yield start, vectors
        start += len(vectors)
