"""Files of vectors and the paths of their rows; in: Parquet, or .npy and paths, out: blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.errors import OverBound, StorageError, UsageError
from embedsearch.core.names import EXACT, FULL_EXACT, FULL_PATH, from_exact_bytes
from embedsearch.images.sources.vectors import open_vectors
from embedsearch.images.tables.column_names import (
    NAME,
    NEEDED,
    column_called,
    folded,
    naming_column,
)
from embedsearch.images.tables.csv_table import open_csv
from embedsearch.images.tables.parquet_bounds import open_parquet
from embedsearch.images.tables.table import holds_bytes, image_names
from embedsearch.images.tables.text_file import MAX_ROW_BYTES, open_text

VECTOR_COLUMNS = ("vector", "embedding")
TABLES = (".csv", ".tsv")  # of paths; any other file is a list
_ROWS = 8192  # at once
_EXACT_OF = {"path": EXACT, FULL_PATH: FULL_EXACT}  # what an export wrote beside a column of paths


@dataclass(frozen=True)
class VectorColumns:
    """The names of the columns of paths and vectors; None for the usual ones."""

    path: str | None = None
    vector: str | None = None


@dataclass(frozen=True)
class VectorFile:
    """The rows of a file, read in blocks."""

    source: Path
    paths: Path | None
    column: str  # of the vectors in Parquet; "" for .npy
    by: str  # the column of the paths, also of a CSV beside a .npy; "" for a list
    dim: int

    def blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Yield paths and float32 (n, D). Raises UsageError and StorageError."""
        try:
            yield from self._parquet_blocks() if self.column else self._numpy_blocks()
        except OSError as error:
            raise StorageError(f"{self.source} cannot be read to its end: {error}") from error

    def _parquet_blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        parquet = open_parquet(self.source)
        with parquet.file as file:
            names = (self.by, _EXACT_OF.get(self.by), self.column)
            wanted = [name for name in names if name in file.schema_arrow.names]
            rows = parquet.rows_at_once(wanted, _ROWS)
            for batch in file.iter_batches(rows, columns=wanted):
                paths = [path for path in names_of(batch, self.by) if path is not None]
                if len(paths) < len(batch):
                    raise UsageError(f"{self.source}: a row has no path")
                yield paths, self._matrix(batch.column(self.column))

    def _matrix(self, column: Any) -> npt.NDArray[np.float32]:
        if (lengths := {len(value) if value.is_valid else 0 for value in column}) - {self.dim}:
            raise UsageError(
                f"{self.source}: vectors of {sorted(lengths)} components among those of {self.dim}"
            )
        flat = column.flatten().to_numpy(zero_copy_only=False)
        matrix: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(-1, self.dim)
        return matrix

    def _numpy_blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        assert self.paths is not None, "a .npy file comes with paths"
        vectors = open_vectors(self.source)
        rows = len(vectors)
        names = _listed(self.paths, self.by)
        for start in range(0, rows, _ROWS):
            block = np.asarray(vectors[start : start + _ROWS], dtype=np.float32)
            if len(paths := [name for _, name in zip(block, names, strict=False)]) < len(block):
                raise UsageError(f"{self.paths} names fewer than the {rows} rows")
            yield paths, block
        if next(names, None) is not None:
            raise UsageError(f"{self.paths} names more than the {rows} rows")


def open_vector_file(source: Path, paths: Path | None, columns: VectorColumns) -> VectorFile:
    """Return a reader for a file's format. Raises UsageError."""
    if not source.is_file():
        raise UsageError(f"{source}: there is no such file")
    if source.suffix == ".npy":
        return _numpy_file(source, paths, columns)
    if paths is not None:
        raise UsageError("paths needs a .npy file", "paths")
    try:
        with open_parquet(source).file as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            if not rows:
                raise UsageError(f"{source} has no rows, only the columns {_all(schema.names)}")
            column = _vector_column(source, schema, columns)
            by = _found(source, schema.names, columns.path)
            if not _is_list_of_floats(kind := schema.field(column).type):
                raise UsageError(f"{source}: {column} is {kind}, not a list of floats")
            values = (
                v for b in file.iter_batches(_ROWS, columns=[column]) for v in b.column(column)
            )
            if not (
                dim := next((n for value in values if value.is_valid and (n := len(value))), 0)
            ):
                raise UsageError(f"{source}: {column} holds no vector")
            return VectorFile(source, None, column, by, dim)
    except (pa.ArrowException, OSError, ValueError, OverBound) as error:
        raise UsageError(f"{source} cannot be read as Parquet: {error}") from error


