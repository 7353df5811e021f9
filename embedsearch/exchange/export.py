"""Rows and vectors out of a store; in: a store and a file's name, out: that file.

Parquet with a list column, NumPy with a CSV, JSON lines, or a FAISS index with a CSV: by suffix.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core import bounds
from embedsearch.core.arguments import checked
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path
from embedsearch.core.records import JsonRecord, json_ready
from embedsearch.core.session import Session
from embedsearch.images.output_files import output_files
from embedsearch.searching.ann.build import flat_bytes
from embedsearch.searching.columns import BUILT_IN, RowColumns
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.snapshot import Snapshot, open_snapshot


@dataclass(frozen=True)
class ExportReport(JsonRecord):
    """What `export` wrote."""

    files: list[str]
    rows: int
    dim: int


@dataclass(frozen=True)
class _Part:
    """A chunk of rows: their columns, and vectors float32 (n, D), unit rows."""

    table: pa.Table
    vectors: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Job:
    """What to write: the rows in parts, and the names of their columns."""

    parts: Iterator[_Part]
    names: list[str]
    rows: int
    dim: int


@checked
def export(
    store: StorePath,
    out: str | Path,
    *,
    where: str | None = None,
    session: Session | None = None,
) -> ExportReport:
    """Write the rows of a store, or those that meet a condition, in their order.

    The vectors are the stored ones, scaled to length 1. `.npy` and `.faiss` files come with a
    `.csv` file of one line per row, which replaces no other CSV. Raises UsageError and
    StorageError; no unfinished file is left.
    """
    if (out := Path(local_path(out))).suffix not in _WRITERS:
        raise UsageError(f"{out} does not end in one of {', '.join(_WRITERS)}")
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        if os.path.realpath(out) in {os.path.realpath(r.path) for r in snapshot.manifest.roots}:
            raise UsageError(f"{out} is what the store indexes: name another file")
        columns = RowColumns(snapshot, session)
        mask = snapshot.live_mask()
        if where is not None:
            with columns:
                mask &= columns.where(where)
        job = _Job(
            parts=_parts(snapshot, columns, mask, session or Session()),
            names=columns.exported,
            rows=int(mask.sum()),
            dim=snapshot.manifest.model.dim,
        )
        if not job.rows:
            raise UsageError(f"{path} holds no matching row: nothing was written")
        files = [out, out.with_suffix(".csv")] if out.suffix in {".npy", ".faiss"} else [out]
        for beside in files[1:]:
            if beside.is_file() and beside.stat().st_size and not _is_export(beside, job.names):
                raise UsageError(
                    f"{beside} would be written, too, and holds something else: choose a name "
                    f"other than {out}"
                )
        with output_files(files) as temporary:
            _WRITERS[out.suffix](temporary, job)
    return ExportReport([str(file) for file in files], job.rows, job.dim)


def _parts(
    snapshot: Snapshot, columns: RowColumns, mask: npt.NDArray[np.bool_], session: Session
) -> Iterator[_Part]:
    """Yield the rows in a mask, one row group at a time."""
    vectors = (group for shard in snapshot.shards for group in shard.vectors())
    for (start, table), group in zip(columns.tables(columns.exported), vectors, strict=True):
        session.at("writing", start, int(snapshot.starts[-1]))
        if (selected := mask[start : start + len(table)]).any():
            kept = group[selected].astype(np.float32)
            kept /= np.linalg.norm(kept, axis=1, keepdims=True)
            yield _Part(table.filter(pa.array(selected)), kept)


def _write_parquet(files: list[Path], job: _Job) -> None:
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for part in job.parts:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.vectors.reshape(-1)), job.dim)
            table = part.table.append_column("vector", vectors)
            if writer is None:
                writer = pq.ParquetWriter(files[0], table.schema, compression="zstd")
                stack.enter_context(writer)
            writer.write_table(table)


def _write_numpy(files: list[Path], job: _Job) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, job.dim), np.float32))
    with files[0].open("wb") as file, _table_file(files[1], job.names) as write_table:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (job.rows, job.dim)})
        for part in job.parts:
            file.write(part.vectors.tobytes())
            write_table(part.table)


def _write_json_lines(files: list[Path], job: _Job) -> None:
    with files[0].open("w", encoding="utf-8") as file:
        for part in job.parts:
            for row, vector in zip(part.table.to_pylist(), part.vectors.tolist(), strict=True):
                file.write(_json(row | {"vector": vector}) + "\n")


def _write_faiss(files: list[Path], job: _Job) -> None:
    with files[0].open("wb") as file, _table_file(files[1], job.names) as write_table:

        def vectors() -> Iterator[npt.NDArray[np.float16]]:
            for part in job.parts:
                write_table(part.table)
                yield part.vectors.astype(np.float16)

        for piece in flat_bytes(job.dim, vectors()):
            file.write(piece)


_WRITERS = {
    ".parquet": _write_parquet,
    ".npy": _write_numpy,
    ".jsonl": _write_json_lines,
    ".faiss": _write_faiss,
}


@contextlib.contextmanager
def _table_file(path: Path, names: list[str]) -> Iterator[Any]:
    """Yield a function that writes tables to a CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)

        def write(table: pa.Table) -> None:
            for row in table.to_pylist():
                writer.writerow(_json(v) if isinstance(v, dict | list) else v for v in row.values())

        yield write


def _json(value: Any) -> str:
    return json.dumps(json_ready(value), allow_nan=False)


def _is_export(file: Path, names: list[str]) -> bool:
    """Return whether a CSV has the columns that `export` writes into each."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            header = next(csv.reader([opened.readline(bounds.HEADER_CHARS)]), [])
    except (OSError, ValueError, csv.Error):
        return False
    return set(names).intersection(BUILT_IN).issubset(header)
