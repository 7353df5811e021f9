"""A user's table to columns by image; in: CSV, JSON lines or Parquet, out: an Arrow table.

A column such as `path` names images by their path, or else `name` by the last part of it: see
column_names.py.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.config import ArrowTable
from embedsearch.core.errors import OverBound, UsageError
from embedsearch.images.tables.column_names import (
    NAME,
    NEEDED,
    column_called,
    folded,
    naming_column,
    naming_field,
)
from embedsearch.images.tables.csv_table import read_csv
from embedsearch.images.tables.held_values import (
    MAX_COLUMNS,
    held_table,
    names_problem,
    repeated,
    same_name,
)
from embedsearch.images.tables.json_table import read_json
from embedsearch.images.tables.parquet_bounds import Parquet, open_parquet, read_columns
from embedsearch.images.tables.text_file import guessed_encoding

_CSV = {".csv", ".tsv"}
LEFT_OUT = frozenset({"vector", "embedding"})  # of an exported table: the rows have their own


@dataclass(frozen=True)
class UserTable:
    """Unique `names` of images, whole paths or file names, and the other columns."""

    source: str
    by: str  # path or name
    names: list[str]
    columns: pa.Table
    unreadable: list[str] = field(default_factory=list)  # file names with the reason
    folder: str = ""  # that of the table: Hugging Face names images from there
    unused: list[str] = field(default_factory=list)  # sidecars that are beside no image
    encoding: str = ""  # of its text, where that was guessed


def read_user_table(source: Path, taken: frozenset[str]) -> UserTable:
    """Read a table. Raises UsageError for one that names no images, or one image twice.

    A column whose name is `taken` by a column of the store is called `user_…`.
    """
    if not source.is_file():
        problem = "it is a folder" if source.is_dir() else "there is no such file"
        raise UsageError(f"metadata {source}: {problem}; name a table", "metadata")
    encoding = ""
    if source.suffix.lower() in _CSV:
        with contextlib.suppress(OSError):  # that it cannot be read is told below
            encoding = guessed_encoding(source)
    table, column = read_table(source, f"metadata {source}", guess=encoding)
    folder = os.path.dirname(os.path.realpath(source))
    found = _checked(table, column, str(source), taken)
    return replace(found, folder=folder, encoding=encoding)


def user_table_of(given: ArrowTable, taken: frozenset[str]) -> UserTable:
    """Return a table in memory as `read_user_table` does one of a file. Raises UsageError."""
    source = f"the {type(given).__name__}"
    try:
        table = pa.table(given)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UsageError(f"metadata, {source}, cannot be read: {error}", "metadata") from error
    kept = [field.name for field in table.schema if not holds_bytes(field.type)]
    kept = [name for name in kept if name not in LEFT_OUT]
    if twice := repeated(kept):
        raise UsageError(f"metadata, {source}, has a column twice: {twice}", "metadata")
    table = table.select(kept)
    return _checked(table, naming_field(table.schema), source, taken)


def _checked(table: pa.Table, column: str | None, source: str, taken: frozenset[str]) -> UserTable:
    """Return a table whose `column` names images. Raises UsageError."""
    if table.num_columns > MAX_COLUMNS:
        count = f"{table.num_columns} columns; at most {MAX_COLUMNS} are held"
        raise UsageError(f"metadata {source} has {count}: leave some out", "metadata")
    if column is None:
        held = ", ".join(table.column_names[:20])
        raise UsageError(f"metadata {source} needs {NEEDED}; it has {held}", "metadata")
    names = image_names(table.column(column), f"metadata {source}: {column}")
    _check_names(source, column, names)
    left_out = {column, *LEFT_OUT}
    kept = [name for name in table.column_names if name not in left_out]
    if not kept:
        raise UsageError(f"metadata {source} has no column beside {column}", "metadata")
    renamed = own_names(kept, taken, f"metadata {source}")
    by = NAME if folded(column) == NAME else "path"
    columns = table.select(kept).rename_columns(renamed)
    columns = held_table(columns, f"metadata {source}").combine_chunks()
    return UserTable(source, by, names, columns)


def image_names(column: Any, called: str) -> list[Any]:
    """Return the texts of a column that names images. Raises UsageError for other than text."""
    try:
        texts = pc.cast(column, pa.string())
        texts.validate(full=True)
    except pa.ArrowException as error:
        raise UsageError(f"{called} is not UTF-8 text", "metadata") from error
    names: list[Any] = texts.to_pylist()
    return names


def own_names(names: list[str], taken: frozenset[str], source: str) -> list[str]:
    """Return names that are not `taken`: `user_…` for one that is. Raises UsageError."""
    renamed = [own_name(name, taken) for name in names]
    if problem := names_problem(renamed):
        raise UsageError(f"{source}: {problem}", "metadata")
    return renamed


def own_name(name: str, taken: frozenset[str]) -> str:
    """Return the name of a user's column, which is not `taken`."""
    return f"user_{name}" if same_name(name) in taken else name


def read_table(
    source: Path, called: str, by: str | None = None, guess: str = ""
) -> tuple[pa.Table, str | None]:
    """Read a table, and return the column that names images: `by`, else a usual one, or None.

    `guess` is the encoding of a CSV, as `guessed_encoding` said.
    Of Parquet, vectors and columns of bytes, such as the images, are left out. Raises UsageError,
    in which the file is `called` something.
    """
    try:
        table, found = _read(source, by, guess)
    except (pa.ArrowException, OSError, ValueError, OverBound) as error:
        message = " ".join(str(error).split())[:300]
        raise UsageError(f"{called} cannot be read: {message}", "metadata") from error
    if twice := repeated(table.column_names):
        raise UsageError(f"{called} has a column twice: {twice}", "metadata")
    return table, found


def _read(source: Path, by: str | None, guess: str) -> tuple[pa.Table, str | None]:
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        parquet = open_parquet(source)
        with parquet.file as file:
            return _columns(parquet, file.schema_arrow, by)
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return read_json(source)
    if suffix in _CSV:
        find = naming_column if by is None else partial(column_called, by)
        table = read_csv(source, find, guess)
        return table, find(table.column_names)
    raise ValueError("it ends in none of .csv, .tsv, .jsonl, .ndjson, .json and .parquet")


def _columns(parquet: Parquet, schema: pa.Schema, by: str | None) -> tuple[pa.Table, str | None]:
    by = by or naming_field(schema)
    fields = [f for f in schema if f.name not in LEFT_OUT]
    wanted = [f.name for f in fields if f.name == by or not holds_bytes(f.type)]
    if len(wanted) > MAX_COLUMNS + 1:
        raise ValueError(f"{len(wanted)} columns; at most {MAX_COLUMNS} are held: leave some out")
    if twice := repeated(wanted):
        raise ValueError(f"it has a column twice: {twice}")
    return read_columns(parquet, wanted), by


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is one of bytes, or has some in it."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if pa.types.is_binary_view(kind):
        return True
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return any(is_kind(kind) for is_kind in is_bytes) or any(map(holds_bytes, inner))


def _check_names(source: str, by: str, names: list[str | None]) -> None:
    seen: dict[str | None, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"metadata {source}: row {number} has no {by}", "metadata")
        if name in seen:
            rows = f"rows {seen[name]} and {number} both have the {by} {name!r}"
            raise UsageError(f"metadata {source}: {rows}", "metadata")
        seen[name] = number
