"""A generation opened for reading; in: a store, out: its manifest and a Snapshot.

Readers take no lock. They first open every file of a generation; then a sweep by the writer does
no harm. If a file was swept before it was opened, they start over with the newer generation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core.errors import DamagedStore
from embedsearch.core.lru import LRU
from embedsearch.core.records import Failure, StoredImage
from embedsearch.store.current import check_format, read_current, read_generation
from embedsearch.store.files import FileRecord, damaged, open_verified, read_verified, verify
from embedsearch.store.manifest import Manifest
from embedsearch.store.shards import DamageGuard, Shard, failures_of, numbers, vector_array

# Cached row groups of 4,096 images, a quarter of a megabyte each.
_GROUPS_KEPT = 256
_IMAGE_COLUMNS = [field.name for field in fields(StoredImage)]
# A list that is not in the store's order has rows of many groups. They are a third of a megabyte.
_FACTS_KEPT = 128
_FACTS = ["format", "size", "taken_at", "camera", "gps", "brightness", "sharpness"]


class Snapshot:
    """One generation, every file of it open; close it, or use it as a context manager."""

    def __init__(self, store: Path, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.shards: list[Shard] = []
        self.caches: dict[str, int | DamagedStore] = {}  # absent if the file is missing
        self._metadata_fd: int | None = None
        self._metadata: pa.Table | None = None
        self._groups: LRU[tuple[str, int], list[pa.Array[Any]]] = LRU(_GROUPS_KEPT)
        self._facts: LRU[tuple[str, int], list[pa.Array[Any]]] = LRU(_FACTS_KEPT)
        self._name_order: npt.NDArray[np.int64] | None = None
        self.center = manifest.open_center()
        self._row_order: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
        try:
            for record in manifest.shards:
                self.shards.append(Shard(store, record, manifest.model.dim))
            for cache in manifest.caches:
                if (opened := _open_cache(store, cache)) is not None:
                    self.caches[cache.name] = opened
            if manifest.metadata is not None:
                self._metadata_fd = open_verified(store, manifest.metadata)
            rows = [record.rows for record in manifest.shards]
            self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
            self.deleted = read_deleted(store, manifest)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all files."""
        for shard in self.shards:
            shard.close()
        self.shards = []
        self._groups.clear()
        self._facts.clear()
        for descriptor in self.caches.values():
            if isinstance(descriptor, int):
                os.close(descriptor)
        self.caches = {}
        if self._metadata_fd is not None:
            os.close(self._metadata_fd)
            self._metadata_fd = None

    def tables(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the named columns of all shard rows in parts: (first ordinal, table)."""
        for shard, start in zip(self.shards, self.starts, strict=False):
            position = int(start)
            for table in shard.columns(names):
                yield position, table
                position += len(table)

    def live_keys(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (row, root, key) of each live row."""
        deleted = set(self.deleted.tolist())
        for _, table in self.tables(["row", "root", "key"]):
            for row, root, key in zip(*(c.to_pylist() for c in table.columns), strict=True):
                if row not in deleted:
                    yield row, root, key

    def ordinals(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ordinals of rows by number, including deleted rows; -1 for an unknown row."""
        if self._row_order is None:
            parts = [numbers(table.column("row")) for _, table in self.tables(["row"])]
            known = np.concatenate([np.empty(0, np.int64), *parts])
            order = np.argsort(known, kind="stable")
            self._row_order = known[order], order
        known, order = self._row_order
        wanted = np.asarray(rows, np.int64)
        positions = np.searchsorted(known, wanted)
        exists = positions < len(known)
        exists[exists] = known[positions[exists]] == wanted[exists]
        found = np.full(len(wanted), -1, np.int64)
        found[exists] = order[positions[exists]]
        return found

    def name_order(self) -> npt.NDArray[np.int64]:
        """Return the place of each shard row, int64 (rows,), in the order of root and key."""
        if self._name_order is None:
            table = pa.concat_tables([part for _, part in self.tables(["root", "key"])])
            order = table.append_column("n", pa.array(range(len(table)), pa.int64()))
            order = order.sort_by([("root", "ascending"), ("key", "ascending")])
            self._name_order = np.empty(len(table), np.int64)
            self._name_order[numbers(order.column("n"))] = np.arange(len(table))
        return self._name_order

    def live_mask(self) -> npt.NDArray[np.bool_]:
        """Return bool (all shard rows,): False for deleted rows."""
        mask = np.ones(int(self.starts[-1]), dtype=np.bool_)
        if self.deleted.size:
            for start, table in self.tables(["row"]):
                rows = numbers(table.column("row"))
                mask[start : start + len(rows)] = ~np.isin(rows, self.deleted, assume_unique=True)
        if int(mask.sum()) != self.manifest.live:
            raise damaged(self.store, "manifests", "do not agree with the rows of the shards")
        return mask

    def metadata(self) -> pa.Table | None:
        """Return the user's columns, sorted by the column `row`; None if there are none."""
        if self._metadata is None and self._metadata_fd is not None:
            assert self.manifest.metadata is not None, "its descriptor is open"
            self._metadata = _user_table(self.store, self.manifest.metadata, self._metadata_fd)
        return self._metadata

    def take(self, ordinals: npt.NDArray[np.int64], names: list[str]) -> pa.Table:
        """Return the named columns of the rows at `ordinals`, in their order."""
        found = [
            (shard.take(at, names), indices) for shard, indices, at in self._by_shard(ordinals)
        ]
        order = np.empty(len(ordinals), dtype=np.int64)
        order[np.concatenate([indices for _, indices in found])] = np.arange(len(ordinals))
        return pa.concat_tables([part for part, _ in found]).take(order)

    def vectors(self, number: int) -> Iterator[npt.NDArray[np.float16]]:
        """Yield what search compares of a shard, float16 (rows, D), one row group at a time."""
        for vectors in self.shards[number].vectors():
            yield vectors if self.center is None else self.center.rows(vectors)

    def vectors_of(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Return what search compares of the rows at `ordinals`, float16 (n, D)."""
        vectors = self.plain_vectors_of(ordinals)
        return vectors if self.center is None else self.center.rows(vectors)

    def plain_vectors_of(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Return the vectors of the rows at `ordinals` as they are stored, float16 (n, D)."""
        return vector_array(self.take(ordinals, ["vector"]).column("vector"))

    def images(self, ordinals: npt.NDArray[np.int64]) -> list[StoredImage]:
        """Return the images of the rows at `ordinals`, in their order."""
        found = self._values(ordinals, _IMAGE_COLUMNS, self._groups)
        return [StoredImage(*values) for values in found]

    def facts(self, ordinals: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return what else a user sees of the rows at `ordinals`, by column, in their order."""
        found = self._values(ordinals, _FACTS, self._facts)
        return [dict(zip(_FACTS, values, strict=True)) for values in found]

    def _values(
        self,
        ordinals: npt.NDArray[np.int64],
        names: list[str],
        kept: LRU[tuple[str, int], list[pa.Array[Any]]],
    ) -> list[list[Any]]:
        """Return the named columns of rows; the row groups that were read last are kept."""
        found: dict[int, list[Any]] = {}
        for shard, in_shard, offsets in self._by_shard(ordinals):
            groups, positions = shard.places(offsets)
            for index, group, position in zip(
                in_shard.tolist(), groups.tolist(), positions.tolist(), strict=True
            ):
                # Not by take(): it loads pyarrow.compute, which takes 50 ms of a cold query
                columns = _group(shard, group, names, kept)
                found[index] = [column[position].as_py() for column in columns]
        return [found[index] for index in range(len(ordinals))]

    def _by_shard(
        self, ordinals: npt.NDArray[np.int64]
    ) -> Iterator[tuple[Shard, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield (shard, indices of its ordinals, their offsets in the shard)."""
        which = np.searchsorted(self.starts, ordinals, side="right") - 1
        for number in np.unique(which):
            in_shard = np.flatnonzero(which == number)
            yield self.shards[number], in_shard, ordinals[in_shard] - self.starts[number]


def open_snapshot(store: Path) -> Snapshot:
    """Open the current generation of a store.

    Raises StoreNotFound, IncompatibleStore, DamagedStore.
    """
    check_format(store)

    def open_all(manifest: Manifest) -> Snapshot:
        snapshot = Snapshot(store, manifest)
        is_whole = len(snapshot.caches) == len(manifest.caches)
        if is_whole or read_current(store).generation == manifest.generation:
            return snapshot
        snapshot.close()
        raise DamagedStore(f"{store}: a file was swept while it was opened")

    return read_generation(store, open_all)


def read_failures(store: Path, manifest: Manifest) -> list[Failure]:
    """Return the files that could not be indexed. Raises DamagedStore."""
    record = manifest.failures
    return [] if record is None else failures_of(_small_table(store, record))


def read_metadata(store: Path, record: FileRecord) -> pa.Table:
    """Return the user's columns, sorted by the column `row`. Raises DamagedStore."""
    descriptor = open_verified(store, record)
    try:
        return _user_table(store, record, descriptor)
    finally:
        os.close(descriptor)


def user_columns(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the user's columns of rows, by row number, null if a row has none."""
    known = table.column("row").to_numpy()
    positions = np.searchsorted(known, rows)
    exists = np.zeros(len(rows), np.bool_)
    if len(known):
        exists = known[np.minimum(positions, len(known) - 1)] == rows
    return table.take(pa.array(positions, pa.int64(), mask=~exists))


def read_deleted(store: Path, manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return the numbers of deleted rows, sorted. Raises DamagedStore."""
    if (record := manifest.deleted) is None:
        return np.empty(0, dtype=np.int64)
    rows = numbers(_small_table(store, record).column("row")).astype(np.int64)
    if len(rows) != manifest.deleted_rows:
        raise damaged(store, record.relative, "has a wrong number of rows")
    return np.sort(rows)


def _group(
    shard: Shard, number: int, names: list[str], kept: LRU[tuple[str, int], list[pa.Array[Any]]]
) -> list[pa.Array[Any]]:
    """Return the named columns of a row group."""
    key = (shard.record.name, number)
    return kept.get(key, lambda: list(shard.group(number, names).columns))


def _open_cache(store: Path, record: FileRecord) -> int | DamagedStore | None:
    """Open a cache of the shards; return None if it is missing, and the error if it is damaged."""
    try:
        return open_verified(store, record)
    except DamagedStore as error:
        return None if isinstance(error.__cause__, FileNotFoundError) else error


def _user_table(store: Path, record: FileRecord, descriptor: int) -> pa.Table:
    verify(store, record, descriptor)
    with DamageGuard(store, record), pa.OSFile(f"/dev/fd/{descriptor}", "r") as file:
        return _read(file)


def _small_table(store: Path, record: FileRecord) -> pa.Table:
    return _read(pa.BufferReader(read_verified(store, record)))


def _read(file: pa.NativeFile) -> pa.Table:
    """Return a whole file. Not by read_table(): it loads pyarrow.dataset and with it pandas."""
    return pq.ParquetFile(file, page_checksum_verification=True).read()
