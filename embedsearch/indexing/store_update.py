"""What the next commit will hold: rows, deletions and failures gathered since the last one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from embedsearch._version import __version__
from embedsearch.core.config import SearchBudget
from embedsearch.core.paths import printable
from embedsearch.core.records import EmbeddingBatch, Failure, ModelSpec, Root
from embedsearch.indexing.changes import Carry
from embedsearch.searching.ann.build import flat_bytes
from embedsearch.store.manifest import ExactRecord, Manifest, SearchRecord, ShardRecord
from embedsearch.store.merge import merge_shards, relocated, rows_per_shard
from embedsearch.store.shards import (
    Shard,
    batch_table,
    failure_table,
    row_schema,
    write_shard,
    write_small,
)
from embedsearch.store.snapshot import Snapshot, read_deleted, read_metadata
from embedsearch.store.writer import StoreWriter, write_exact

# FAISS builds and serialises a file in memory, up to four times over for a moment; several files
# bound that.
EXACT_FILE_BYTES = 64 << 20
TIDY_EVERY_SHARDS = 32
_CARRY_ROWS = 4096


class Ledger:
    """Gathers rows and commits them through a StoreWriter. Not committed means not happened."""

    def __init__(
        self, writer: StoreWriter, model: ModelSpec, roots: tuple[Root, ...], *, rebuild: bool
    ) -> None:
        self.writer = writer
        old = None if rebuild else writer.manifest
        self.manifest = Manifest(
            generation=0,
            parent=0,
            created="",
            tool=f"embedsearch {__version__}",
            model=model,
            roots=roots,
            next_row=0 if writer.manifest is None else writer.manifest.next_row,
            live=0 if old is None else old.live,
            shards=() if old is None else old.shards,
            deleted=None if old is None else old.deleted,
            deleted_rows=0 if old is None else old.deleted_rows,
            metadata=None if old is None else old.metadata,
            failures=None if old is None else old.failures,
            failure_rows=0 if old is None else old.failure_rows,
            exact=() if old is None else old.exact,
            ann=None if old is None else old.ann,
            search=_search(writer.manifest) if old is None else old.search,
        )
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._fresh: list[Future[ShardRecord]] = []
        self._deleted: list[int] = []
        self._failures: list[Failure] | None = None
        self._metadata: pa.Table | None = None
        self._moved: dict[int, int] = {}  # old row number to new, of an image that stays
        self._tidy_shards = len(self.manifest.shards)
        self.images_since_commit = 0
        self.committed_at = time.monotonic()
        self.write_s = 0.0

    @property
    def images(self) -> int:
        """Return the rows that the store will hold."""
        return self.manifest.live + self._pending_rows - len(self._deleted)

    def add(self, batch: EmbeddingBatch) -> int:
        """Add the rows of a batch; a full shard is written beside, not yet committed.

        Returns the number of the first row. Raises StorageError for an earlier shard.
        """
        started, first = time.monotonic(), self.manifest.next_row
        self._add_rows(batch_table(batch, self.manifest.next_row))
        self.images_since_commit += len(batch.refs)
        self.write_s += time.monotonic() - started
        return first

    def carry(self, carries: list[Carry], snapshot: Snapshot) -> None:
        """Give old rows new refs: the vectors move into new rows, the old ones are deleted."""
        dim = snapshot.manifest.model.dim
        names = row_schema(dim).names
        carries = sorted(carries, key=lambda carry: carry.ordinal)
        for start in range(0, len(carries), _CARRY_ROWS):
            some = carries[start : start + _CARRY_ROWS]
            table = snapshot.take(np.array([carry.ordinal for carry in some]), names)
            rows = range(self.manifest.next_row, self.manifest.next_row + len(some))
            changes: dict[str, Iterable[Any]] = {
                "row": rows,
                "root": [carry.ref.root for carry in some],
                "key": [os.fsencode(carry.ref.key) for carry in some],
                "path": [printable(carry.ref.key) for carry in some],
                "mtime_ns": [carry.ref.mtime_ns for carry in some],
            }
            for name, values in changes.items():
                place = table.schema.get_field_index(name)
                column = table.schema.field(place)
                table = table.set_column(place, column, pa.array(values, column.type))
            self._add_rows(table)
            for carry, row in zip(some, rows, strict=True):
                self.replace(carry.row, row)

    def take_over(self, shards: Sequence[ShardRecord], next_row: int) -> None:
        """Add shards that others have written, of rows numbered below `next_row`."""
        manifest = self.manifest
        live = manifest.live + sum(shard.rows for shard in shards)
        self.manifest = replace(
            manifest, shards=(*manifest.shards, *shards), live=live, next_row=next_row
        )

    def replace(self, old: int, new: int) -> None:
        """Delete a row of which another has taken the place; what the user said of it stays."""
        self._moved[old] = new
        self.delete([old])

    def set_metadata(self, table: pa.Table) -> None:
        """Replace the user's columns, sorted by the column `row`."""
        self._metadata = table

    def set_roots(self, roots: tuple[Root, ...]) -> None:
        """Replace the roots: what is known of some has changed."""
        self.manifest = replace(self.manifest, roots=roots)

    def delete(self, rows: Iterable[int]) -> None:
        """Delete rows by number."""
        self._deleted.extend(rows)

    def set_failures(self, failures: list[Failure]) -> None:
        """Replace the list of files that could not be indexed."""
        self._failures = sorted(failures, key=lambda f: (f.root, os.fsencode(f.key)))

    def commit(self, run: Mapping[str, Any]) -> None:
        """Write what is pending and make it the current generation. Raises StorageError."""
        started = time.monotonic()
        self._close_shard()
        fresh = [shard.result() for shard in self._fresh]
        manifest, number = self.manifest, self.writer.next_generation
        store = self.writer.store
        if self._deleted:
            everything = np.sort([*read_deleted(store, manifest), *self._deleted])
            record = write_small(store, "d", number, pa.table({"row": pa.array(everything)}))
            manifest = replace(
                manifest,
                deleted=record,
                deleted_rows=len(everything),
                live=manifest.live - len(self._deleted),
            )
        if self._moved and manifest.metadata is not None and self._metadata is None:
            self._metadata = read_metadata(store, manifest.metadata)
        if self._metadata is not None and len(self._metadata):
            table = _renumbered(self._metadata, self._moved)
            manifest = replace(manifest, metadata=write_small(store, "u", number, table))
        if self._failures is not None:
            some = len(self._failures)
            table = failure_table(self._failures)
            failures = write_small(store, "f", number, table) if some else None
            manifest = replace(manifest, failures=failures, failure_rows=some)
        manifest = replace(manifest, shards=(*manifest.shards, *fresh), run=dict(run))
        self.writer.commit(manifest)
        self.manifest = manifest
        self._fresh, self._deleted, self._failures = [], [], None
        self._metadata, self._moved = None, {}
        self.images_since_commit = 0
        self.committed_at = time.monotonic()
        self.write_s += self.committed_at - started
        # A long run closes a small shard at every checkpoint; a reader holds all of them open.
        if len(manifest.shards) - self._tidy_shards >= TIDY_EVERY_SHARDS:
            self.tidy()

    def tidy(self) -> None:
        """Merge small shards and bring the FAISS files up to date; the next commit takes both."""
        started = time.monotonic()
        writer, manifest = self.writer, self.manifest
        assert writer.manifest is not None, "tidy follows a commit"
        dim = manifest.model.dim
        with Snapshot(writer.store, writer.manifest) as snapshot:
            merged = merge_shards(
                writer.store, writer.next_generation, snapshot.shards, snapshot.deleted, dim
            )
        if tuple(merged.records) != manifest.shards:
            dead = pa.table({"row": pa.array(merged.deleted)})
            ann = manifest.ann
            manifest = replace(
                manifest,
                shards=tuple(merged.records),
                deleted_rows=len(dead),
                deleted=write_small(writer.store, "d", writer.next_generation, dead)
                if len(dead)
                else None,
                ann=ann and replace(ann, segments=relocated(ann.segments, merged.moves)),
            )
        self.manifest = replace(manifest, exact=refresh_exact(writer, manifest))
        self._tidy_shards = len(manifest.shards)
        self.write_s += time.monotonic() - started

    @property
    def is_tidy(self) -> bool:
        """Return whether the current generation holds all that `tidy` would make."""
        mine, theirs = self.manifest, self.writer.manifest
        return (
            self._metadata is None
            and theirs is not None
            and (mine.shards, mine.faiss, mine.search)
            == (theirs.shards, theirs.faiss, theirs.search)
        )

    def _add_rows(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += len(table)
        self.manifest = replace(self.manifest, next_row=self.manifest.next_row + len(table))
        if self._pending_rows >= rows_per_shard(self.manifest.model.dim):
            self._close_shard()

    def _close_shard(self) -> None:
        """Have the pending rows written, once those before them are."""
        if not self._pending_rows:
            return
        if self._fresh:
            self._fresh[-1].result()
        schema = row_schema(self.manifest.model.dim)
        rows = pa.concat_tables(self._pending)
        store, number = self.writer.store, self.writer.next_generation
        self._fresh.append(self.writer.beside(partial(write_shard, store, number, [rows], schema)))
        self.manifest = replace(self.manifest, live=self.manifest.live + self._pending_rows)
        self._pending, self._pending_rows = [], 0


def _search(before: Manifest | None) -> SearchRecord:
    """Return the record of a store that begins anew: what was asked of it is kept."""
    return SearchRecord(SearchBudget() if before is None else before.search.budget)


def _renumbered(table: pa.Table, moved: Mapping[int, int]) -> pa.Table:
    """Return the user's columns with rows that got another number under it, sorted."""
    if not moved:
        return table
    rows = table.column("row").to_pylist()
    changed = np.array([moved.get(row, row) for row in rows], np.int64)
    order = pa.array(np.argsort(changed, kind="stable"))
    return table.set_column(0, "row", pa.array(changed)).take(order)


def refresh_exact(writer: StoreWriter, manifest: Manifest) -> tuple[ExactRecord, ...]:
    """Write FAISS files for the shards that none covers; return the records of all files.

    A file is kept while at least half of its rows belong to shards of the manifest, and taken
    up into the new one when that is not much smaller: the number of files stays logarithmic.
    """
    by_name = {record.name: record for record in manifest.shards}
    limit = max(1, EXACT_FILE_BYTES // (2 * manifest.model.dim))
    kept = []
    for record in sorted(manifest.exact, key=_live_rows(by_name), reverse=True):
        live = _live_rows(by_name)(record)
        if 2 * live >= record.rows and (writer.store / record.relative).exists():
            kept.append(record)
    while kept:
        covered = {part.shard for record in kept for part in record.segments}
        rest = sum(r.rows for r in manifest.shards if r.name not in covered)
        smallest = kept[-1]
        if rest == 0 or _live_rows(by_name)(smallest) > min(2 * rest, limit // 2):
            break
        kept.pop()
    covered = {part.shard for record in kept for part in record.segments}
    uncovered = [record for record in manifest.shards if record.name not in covered]
    written = [
        _write_exact(writer, manifest.model.dim, group) for group in _groups(uncovered, limit)
    ]
    return (*kept, *written)


def _live_rows(by_name: Mapping[str, ShardRecord]) -> Any:
    def count(record: ExactRecord) -> int:
        return sum(part.rows for part in record.segments if part.shard in by_name)

    return count


def _groups(records: list[ShardRecord], limit: int) -> Iterable[list[ShardRecord]]:
    """Yield the records in groups of at most `limit` rows, or of one."""
    group: list[ShardRecord] = []
    for record in records:
        if group and sum(r.rows for r in group) + record.rows > limit:
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _write_exact(writer: StoreWriter, dim: int, records: list[ShardRecord]) -> ExactRecord:
    def rows() -> Iterable[Any]:
        for record in records:
            shard = Shard(writer.store, record, dim)
            try:
                shard.verify()
                yield from shard.vectors()
            finally:
                shard.close()

    return write_exact(writer.store, writer.next_generation, records, flat_bytes(dim, rows()))
