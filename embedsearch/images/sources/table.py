"""A user's table to columns by image; in: CSV, JSON lines or Parquet, out: an Arrow table.

The column `path` names images by their path, or else `name` by the last part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedsearch.core.errors import UsageError

MAX_COLUMNS = 1000
NAMES = ("path", "name")  # the columns that say which image a row is about
LEFT_OUT = frozenset({"vector", "embedding"})  # of an exported table: the rows have their own


@dataclass(frozen=True)
class UserTable:
    """Unique `names` of images, whole paths or file names, and the other columns."""

    source: str
    by: str  # path or name
    names: list[str]
    columns: pa.Table
    unreadable: list[str] = field(default_factory=list)  # file names with the reason


def read_user_table(source: Path, taken: frozenset[str]) -> UserTable:
    """Read a table. Raises UsageError for one that names no images, or one image twice.

    A column whose name is `taken` by a column of the store is called `user_…`.
    """
    if not source.is_file():
        raise UsageError(f"metadata {source}: there is no such file", "metadata")
    table = read_table(source, f"metadata {source}")
    by = next((name for name in NAMES if name in table.column_names), "")
    if not by or table.num_columns > MAX_COLUMNS:
        held = ", ".join(table.column_names[:20])
        message = f"metadata {source} needs a column path or name; it has {held}"
        raise UsageError(message, "metadata")
    if len(set(table.column_names)) < table.num_columns:
        raise UsageError(f"metadata {source} has a column twice", "metadata")
    names = pc.cast(table.column(by), pa.string()).to_pylist()
    _check_names(source, by, names)
    left_out = {by, *LEFT_OUT}
    columns = table.select([name for name in table.column_names if name not in left_out])
    renamed = own_names(columns.column_names, taken, f"metadata {source}")
    paths: list[Any] = names
    return UserTable(str(source), by, paths, columns.rename_columns(renamed).combine_chunks())


def own_names(names: list[str], taken: frozenset[str], source: str) -> list[str]:
    """Return names that are not `taken`: `user_…` for one that is. Raises UsageError."""
    renamed = [f"user_{name}" if name.lower() in taken else name for name in names]
    if len({name.lower() for name in renamed}) < len(renamed):
        raise UsageError(f"{source}: two columns differ in upper and lower case only", "metadata")
    return renamed


def read_table(source: Path, called: str) -> pa.Table:
    """Read a table, of Parquet without vectors and columns of bytes, such as the images.

    Raises UsageError, in which the file is `called` something.
    """
    try:
        return _read(source)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise UsageError(f"{called} cannot be read: {message}", "metadata") from error


def _read(source: Path) -> pa.Table:
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        fields = [f for f in pq.read_schema(source) if f.name not in LEFT_OUT]
        wanted = [f.name for f in fields if f.name in NAMES or not holds_bytes(f.type)]
        return pq.read_table(source, columns=wanted)
    if suffix in {".jsonl", ".ndjson", ".json"}:
        from pyarrow import json

        return json.read_json(source)
    if suffix in {".csv", ".tsv"}:
        from pyarrow import csv

        # Quoted text may span lines, as captions do.
        delimiter = "\t" if suffix == ".tsv" else ","
        form = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        texts = csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string()))  # 007 stays
        return csv.read_csv(source, parse_options=form, convert_options=texts)
    raise ValueError("it ends in none of .csv, .tsv, .jsonl, .ndjson, .json and .parquet")


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is one of bytes, or has some in it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if pa.types.is_binary_view(kind):
        return True
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return any(is_kind(kind) for is_kind in is_bytes) or any(map(holds_bytes, inner))


def _check_names(source: Path, by: str, names: list[str | None]) -> None:
    seen: dict[str | None, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"metadata {source}: row {number} has no {by}", "metadata")
        if name in seen:
            rows = f"rows {seen[name]} and {number} both have the {by} {name!r}"
            raise UsageError(f"metadata {source}: {rows}", "metadata")
        seen[name] = number
