"""Rows as Parquet: one row per image, ordinary Parquet that pyarrow, DuckDB and Polars read.

`vector` is a fixed-size list of float16 (D), zstd-compressed; every page carries a checksum.
In: EmbeddingBatch; out: bytes of a shard, and verified columns of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core.errors import StorageError
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import printable
from embedsearch.core.records import SIGNATURE_SIDE, EmbeddingBatch, Failure, Reason, Stage
from embedsearch.store.files import FileRecord, damaged, open_verified, verify, write_new
from embedsearch.store.manifest import ShardRecord

ROW_GROUP_ROWS = 4096
# Columns that older shards lack; they are read as null.
_ADDED = ["brightness", "sharpness", "signature"]
_UNORDERED = {"vector", "digest", "signature"}  # min and max are meaningless
IDENTITY_COLUMNS = ["row", "root", "key", "size", "mtime_ns", "digest"]

_FAILURE_FIELDS: list[pa.Field[Any]] = [
    pa.field("root", pa.int32(), nullable=False),
    pa.field("key", pa.binary(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("stage", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("mtime_ns", pa.int64(), nullable=False),
]
FAILURE_SCHEMA = pa.schema(_FAILURE_FIELDS)


def row_schema(dim: int) -> pa.Schema:
    """Return the columns of a shard whose vectors have `dim` components."""
    gps = pa.struct([pa.field("lat", pa.float64()), pa.field("lon", pa.float64())])
    required = [
        ("row", pa.int64()),
        ("root", pa.int32()),
        ("key", pa.binary()),  # the exact bytes of the path inside the root
        ("path", pa.string()),  # the same for display and for filters
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("digest", pa.binary(32)),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("status", pa.string()),  # ok or ok_truncated
    ]
    optional = [("taken_at", pa.timestamp("ms")), ("camera", pa.string()), ("gps", gps)]
    optional += [("brightness", pa.float32()), ("sharpness", pa.float32())]
    optional += [("signature", pa.binary(SIGNATURE_SIDE**2))]
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False), dim)
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required]
        + [pa.field(name, kind) for name, kind in optional]
        + [pa.field("vector", vector, nullable=False)]
    )


def halves(vectors: npt.NDArray[np.float32]) -> pa.FixedSizeListArray[Any, Any]:
    """Return vectors, (n, D), as the column of a shard: float16."""
    kind: Any = row_schema(vectors.shape[1]).field("vector").type
    half = vectors.astype(np.float16).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(half), type=kind)


def batch_table(batch: EmbeddingBatch, first_row: int) -> pa.Table:
    """Return an EmbeddingBatch as rows numbered from `first_row`; vectors become float16."""
    refs, facts = batch.refs, batch.facts
    columns: dict[str, Any] = {
        "row": range(first_row, first_row + len(refs)),
        "key": [os.fsencode(ref.key) for ref in refs],
        "path": [unicode_text(ref.key) for ref in refs],
        "status": ["ok_truncated" if fact.truncated else "ok" for fact in facts],
        "gps": [fact.gps and {"lat": fact.gps[0], "lon": fact.gps[1]} for fact in facts],
    }
    for name in ("root", "size", "mtime_ns"):
        columns[name] = [getattr(ref, name) for ref in refs]
    for name in ("digest", "width", "height", "format", "taken_at", "camera"):
        columns[name] = [getattr(fact, name) for fact in facts]
    for name in _ADDED:
        columns[name] = [fact.look and getattr(fact.look, name) for fact in facts]
    schema = row_schema(batch.vectors.shape[1])
    arrays = [pa.array(columns[f.name], f.type) for f in schema if f.name in columns]
    return pa.Table.from_arrays([*arrays, halves(batch.vectors)], schema=schema)


def write_shard(
    store: Path, generation: int, tables: Iterable[pa.Table], schema: pa.Schema
) -> ShardRecord:
    """Write rows as one shard. The tables are encoded one by one, into memory."""
    smallest = 1.0

    def watched(table: pa.Table) -> pa.Table:
        nonlocal smallest
        for part in table.to_batches(max_chunksize=ROW_GROUP_ROWS):
            vectors = vector_array(pa.chunked_array([part.column("vector")])).astype(np.float32)
            smallest = min(smallest, float(np.linalg.norm(vectors, axis=1).min(initial=1.0)))
        return table

    data, rows, first_row = _encode(map(watched, tables), schema)
    record = write_new(store, "s", generation, "parquet", [memoryview(data)])
    footer = _footer(memoryview(data))
    pa.default_memory_pool().release_unused()  # else Arrow keeps the memory of the encoding
    return ShardRecord(
        **vars(record),
        rows=rows,
        first_row=first_row,
        footer_bytes=len(footer),
        footer_sha256=hashlib.sha256(footer).hexdigest(),
        min_norm=smallest,
    )


def write_small(store: Path, kind: str, generation: int, table: pa.Table) -> FileRecord:
    """Write a small table (deleted rows, failures) as an immutable Parquet file."""
    data, _, _ = _encode([table], table.schema)
    return write_new(store, kind, generation, "parquet", [memoryview(data)])


def _encode(tables: Iterable[pa.Table], schema: pa.Schema) -> tuple[pa.Buffer, int, int]:
    """Return (Parquet bytes, rows, first row number or 0)."""
    sink = pa.BufferOutputStream()
    rows, first_row = 0, 0
    repeated = [name for name in ("format", "camera", "status", "reason") if name in schema.names]
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=repeated,  # type: ignore[arg-type]  # the stub knows no names
        # No byte-stream split, which would save a twelfth: DuckDB cannot read it for float16.
        write_page_checksum=True,
        write_statistics=[name for name in schema.names if name not in _UNORDERED],
        store_schema=True,
    ) as writer:
        for table in tables:
            if rows == 0 and "row" in schema.names and len(table):
                first_row = table.column("row")[0].as_py()
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += len(table)
    return sink.getvalue(), rows, first_row


def _footer(data: memoryview) -> memoryview:
    """Return the footer of Parquet bytes: metadata, its length, and the closing magic."""
    (length,) = struct.unpack("<I", data[-8:-4])
    return data[len(data) - length - 8 :]


class Shard:
    """A shard opened for reading; the open descriptor makes a later sweep harmless."""

    def __init__(self, store: Path, record: ShardRecord, dim: int) -> None:
        self.record = record
        self._store = store
        self._descriptor = open_verified(store, record)
        try:
            self._check_footer()
            with self._guard():
                self._file = pq.ParquetFile(
                    pa.OSFile(f"/dev/fd/{self._descriptor}", "r"), page_checksum_verification=True
                )
            schema = row_schema(dim)
            self._absent = [n for n in _ADDED if n not in self._file.schema_arrow.names]
            present = pa.schema([field for field in schema if field.name not in self._absent])
            if self._file.schema_arrow != present:
                raise damaged(store, record.relative, "has wrong columns")
            if self._file.metadata.num_rows != record.rows:
                raise damaged(store, record.relative, "has a wrong number of rows")
        except BaseException:
            os.close(self._descriptor)
            raise
        groups = self._file.metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        self._group_starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        os.close(self._descriptor)

    def verify(self) -> None:
        """Compare the whole file with its sha256. Raises DamagedStore."""
        verify(self._store, self.record, self._descriptor)

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns, one row group at a time. Raises DamagedStore."""
        for group in range(self._file.metadata.num_row_groups):
            with self._guard():
                table = self._file.read_row_group(group, columns=list(names))
            yield self._whole(table, names)

    def vectors(self) -> Iterator[npt.NDArray[np.float16]]:
        """Yield float16 (rows, D), one row group at a time. Raises DamagedStore."""
        for table in self.columns(["vector"]):
            yield vector_array(table.column("vector"))

    def take(self, offsets: npt.NDArray[np.int64], names: Sequence[str]) -> pa.Table:
        """Return the rows at `offsets`, in that order; reads only their row groups."""
        groups, positions = self.places(offsets)
        needed = np.unique(groups)
        with self._guard():
            table = self._file.read_row_groups(needed.tolist(), columns=list(names))
        table = self._whole(table, names)
        sizes = self._group_starts[needed + 1] - self._group_starts[needed]
        starts_in_table = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        return table.take(positions + starts_in_table[np.searchsorted(needed, groups)])

    def _whole(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """Return a table completed with the named columns that this shard lacks, as null."""
        if not (added := [name for name in self._absent if name in names]):
            return table
        for name in added:
            field = row_schema(1).field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select([name for name in row_schema(1).names if name in names])

    def places(
        self, offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the row group of each offset, and its position in the group."""
        groups = np.searchsorted(self._group_starts, offsets, side="right") - 1
        return groups, offsets - self._group_starts[groups]

    def group(self, number: int, names: Sequence[str]) -> pa.RecordBatch:
        """Return the named columns of a row group. Raises DamagedStore."""
        with self._guard():
            # A few small columns: starting threads would take longer than reading them.
            table = self._file.read_row_group(number, columns=list(names), use_threads=False)
        return self._whole(table, names).combine_chunks().to_batches()[0].select(list(names))

    def _check_footer(self) -> None:
        record = self.record
        footer = os.pread(self._descriptor, record.footer_bytes, record.bytes - record.footer_bytes)
        if hashlib.sha256(footer).hexdigest() != record.footer_sha256:
            raise damaged(self._store, record.relative, "was changed: its footer differs")

    def _guard(self) -> DamageGuard:
        return DamageGuard(self._store, self.record)


class DamageGuard:
    """Turn errors of pyarrow for damaged pages into DamagedStore."""

    def __init__(self, store: Path, record: FileRecord) -> None:
        self._store = store
        self._record = record

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.EIO}:
            path = self._store / self._record.relative
            raise StorageError(f"{path}: {error.strerror}") from error
        if isinstance(error, pa.ArrowException | OSError | ValueError):
            problem = f"cannot be read ({' '.join(str(error).split())[:120]})"
            raise damaged(self._store, self._record.relative, problem) from error


def numbers(column: pa.ChunkedArray[Any]) -> npt.NDArray[Any]:
    """Return a column of numbers without nulls, read-only; a single chunk is not copied.

    Not by to_numpy(): it loads pandas if installed, which takes 170 ms of a cold query.
    """
    parts = [np.from_dlpack(chunk) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def vector_array(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.float16]:
    """Return a vector column as float16 (rows, D); a single chunk is not copied."""
    chunks: list[Any] = column.chunks  # lists, which the stub of Array does not know
    flat = pa.chunked_array([chunk.flatten() for chunk in chunks], pa.float16())
    return numbers(flat).reshape(-1, column.type.list_size)


def failure_table(failures: Iterable[Failure]) -> pa.Table:
    """Return failures as a table, in the order given."""
    rows = [
        {
            "root": failure.root,
            "key": os.fsencode(failure.key),
            "path": unicode_text(failure.key),
            "stage": str(failure.stage),
            "reason": str(failure.reason),
            "detail": printable(failure.detail),
            "size": failure.size,
            "mtime_ns": failure.mtime_ns,
        }
        for failure in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA)


def failures_of(table: pa.Table) -> list[Failure]:
    """Return the failures of a table written by `failure_table`."""
    return [
        Failure(
            root=row["root"],
            key=os.fsdecode(row["key"]),
            stage=Stage(row["stage"]),
            reason=Reason(row["reason"]),
            detail=row["detail"],
            size=row["size"],
            mtime_ns=row["mtime_ns"],
        )
        for row in table.to_pylist()
    ]
