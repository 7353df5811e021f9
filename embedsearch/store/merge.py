"""Merge small and mostly deleted shards into a few large ones; in: shards, out: new shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.store.manifest import Segment, ShardRecord
from embedsearch.store.shards import ROW_GROUP_ROWS, Shard, row_schema, write_shard

# Of the uncompressed vectors. A shard of this size fills one flat FAISS file.
SHARD_BYTES = 64 << 20
SMALL_BYTES = SHARD_BYTES // 2  # two of these fit into one shard


def rows_per_shard(dim: int) -> int:
    """Return the maximum rows of a shard."""
    return max(1, SHARD_BYTES // (2 * dim))


@dataclass(frozen=True)
class Move:
    """A run of rows that a merge moved from one shard to another."""

    old: str
    old_start: int
    new: str
    new_start: int
    rows: int


@dataclass(frozen=True)
class Merged:
    """The result of a merge: all shards in order, deleted rows that are still in one, and moves."""

    records: list[ShardRecord]
    deleted: npt.NDArray[np.int64]
    moves: list[Move]


def merge_shards(
    store: Path, generation: int, shards: list[Shard], deleted: npt.NDArray[np.int64], dim: int
) -> Merged:
    """Rewrite small shards, and shards whose rows are mostly deleted, as large ones."""
    dead = {shard.record.name: _dead_rows(shard, deleted) for shard in shards}
    small = [s for s in shards if 2 * dim * s.record.rows < SMALL_BYTES]
    sparse = [s for s in shards if 2 * len(dead[s.record.name]) > s.record.rows]
    if len(small) < 2:
        small = []
    rewritten = [s for s in shards if s in small or s in sparse]
    kept = [s.record for s in shards if s not in rewritten]
    live = sum(s.record.rows - len(dead[s.record.name]) for s in rewritten)
    tables = _chunks(_live_tables(rewritten, dead), ROW_GROUP_ROWS)
    schema = row_schema(dim)
    written = []
    while live > 0:
        groups = max(1, rows_per_shard(dim) // ROW_GROUP_ROWS)
        record = write_shard(store, generation, islice(tables, groups), schema)
        live -= record.rows
        written.append(record)
    gone = [dead[s.record.name] for s in rewritten]
    left = np.setdiff1d(deleted, np.concatenate([np.empty(0, np.int64), *gone]))
    return Merged([*kept, *written], left, list(_moves(rewritten, dead, written)))


def _moves(
    rewritten: list[Shard], dead: dict[str, npt.NDArray[np.int64]], written: list[ShardRecord]
) -> Iterator[Move]:
    """Yield the moves of the live rows of the rewritten shards, in runs without a gap."""
    edges = np.cumsum([0, *(record.rows for record in written)])
    total = 0
    for shard in rewritten:
        old = np.arange(shard.record.rows)
        if len(dead[shard.record.name]):
            rows = np.concatenate([t.column("row").to_numpy() for t in shard.columns(["row"])])
            old = np.flatnonzero(~np.isin(rows, dead[shard.record.name]))
        new = total + np.arange(len(old))
        total += len(old)
        home = np.searchsorted(edges, new, side="right") - 1
        breaks = np.flatnonzero((np.diff(old) != 1) | (np.diff(home) != 0)) + 1
        for run in np.split(np.arange(len(old)), breaks):
            if len(run):
                first, target = run[0], written[home[run[0]]].name
                start = int(new[first] - edges[home[first]])
                yield Move(shard.record.name, int(old[first]), target, start, len(run))


def relocated(segments: Iterable[Segment], moves: list[Move]) -> tuple[Segment, ...]:
    """Return the segments of a FAISS file after a merge, with moved runs updated."""
    by_shard: dict[str, list[Move]] = {}
    for move in moves:
        by_shard.setdefault(move.old, []).append(move)
    found: list[Segment] = []
    for segment in segments:
        position, end = segment.start, segment.start + segment.rows
        if segment.shard not in by_shard:
            found.append(segment)
            continue
        for move in by_shard[segment.shard]:
            start = max(move.old_start, position)
            if start < (stop := min(move.old_start + move.rows, end)):
                if position < start:  # rows that the merge dropped
                    found.append(Segment(segment.shard, start - position, position))
                found.append(
                    Segment(move.new, stop - start, move.new_start + start - move.old_start)
                )
                position = stop
        if position < end:
            found.append(Segment(segment.shard, end - position, position))
    return tuple(found)


def _dead_rows(shard: Shard, deleted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if not deleted.size:
        return deleted
    rows = [table.column("row").to_numpy() for table in shard.columns(["row"])]
    return np.intersect1d(np.concatenate(rows), deleted)


def _live_tables(shards: list[Shard], dead: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.Table]:
    for shard in shards:
        shard.verify()
        for table in shard.columns(row_schema(1).names):
            alive = ~np.isin(table.column("row").to_numpy(), dead[shard.record.name])
            yield table if alive.all() else table.filter(pa.array(alive))


def _chunks(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `rows` rows, the last one shorter."""
    rest: list[pa.Table] = []
    waiting = 0
    for table in tables:
        rest.append(table)
        waiting += len(table)
        while waiting >= rows:
            joined = pa.concat_tables(rest)
            yield joined.slice(0, rows)
            rest, waiting = [joined.slice(rows)], waiting - rows
    if waiting:
        yield pa.concat_tables(rest)
