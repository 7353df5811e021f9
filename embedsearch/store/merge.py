"""Small and half-dead shards become few large ones; in: shards, out: their successors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.store.manifest import ShardRecord
from embedsearch.store.shards import ROW_GROUP_ROWS, Shard, row_schema, write_shard

# Of the vectors before compression. A shard of this size fills one flat FAISS file.
SHARD_BYTES = 64 << 20
SMALL_BYTES = SHARD_BYTES // 2  # two of them fit into one


def rows_per_shard(dim: int) -> int:
    """Return after how many rows a shard is closed."""
    return max(1, SHARD_BYTES // (2 * dim))


def merge_shards(
    store: Path,
    generation: int,
    shards: list[Shard],
    deleted: npt.NDArray[np.int64],
    dim: int,
) -> tuple[list[ShardRecord], npt.NDArray[np.int64]]:
    """Rewrite small shards as one, and shards of which most rows are deleted.

    Returns the records in their new order and the deleted rows that are still in a shard.
    """
    dead = {shard.record.name: _dead_rows(shard, deleted) for shard in shards}
    small = [s for s in shards if 2 * dim * s.record.rows < SMALL_BYTES]
    sparse = [s for s in shards if 2 * len(dead[s.record.name]) > s.record.rows]
    if len(small) < 2:
        small = []
    worn = [s for s in shards if s in small or s in sparse]
    kept = [s.record for s in shards if s not in worn]
    live = sum(s.record.rows - len(dead[s.record.name]) for s in worn)
    tables = _chunks(_live_tables(worn, dead), ROW_GROUP_ROWS)
    schema = row_schema(dim)
    while live > 0:
        groups = max(1, rows_per_shard(dim) // ROW_GROUP_ROWS)
        record = write_shard(store, generation, _first(tables, groups), schema)
        live -= record.rows
        kept.append(record)
    gone = [dead[s.record.name] for s in worn]
    return kept, np.setdiff1d(deleted, np.concatenate([np.empty(0, np.int64), *gone]))


def _dead_rows(shard: Shard, deleted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if not deleted.size:
        return deleted
    rows = [table.column("row").to_numpy() for table in shard.columns(["row"])]
    return np.intersect1d(np.concatenate(rows), deleted)


def _live_tables(shards: list[Shard], dead: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.Table]:
    for shard in shards:
        shard.verify()
        names = row_schema(1).names
        for table in shard.columns(names):
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


def _first(tables: Iterator[pa.Table], count: int) -> Iterator[pa.Table]:
    for _ in range(count):
        table = next(tables, None)
        if table is None:
            return
        yield table