def _numpy_file(source: Path, paths: Path | None, columns: VectorColumns) -> VectorFile:
    if columns.vector is not None:
        raise UsageError("vector_column needs Parquet: a .npy file has no columns", "vector_column")
    if paths is None or not paths.is_file():
        raise UsageError(f"{source} needs paths=FILE with the path of each row", "paths")
    if paths.suffix.lower() not in TABLES:
        if columns.path is not None:
            raise UsageError(f"path_column needs a CSV: {paths} is a list", "path_column")
        return VectorFile(source, paths, "", "", open_vectors(source).dim)
    try:
        with open_csv(paths, _has_paths(columns.path)) as table:
            by = _found(paths, table.columns, columns.path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{paths} cannot be read: {error}", "paths") from error
    return VectorFile(source, paths, "", by, open_vectors(source).dim)


def _vector_column(source: Path, schema: pa.Schema, columns: VectorColumns) -> str:
    """Return the column of the vectors. Raises UsageError, which names those it may be."""
    if (wanted := columns.vector) is not None:
        return _called(source, schema.names, wanted, "vector_column")
    if found := [name for name in VECTOR_COLUMNS if name in schema.names]:
        return found[0]
    like = [field.name for field in schema if _is_list_of_floats(field.type)]
    hint = f"; give vector_column={like[0]}" if like else ""
    raise UsageError(
        f"{source} has no column {' or '.join(VECTOR_COLUMNS)} with vectors{hint}; "
        f"it has the columns {_all(schema.names)}",
        "vector_column",
    )


def _found(source: Path, names: Sequence[str], wanted: str | None) -> str:
    """Return the column of the paths. Raises UsageError, which names those that there are."""
    if wanted is not None:
        return _called(source, names, wanted, "path_column")
    if (by := _path_column(names)) is None:
        raise UsageError(
            f"{source} needs {NEEDED}; it has the columns {_all(names)}; give path_column=NAME",
            "path_column",
        )
    return by


def _called(source: Path, names: Sequence[str], wanted: str, field: str) -> str:
    """Return the column of that name. Raises UsageError, with the name that is most like it."""
    if (found := column_called(wanted, names)) is not None:
        return found
    close = get_close_matches(wanted, names, n=1)
    meant = f"; did you mean {close[0]}?" if close else "."
    raise UsageError(
        f"{field}: {source} has no column {wanted}{meant} It has the columns {_all(names)}", field
    )


def _all(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _is_list_of_floats(kind: Any) -> bool:
    listed: list[Any] = [pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list]
    return any(is_kind(kind) for is_kind in listed) and bool(pa.types.is_floating(kind.value_type))


def _path_column(names: Iterable[str]) -> str | None:
    """Return the column of paths: names without folders are not enough to tell images apart."""
    return naming_column(name for name in names if folded(name) != NAME)


def _has_paths(wanted: str | None) -> Callable[[list[str]], bool]:
    """Return whether the names of columns are a header, with the column of that name."""
    if wanted is None:
        return lambda header: _path_column(header) is not None
    return lambda header: column_called(wanted, header) is not None


def _listed(paths: Path, by: str) -> Iterator[str]:
    """Yield the paths of a text file, one per line, or of a column of a CSV."""
    try:
        if not by:
            with open_text(paths) as file:
                for line in iter(lambda: file.readline(MAX_ROW_BYTES), ""):
                    yield line.rstrip("\r\n")
            return
        with open_csv(paths, _has_paths(by)) as table:
            at, beside = table.columns.index(by), _EXACT_OF.get(by)
            exact = table.columns.index(beside) if beside in table.columns else at
            for _, cells in table.rows:
                is_exact = exact != at and cells[exact]
                yield from_exact_bytes(cells[exact]) if is_exact else cells[at]
    except ValueError as error:
        raise UsageError(f"{paths} cannot be read: {error}", "paths") from error


def names_of(table: pa.Table | pa.RecordBatch, by: str) -> list[str | None]:
    """Return the paths of rows: the exact ones, where an export wrote them down."""
    column = table.column(by)
    texts = column.to_pylist() if holds_bytes(column.type) else image_names(column, by)
    exact: list[Any] = [None] * len(texts)
    if (beside := _EXACT_OF.get(by)) in table.schema.names:
        exact = table.column(beside).to_pylist()
    return [
        from_exact_bytes(name) if name else None if text is None else os.fsdecode(text)
        for text, name in zip(texts, exact, strict=True)
    ]
