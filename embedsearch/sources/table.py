"""A table of a user's to columns by image; in: CSV, JSON lines or Parquet, out: an Arrow table.

The column `path` names images by their path, or else `name` by the last part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedsearch.errors import UsageError

MAX_COLUMNS = 1000
_LEFT_OUT = frozenset({"vector", "embedding"})  # of an exported table: the rows have their own


@dataclass(frozen=True)
class UserTable:
    """`names` of images, paths or last parts of them, each once, and the columns beside them."""

    source: str
    by: str  # path or name
    names: list[str]
    columns: pa.Table


def read_user_table(source: Path, taken: frozenset[str]) -> UserTable:
    """Read a table. Raises UsageError for one that names no images, or one image twice.

    A column whose name is `taken` by a column of the store is called `user_…`.
    """
    if not source.is_file():
        raise UsageError(f"--metadata {source}: there is no such file")
    try:
        table = _read(source)
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(f"--metadata {source} cannot be read: {words}") from error
    by = next((name for name in ("path", "name") if name in table.column_names), "")
    if not by or table.num_columns > MAX_COLUMNS:
        raise UsageError(
            f"--metadata {source} needs a column path or name; it has "
            f"{', '.join(table.column_names[:20])}"
        )
    if len(set(table.column_names)) < table.num_columns:
        raise UsageError(f"--metadata {source} has a column twice")
    names = pc.cast(table.column(by), pa.string()).to_pylist()
    _check_names(source, by, names)
    left_out = {by, *_LEFT_OUT}
    columns = table.select([name for name in table.column_names if name not in left_out])
    renamed = [f"user_{name}" if name.lower() in taken else name for name in columns.column_names]
    if len({name.lower() for name in renamed}) < len(renamed):
        raise UsageError(f"--metadata {source}: two columns differ in upper and lower case only")
    return UserTable(str(source), by, names, columns.rename_columns(renamed).combine_chunks())


def _read(source: Path) -> pa.Table:
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        return pq.read_table(source)
    if suffix in {".jsonl", ".ndjson", ".json"}:
        from pyarrow import json

        return json.read_json(source)
    if suffix in {".csv", ".tsv"}:
        from pyarrow import csv

        # A quoted text may go on over lines, as captions do.
        form = csv.ParseOptions(
            delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True
        )
        return csv.read_csv(source, parse_options=form)
    raise ValueError("it ends in none of .csv, .tsv, .jsonl, .ndjson, .json and .parquet")


def _check_names(source: Path, by: str, names: list[str | None]) -> None:
    seen: dict[str | None, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"--metadata {source}: row {number} has no {by}")
        if name in seen:
            raise UsageError(
                f"--metadata {source}: rows {seen[name]} and {number} both have the {by} {name!r}"
            )
        seen[name] = number
