"""Whether the search index still suits the rows; in: a manifest and a budget, out: Due."""

from __future__ import annotations

from enum import Enum

from embedsearch.core.config import SearchBudget
from embedsearch.store.manifest import AnnRecord, Manifest

_ADD_AT = 0.25  # of the latency: limit for exact search of rows outside the index
_BUILD_AT_DEAD = 0.2  # of the rows of an index
_BUILD_AT_DEAD_HNSW = 0.05  # HNSW passes through dead rows to find live ones
_BUILD_AT_GROWTH = 2.0  # of the rows since training
_MEASURE_AT_CHANGE = 0.1  # of the rows since the last measurement


class Due(Enum):
    """What must be done about the search index of a store."""

    NOTHING = "nothing"
    ADD = "add"  # rows to the index
    CHOOSE = "choose"  # again, by measuring


def due(manifest: Manifest, budget: SearchBudget) -> Due:
    """Return what must be done before the next commit of this manifest."""
    search, ann = manifest.search, manifest.ann
    if not manifest.live:
        return Due.NOTHING
    if search.budget != budget or not search.measured_rows:
        return Due.CHOOSE
    if ann is None:
        changed = abs(manifest.live - search.measured_rows)
        return Due.CHOOSE if changed > _MEASURE_AT_CHANGE * search.measured_rows else Due.NOTHING
    inside = covered_rows(manifest, ann)
    dead = ann.rows - inside + manifest.deleted_rows
    limit = _BUILD_AT_DEAD_HNSW if "HNSW" in ann.factory else _BUILD_AT_DEAD
    if dead > limit * ann.rows or manifest.live > _BUILD_AT_GROWTH * ann.trained_rows:
        return Due.CHOOSE
    outside = sum(shard.rows for shard in manifest.shards) - inside
    expected_s = search.exact_latency_s * outside / search.measured_rows
    return Due.ADD if expected_s > _ADD_AT * budget.latency_s else Due.NOTHING


def covered_rows(manifest: Manifest, ann: AnnRecord) -> int:
    """Return how many rows of the shards an index covers."""
    known = {shard.name for shard in manifest.shards}
    return sum(part.rows for part in ann.segments if part.shard in known)
