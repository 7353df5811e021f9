"""An update of a store: rows, deletions, failures and user columns, committed as generations."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch._version import __version__
from embedsearch.core.config import SearchBudget
from embedsearch.core.errors import Interrupted
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.names import unicode_text
from embedsearch.core.records import EmbeddingBatch, Failure, Root
from embedsearch.core.session import Session
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.indexing.centering import Centering
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.exact_files import refresh_exact
from embedsearch.indexing.images_table import write_images_table
from embedsearch.indexing.known_rows import KeptRow
from embedsearch.indexing.read_back import check_readable
from embedsearch.indexing.words_file import refresh_words
from embedsearch.searching.ann.tuning_due import Due, due
from embedsearch.store.manifest import Manifest, SearchRecord, ShardRecord
from embedsearch.store.merge import merge_shards, relocated, rows_per_shard
from embedsearch.store.shards import (
    batch_table,
    failure_table,
    halves,
    row_schema,
    write_shard,
    write_small,
)
from embedsearch.store.snapshot import Snapshot, read_deleted, read_metadata, user_columns
from embedsearch.store.writer import StoreWriter

TIDY_EVERY_SHARDS = 32
_MOVE_ROWS = 4096


class StoreUpdate:
    """Collects rows and commits them through a StoreWriter; without a commit nothing changes.

    `manifest` is what the next commit would write, without the pending rows and deletions.
    """

    def __init__(
        self,
        writer: StoreWriter,
        model: ModelSpec,
        roots: tuple[Root, ...],
        *,
        rebuild: bool,
        center: str | None = None,
    ) -> None:
        """`center` is the kind of it, see IndexConfig; None keeps that of the store."""
        self.writer = writer
        old = None if rebuild else writer.manifest
        made: dict[str, Any] = {"generation": 0, "parent": 0, "created": "", "run": {}}
        made |= {"tool": f"embedsearch {__version__}", "model": model, "roots": roots}
        known = "" if writer.manifest is None else writer.manifest.store_id
        made["store_id"] = known or secrets.token_hex(16)
        if old is not None:
            self.manifest = replace(old, **made)
        elif writer.manifest is None:
            self.manifest = Manifest(next_row=0, live=0, **made)
        else:  # a rebuild
            search = SearchRecord(writer.manifest.search.budget)
            next_row = writer.manifest.next_row
            made["unknown"] = writer.manifest.unknown
            self.manifest = Manifest(next_row=next_row, live=0, search=search, **made)
        self._centering = Centering(writer, model, center, rebuild=rebuild)
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._fresh: list[Future[ShardRecord]] = []
        self._deleted: list[int] = []
        self._failures: list[Failure] | None = None
        self._user_columns: pa.Table | None = None
        self.brings_columns = False  # whether the next commit has other columns of the user
        self._moved: dict[int, int] = {}  # old row number to new, of images that stay
        self._tidy_shards = len(self.manifest.shards)
        self.images_since_commit = 0
        self.committed_at = time.monotonic()
        self.write_s = 0.0

    @property
    def images(self) -> int:
        """Return the rows that the store will hold."""
        return self.manifest.live + self._pending_rows - len(self._deleted)

    def add(self, batch: EmbeddingBatch) -> int:
        """Add the rows of a batch; a full shard is written in the background, uncommitted.

        Returns the number of the first row. Raises StorageError if an earlier shard failed.
        """
        started, first = time.monotonic(), self.manifest.next_row
        self._add_rows(batch_table(batch, self.manifest.next_row))
        self._centering.add(batch.vectors)
        self.images_since_commit += len(batch.refs)
        self.write_s += time.monotonic() - started
        return first

    def apply(self, changes: Changes, snapshot: Snapshot | None) -> None:
        """Apply what needs no network: delete rows, and move vectors to the refs of moved files.

        Without a snapshot there are no known rows.
        """
        self.delete(changes.deleted)
        for double, row in changes.doubles:
            self.replace(double, row)
        if snapshot is not None:
            self.move(changes.kept, snapshot)

    def move(
        self,
        kept: list[KeptRow],
        snapshot: Snapshot,
        vectors: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Move rows to new refs, with facts and user columns, and with their vectors or new ones.

        New `vectors` are (n, D), unit rows.
        """
        names = row_schema(snapshot.manifest.model.dim).names
        order = sorted(range(len(kept)), key=lambda number: kept[number].ordinal)
        for start in range(0, len(order), _MOVE_ROWS):
            part = order[start : start + _MOVE_ROWS]
            chunk = [kept[number] for number in part]
            table = snapshot.take(np.array([one.ordinal for one in chunk]), names)
            rows = range(self.manifest.next_row, self.manifest.next_row + len(chunk))
            values: dict[str, Iterable[Any]] = {
                "row": rows,
                "root": [one.ref.root for one in chunk],
                "key": [os.fsencode(one.ref.key) for one in chunk],
                "path": [unicode_text(one.ref.key) for one in chunk],
                "mtime_ns": [one.ref.mtime_ns for one in chunk],
            }
            for name, column in values.items():
                index = table.schema.get_field_index(name)
                field = table.schema.field(index)
                table = table.set_column(index, field, pa.array(column, field.type))
            if vectors is not None:
                index = names.index("vector")
                table = table.set_column(index, table.schema.field(index), halves(vectors[part]))
                self._centering.add(vectors[part])
            self._add_rows(table)
            for one, row in zip(chunk, rows, strict=True):
                self.replace(one.row, row)

    def add_shards(self, shards: Sequence[ShardRecord], next_row: int) -> None:
        """Add shards that other processes wrote, of rows numbered below `next_row`."""
        manifest = self.manifest
        self._centering.add_shards(shards)
        live = manifest.live + sum(shard.rows for shard in shards)
        self.manifest = replace(
            manifest, shards=(*manifest.shards, *shards), live=live, next_row=next_row
        )

    def replace(self, old: int, new: int) -> None:
        """Delete a row in favor of another, which inherits its user columns."""
        self._moved[old] = new
        self.delete([old])

    def set_user_columns(self, table: pa.Table) -> None:
        """Replace the user's columns of the staged rows, sorted by the column `row`."""
        self._user_columns, self.brings_columns = table, True

    def set_roots(self, roots: tuple[Root, ...]) -> None:
        """Replace the roots of the store."""
        self.manifest = replace(self.manifest, roots=roots)

    def set_rules(self, rules: WalkRules) -> None:
        """Replace what walks leave out, and whether they follow links."""
        follow, excludes = rules.follow_links, rules.excludes
        self.manifest = replace(self.manifest, excludes=excludes, follow_links=follow)

    def delete(self, rows: Iterable[int]) -> None:
        """Delete rows by number."""
        self._deleted.extend(rows)

    def set_failures(self, failures: list[Failure]) -> None:
        """Replace the list of files that could not be indexed."""
        self._failures = sorted(failures, key=lambda f: (f.root, os.fsencode(f.key)))

    @contextmanager
    def staged(self) -> Iterator[Snapshot]:
        """Write what is pending, and open the rows that the next commit makes current."""
        started = time.monotonic()
        self._stage()
        self.write_s += time.monotonic() - started
        with Snapshot(self.writer.store, self.manifest) as snapshot:
            yield snapshot

    def user_columns(self) -> pa.Table | None:
        """Return the user's columns of the rows that are staged, sorted by `row`."""
        if self._user_columns is None and self.manifest.metadata is not None:
            return read_metadata(self.writer.store, self.manifest.metadata)
        return self._user_columns

    def commit(self, run: Mapping[str, Any]) -> None:
        """Write what is pending and make it the current generation. Raises StorageError."""
        started = time.monotonic()
        self._stage()
        manifest, number = self.manifest, self.writer.next_generation
        store = self.writer.store
        table = self._user_columns
        if table is not None and len(table):
            record = write_small(store, "u", number, table)
            if self.brings_columns:
                check_readable(store, record, table, manifest.metadata)
            manifest = replace(manifest, metadata=record)
        if self._failures is not None:
            count = len(self._failures)
            table = failure_table(self._failures)
            failures = write_small(store, "f", number, table) if count else None
            manifest = replace(manifest, failures=failures, failure_rows=count)
        manifest = replace(self._centering.counted(manifest), run=dict(run))
        self.writer.commit(manifest)
        self.manifest = manifest
        assert self.writer.manifest is not None, "it was committed"
        write_images_table(store, self.writer.manifest)
        self._failures, self._user_columns, self.brings_columns = None, None, False
        self.images_since_commit = 0
        self.committed_at = time.monotonic()
        self.write_s += self.committed_at - started
        # A long run closes a small shard at every checkpoint; a reader holds all of them open.
        if len(manifest.shards) - self._tidy_shards >= TIDY_EVERY_SHARDS:
            self.tidy()

    def finish(self, budget: SearchBudget, run: Mapping[str, Any], session: Session) -> None:
        """End a run: recompute the center if due, merge shards, write caches, tune the search.

        Raises Interrupted if the new search index is left to the next run.
        """
        self.manifest = self._centering.renewed(self.manifest, session)
        self.tidy()
        self.manifest = replace(
            self.manifest, words=refresh_words(self.writer, self.manifest, session)
        )
        stopped = None
        if due(self.manifest, budget) is not Due.NOTHING:
            from embedsearch.searching.ann.tuning import tune  # a no-op run loads no FAISS

            try:
                self.manifest = tune(self.writer, self.manifest, budget, session)
            except Interrupted as error:
                stopped = Interrupted(
                    f"interrupted; all {self.images} images are committed, the same command goes "
                    "on with the search index",
                    error.exit_code - 128,
                )
        if not self._is_tidy:
            self.commit(run)
        if stopped is not None:
            raise stopped

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
            dead, ann, deleted = pa.table({"row": pa.array(merged.deleted)}), manifest.ann, None
            if len(dead):
                deleted = write_small(writer.store, "d", writer.next_generation, dead)
            manifest = replace(
                manifest,
                shards=tuple(merged.records),
                deleted_rows=len(dead),
                deleted=deleted,
                ann=ann and replace(ann, segments=relocated(ann.segments, merged.moves)),
            )
        self.manifest = replace(manifest, exact=refresh_exact(writer, manifest))
        self._tidy_shards = len(manifest.shards)
        self.write_s += time.monotonic() - started

    @property
    def _is_tidy(self) -> bool:
        """Return whether the current generation already holds what `finish` would write."""
        new, current = self.manifest, self.writer.manifest
        return (
            self._user_columns is None
            and current is not None
            and (new.shards, new.caches, new.search, new.center)
            == (current.shards, current.caches, current.search, current.center)
        )

    def _stage(self) -> None:
        """Write the pending rows and deletions, and take both into the manifest."""
        self._close_shard()
        manifest, store = self.manifest, self.writer.store
        fresh = [shard.result() for shard in self._fresh]
        manifest = replace(manifest, shards=(*manifest.shards, *fresh))
        if self._deleted:
            everything = np.sort([*read_deleted(store, manifest), *self._deleted])
            dead = pa.table({"row": pa.array(everything)})
            manifest = replace(
                manifest,
                deleted=write_small(store, "d", self.writer.next_generation, dead),
                deleted_rows=len(everything),
                live=manifest.live - len(self._deleted),
            )
        if self._moved and (table := self.user_columns()) is not None:
            self._user_columns = _renumbered(table, self._moved)
        self.manifest = manifest
        self._fresh, self._deleted, self._moved = [], [], {}

    def _add_rows(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += len(table)
        self.manifest = replace(self.manifest, next_row=self.manifest.next_row + len(table))
        if self._pending_rows >= rows_per_shard(self.manifest.model.dim):
            self._close_shard()

    def _close_shard(self) -> None:
        """Start writing the pending rows, after the previous shard is written."""
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


def _renumbered(table: pa.Table, moved: Mapping[int, int]) -> pa.Table:
    """Return the user's columns with moved rows under their new numbers, sorted.

    A row that has columns already gets what it lacks from those that moved to it.
    """
    if not moved:
        return table
    rows = table.column("row").to_numpy()
    new = {old: _last(row, moved) for old, row in moved.items()}
    is_moved = np.isin(rows, list(new))
    changed = rows.copy()
    changed[is_moved] = [new[row] for row in rows[is_moved].tolist()]
    whole = table.set_column(0, "row", pa.array(changed))
    left = whole.take(np.lexsort((is_moved, changed)))
    merged = left.slice(0, 0)
    while len(left):  # once, but where several rows became one
        numbers = left.column("row").to_numpy()
        is_first = np.concatenate([[True], np.diff(numbers) > 0])
        first = left.filter(pa.array(is_first))
        merged = _filled(merged, first) if len(merged) else first
        left = left.filter(pa.array(~is_first))
    return merged


def _filled(table: pa.Table, others: pa.Table) -> pa.Table:
    """Return the user's columns of a table, and where they have nothing those of others."""
    more = user_columns(others, table.column("row").to_numpy())
    pairs = zip(table.column_names, table.columns, more.columns, strict=True)
    return pa.table({name: pc.coalesce(column, other) for name, column, other in pairs})


def _last(row: int, moved: Mapping[int, int]) -> int:
    """Return the number of a row that may have moved more than once."""
    while row in moved:
        row = moved[row]
    return row
