"""The user's columns read back before they are committed; in: a written table, out: an error.

The code that filters and JSON use reads a sample of the rows, with a value of every column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedsearch.core.errors import EmbedSearchError, StorageError
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.searching.filters.where import Filters
from embedsearch.store.files import FileRecord
from embedsearch.store.snapshot import read_metadata

_ROWS = 64
_CONDITION = 8000  # characters, of which DuckDB takes 10,000


@dataclass(frozen=True)
class _Values(JsonRecord):
    """The columns of one row, as a hit has them."""

    metadata: Mapping[str, Any]


def check_readable(
    store: Path, record: FileRecord, table: pa.Table, before: FileRecord | None
) -> None:
    """Raise StorageError unless what was written is what was given, for filters and JSON alike.

    Filters depend on the types, and have read those of the columns that were there `before`.
    """
    try:
        written = read_metadata(store, record)
        if written.num_rows != table.num_rows or written.schema != table.schema:
            raise ValueError("it has other rows or columns")
        rows = _sample(table)
        found, wanted = written.take(rows), table.take(rows)
        values = found.to_pylist()
        if repr(values) != repr(wanted.to_pylist()):
            raise ValueError("it has other values")
        for row in values:
            json.dumps(_Values(row).to_dict(), allow_nan=False).encode()
        if before is None or _schema(store, before) != table.schema:
            _filter(found.drop_columns(["row"]))
    except (EmbedSearchError, pa.ArrowException, ValueError, ArithmeticError, TypeError) as error:
        raise StorageError(
            f"{store}: the columns that were written cannot be read back ({error}); nothing was "
            "changed: leave out the column that this names"
        ) from error


def _schema(store: Path, record: FileRecord) -> pa.Schema | None:
    try:
        return pq.read_schema(store / record.relative)
    except (OSError, pa.ArrowException):  # it is damaged, which is no reason not to write another
        return None


def _sample(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return some rows, and the first and the last one that has a value, for each column."""
    count = table.num_rows
    rows = {*np.linspace(0, max(0, count - 1), min(count, _ROWS)).astype(int).tolist()}
    for column in table.columns:
        is_there = column.is_valid()
        if (first := pc.index(is_there, True).as_py()) >= 0:
            last = count - 1 - pc.index(is_there[::-1], True).as_py()
            rows |= {first, last}
    return np.array(sorted(rows), np.int64)


def _filter(table: pa.Table) -> None:
    """Filter by each column. Raises UsageError."""
    if find_spec("duckdb") is None:  # then nobody filters here
        return

    def read(names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        yield 0, table.select(list(names))

    with closing(Filters(table.schema, read, len(table))) as filters:
        for condition in _conditions(table.column_names):
            filters.mask(condition, Session())


def _conditions(names: list[str]) -> Iterator[str]:
    """Yield conditions that read every column, none too long."""
    terms: list[str] = []
    for name in names:
        terms.append('"{}" IS NULL'.format(name.replace('"', '""')))
        if len(" OR ".join(terms)) > _CONDITION:
            yield " OR ".join(terms)
            terms = []
    if terms:
        yield " OR ".join(terms)
