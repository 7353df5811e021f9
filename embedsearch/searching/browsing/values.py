"""The values of a column; in: its rows, out: which there are, how often, from where to where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.records import JsonRecord
from embedsearch.searching.filters.where import normal
from embedsearch.store.shards import numbers

MAX_VALUES = 200
MAX_LENGTH = 200  # characters of a text that is shown as a value
_MAX_MONTHS = 1200
# What built-in columns hold where nothing is known of an image.
_UNKNOWN: dict[str, Any] = {"size": -1, "width": 0, "height": 0, "format": "", "modified": 0}

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ValueCount(JsonRecord):
    """A value, and how many images have it."""

    value: Any
    images: int


@dataclass(frozen=True)
class MonthCount(JsonRecord):
    """A month, as 2024-05, and how many images are of it."""

    month: str
    images: int


@dataclass(frozen=True)
class ColumnValues(JsonRecord):
    """What a column holds: `total` images have a value, `missing` ones have none.

    `values` are the most frequent ones, at most 200, of lists their elements. They are none if
    there are more and each is there once; a long text is counted and not shown. Of structs, and
    lists in lists, nothing is counted: `distinct` is None. `min` and `max` are of numbers and
    times, else None. `months` are of timestamps, newest first. A number that is not finite counts
    as missing, and texts that look the same are one.
    """

    column: str
    type: str
    total: int
    missing: int
    distinct: int | None
    values: tuple[ValueCount, ...] = ()
    min: Any = None
    max: Any = None
    months: tuple[MonthCount, ...] = ()


@dataclass(frozen=True)
class _Counted:
    """The distinct values of rows, how many rows have each, and how many have any."""

    values: pa.Array[Any]
    counts: _Counts
    total: int


def count_values(name: str, kind: pa.DataType, chunks: Sequence[pa.Array[Any]]) -> ColumnValues:
    """Return what a column of this name and type holds in some rows."""
    rows = sum(map(len, chunks))
    inner: pa.DataType = kind.value_type if isinstance(kind, pa.ListType) else kind
    if pa.types.is_nested(inner):
        missing = sum(chunk.null_count for chunk in chunks)
        return ColumnValues(name, str(kind), rows - missing, missing, None)
    typed: Any = kind
    column = pa.chunked_array([_known(chunk, name) for chunk in chunks], typed)
    found = _of_lists(column) if pa.types.is_list(kind) else _plain(column)
    has_range = pa.types.is_temporal(inner) or pa.types.is_decimal(inner) or _is_number(inner)
    least, most = _range(found.values) if has_range else (None, None)
    return ColumnValues(
        column=name,
        type=str(kind),
        total=found.total,
        missing=rows - found.total,
        distinct=len(found.values),
        values=_most_frequent(found),
        min=least,
        max=most,
        months=_months(found) if pa.types.is_timestamp(kind) else (),
    )


def _known(chunk: Any, name: str) -> pa.Array[Any]:
    """Return values in the form in which they are compared, null where nothing is known."""
    import pyarrow.compute as pc  # 50 ms, which queries need not spend

    from embedsearch.images.tables.held_values import with_values

    kind, known = chunk.type, chunk
    if pa.types.is_list(kind):
        known = with_values(chunk, _known(pc.list_flatten(chunk), ""))
    elif name in _UNKNOWN:
        unknown = pa.scalar(_UNKNOWN[name]).cast(kind)
        known = pc.if_else(pc.equal(chunk, unknown), pa.scalar(None, kind), chunk)
    elif pa.types.is_floating(kind):
        known = pc.if_else(pc.is_finite(chunk), chunk, pa.scalar(None, kind))
    else:
        known = normal(chunk)
    array: pa.Array[Any] = known
    return array


def _plain(column: pa.ChunkedArray[Any]) -> _Counted:
    codes, values = _coded(column)
    return _Counted(values, np.bincount(codes, minlength=len(values)), len(codes))


def _of_lists(column: pa.ChunkedArray[Any]) -> _Counted:
    """Return the elements of lists: a row counts once for each, however often it has it."""
    import pyarrow.compute as pc

    rows, parts, start = [], [], 0
    for chunk in column.chunks:
        elements: Any = pc.list_flatten(chunk)
        is_one = elements.is_valid()
        owners: Any = pc.list_parent_indices(chunk)
        rows.append(start + numbers(pa.chunked_array([owners.filter(is_one)])).astype(np.int64))
        parts.append(elements.filter(is_one))
        start += len(chunk)
    kind: Any = column.type
    codes, values = _coded(pa.chunked_array(parts, kind.value_type))
    owners = np.concatenate([np.empty(0, np.int64), *rows])
    once = np.unique(owners * len(values) + codes)
    counts = np.bincount(once % max(1, len(values)), minlength=len(values))
    return _Counted(values, counts, len(np.unique(owners)))


def _coded(column: pa.ChunkedArray[Any]) -> tuple[_Counts, pa.Array[Any]]:
    """Return the number of the value of each row that has one, and the distinct values."""
    encoded: Any = column.drop_null().dictionary_encode()
    if not encoded.num_chunks:
        return np.empty(0, np.int64), pa.array([], column.type)
    encoded = encoded.unify_dictionaries()
    codes = [np.from_dlpack(chunk.indices) for chunk in encoded.chunks]
    return np.concatenate(codes).astype(np.int64), encoded.chunk(0).dictionary


def _most_frequent(found: _Counted) -> tuple[ValueCount, ...]:
    import pyarrow.compute as pc

    counts = found.counts
    if len(counts) > MAX_VALUES and counts.max() == 1:
        return ()
    table = pa.table({"value": found.values, "images": pa.array(counts)})
    if pa.types.is_string(found.values.type):
        lengths: Any = pc.utf8_length(cast("pa.StringArray", found.values))
        table = table.filter(pc.less_equal(lengths, pa.scalar(MAX_LENGTH)))
    order = pc.sort_indices(table, [("images", "descending"), ("value", "ascending")])
    return tuple(ValueCount(**row) for row in table.take(order[:MAX_VALUES]).to_pylist())


def _range(values: pa.Array[Any]) -> tuple[Any, Any]:
    import pyarrow.compute as pc

    found: Any = pc.min_max(values)
    return found["min"].as_py(), found["max"].as_py()


def _months(found: _Counted) -> tuple[MonthCount, ...]:
    """Return the months, newest first, of a time zone that is that of the values."""
    kind: Any = found.values.type
    times = np.from_dlpack(found.values.cast(pa.int64())).astype(f"datetime64[{kind.unit}]")
    months, which = np.unique(times.astype("datetime64[M]"), return_inverse=True)
    images = np.bincount(which, found.counts, len(months)).astype(np.int64)
    pairs = zip(np.datetime_as_string(months).tolist(), images.tolist(), strict=True)
    return tuple(MonthCount(month, count) for month, count in [*pairs][::-1][:_MAX_MONTHS])


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
