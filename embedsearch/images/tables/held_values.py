"""What a store holds of its user's values; in: columns as people bring them, out: held ones.

Held are the types that Arrow, DuckDB, JSON and Python all keep: bool, int64, uint64, float, double,
decimal128, text, dates, times and timestamps in microseconds (naive or UTC) of the years 1 to 9999,
and lists and structs of these. Every door for columns goes through here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.errors import UsageError
from embedsearch.core.names import comparable, unicode_text

MAX_COLUMNS = 1000  # of a store, and of values inside of one column
MAX_DEPTH = 8  # lists and structs around a value
MAX_NAME = 255  # characters
MAX_VALUE_BYTES = 16 << 20
_DAYS = (-719_162, 2_932_896)  # years 1 to 9999, since 1970
_SECONDS = (_DAYS[0] * 86_400, (_DAYS[1] + 1) * 86_400)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MAX_DIGITS = 38  # of a decimal of DuckDB


class Unheld(ValueError):
    """A value that is not held: why, and its position among the rows, None for a whole column."""

    def __init__(self, why: str, at: int | None = None) -> None:
        super().__init__(why)
        self.at = at


def held_table(table: pa.Table, source: str) -> pa.Table:
    """Return a table in held types. Raises UsageError, which names row and column."""
    if problem := names_problem(table.column_names):
        raise UsageError(f"{source}: {problem}", "metadata")
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = held_column(table.column(name))
        except Unheld as error:
            row = "" if error.at is None else f"row {error.at + 1}, "
            raise UsageError(
                f"{source}: {row}column {name}: {error}; correct it, or leave the column out",
                "metadata",
            ) from error
    return pa.table(columns)


def held_column(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return a column in a held type. Raises Unheld."""
    chunks, start = [], 0
    whole: Unheld | None = None  # of a type: a later chunk may have a row for it
    for chunk in column.chunks:
        try:
            chunks.append(_held(chunk, 0))
        except Unheld as error:
            if error.at is not None:
                raise Unheld(str(error), start + error.at) from error
            whole = error
        start += len(chunk)
    if whole is not None:
        raise whole
    kind: Any = held_type(column.type)
    return pa.chunked_array(chunks, kind)


def held_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which values of a type are held. Raises Unheld."""
    none: Any = pa.array([], type=kind)
    found: pa.DataType = _held(none, 0).type
    if (inside := _leaves(found)) > MAX_COLUMNS:
        raise Unheld(f"it has {inside} fields; {MAX_COLUMNS} are held")
    return found


def names_problem(names: Iterable[str]) -> str:
    """Return what is wrong with names of columns or fields, "" if nothing is.

    They are unique without regard to case, as SQL reads them.
    """
    listed, seen = list(names), dict[str, str]()
    for name in listed:
        shown = unicode_text(name)[:60]
        if not name.strip():
            return "a column has no name"
        if "\0" in name or unicode_text(name) != name:
            return f"the name of the column {shown!r} is not valid text"
        if len(name) > MAX_NAME:
            return f"the name of the column {shown}… is longer than {MAX_NAME} characters"
        if (other := seen.setdefault(same_name(name), name)) != name:
            return f"two columns differ in upper and lower case only: {other}, {name}"
    return f"it has a column twice: {twice}" if (twice := repeated(listed)) else ""


def repeated(names: Iterable[str]) -> str:
    """Return the first of some names that stands there twice, for a message; "" if none does."""
    twice = next((name for name, count in Counter(names).items() if count > 1), "")
    return unicode_text(twice)[:60]


def same_name(name: str) -> str:
    """Return the form in which names of columns are equal: without case, however encoded."""
    return comparable(name).lower()


def with_values(lists: Any, values: Any) -> Any:
    """Return lists of the same lengths, also of a slice, with others for their flattened values."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    sums = np.cumsum(lengths.to_numpy(zero_copy_only=False))
    ends: Any = pa.array(np.concatenate([[0], sums]).astype(np.int32))
    return pa.ListArray.from_arrays(ends, values, mask=lists.is_null())


def check_value(value: Any) -> None:
    """Raise Unheld for a value of JSON that is too deep, or whose texts are no Unicode."""
    left = [(value, 0)]
    while left:
        value, depth = left.pop()
        if isinstance(value, str):
            if unicode_text(value) != value:
                raise Unheld("it holds half of a character (a lone surrogate), which is not text")
            if len(value) > MAX_VALUE_BYTES:
                raise _too_long()
        elif isinstance(value, dict | list):
            if depth == MAX_DEPTH:
                raise _too_deep()
            inner = value if isinstance(value, list) else [*value.values(), *value]
            left += ((item, depth + 1) for item in inner)


def _held(array: Any, depth: int) -> Any:
    """Return an array in a held type. Raises Unheld."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _held(array.storage, depth)
    if pa.types.is_dictionary(kind):
        return _held(array.dictionary_decode(), depth)
    if pa.types.is_run_end_encoded(kind):
        return _held(pc.run_end_decode(array), depth)  # type: ignore[attr-defined]
    if pa.types.is_map(kind):
        pairs = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        return _held(array.cast(pa.list_(pairs)), depth)
    if _is_list(kind) or pa.types.is_struct(kind):
        if depth == MAX_DEPTH:
            raise _too_deep(array)
        return _list(array, depth) if _is_list(kind) else _struct(array, depth)
    return _leaf(array)


def _list(array: Any, depth: int) -> Any:
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())
    counts = np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)
    try:
        values = _held(pc.list_flatten(array), depth + 1)
    except Unheld as error:
        at = None if error.at is None else int(np.repeat(np.arange(len(counts)), counts)[error.at])
        raise Unheld(str(error), at) from error
    return with_values(array, values)


def _struct(array: Any, depth: int) -> Any:
    names = [field.name for field in array.type]
    if not names:
        raise Unheld("it is an object without fields", _first(array.is_valid()))
    if problem := names_problem(names):
        raise Unheld(problem, _first(array.is_valid()))
    fields = [_held(part, depth + 1) for part in array.flatten()]
    return pa.StructArray.from_arrays(fields, names=names, mask=array.is_null())


def _leaf(array: Any) -> Any:
    kind = array.type
    is_kind = pa.types
    if is_kind.is_null(kind) or is_kind.is_boolean(kind):
        return array
    if is_kind.is_integer(kind):
        return array if is_kind.is_uint64(kind) else array.cast(pa.int64())
    if is_kind.is_floating(kind):
        return array.cast(pa.float32()) if is_kind.is_float16(kind) else array
    if is_kind.is_string(kind) or is_kind.is_large_string(kind) or is_kind.is_string_view(kind):
        return _text(array)
    if is_kind.is_decimal(kind):
        return _decimal(array)
    if is_kind.is_date(kind) or is_kind.is_timestamp(kind) or is_kind.is_time(kind):
        return _moment(array)
    raise Unheld(f"its type is {kind}: numbers, texts, dates, times, and lists of them are held")


def _text(array: Any) -> Any:
    found = _each(array, lambda part: part.cast(pa.string()), "it is too long")
    _each(found, lambda part: part.validate(full=True), "it is not UTF-8 text")
    is_long = pc.greater(pc.binary_length(found), pa.scalar(MAX_VALUE_BYTES, pa.int32()))
    if (at := _first(is_long)) is not None:
        raise _too_long(at)
    return found


def _decimal(array: Any) -> Any:
    scale = max(0, array.type.scale)
    digits = min(_MAX_DIGITS, array.type.precision + scale - array.type.scale)
    if scale > digits:
        raise Unheld(f"its type is {array.type}: decimals of up to {_MAX_DIGITS} digits are held")
    target = pa.decimal128(digits, scale)
    why = f"it has more than the {digits - scale} digits before the point that {target} holds"
    return _each(array, lambda part: part.cast(target), why)


def _moment(array: Any) -> Any:
    """Return dates as days, times and timestamps as microseconds; parts of one are cut off."""
    kind = array.type
    if pa.types.is_date(kind):
        numbers = array.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
        factor = 1 if pa.types.is_date32(kind) else 86_400_000
        _check_range(numbers, _DAYS[0] * factor, (_DAYS[1] + 1) * factor, "years 1 to 9999")
        return array.cast(pa.date32(), safe=False)
    factor = _UNITS[kind.unit]
    numbers = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    if pa.types.is_time(kind):
        _check_range(numbers, 0, 86_400 * factor, "times of a day")
        return array.cast(pa.time64("us"), safe=False)
    first, end = (seconds * factor for seconds in _SECONDS)
    _check_range(numbers, first, end, "years 1 to 9999")
    zone = None if kind.tz is None else "UTC"
    # The zone of a timestamp says how it is shown; the instant is the same.
    return array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.timestamp("us", zone))


def _check_range(numbers: Any, first: int, end: int, held: str) -> None:
    """Raise Unheld unless first <= number < end. Bounds beyond the type hold by themselves."""
    bits = numbers.type.bit_width - 1
    low, high = max(first, -(1 << bits)), min(end - 1, (1 << bits) - 1)
    bad = pc.or_(
        pc.less(numbers, pa.scalar(low, numbers.type)),
        pc.greater(numbers, pa.scalar(high, numbers.type)),
    )
    if (at := _first(bad)) is not None:
        raise Unheld(f"it lies outside of the {held}", at)


def _each(array: Any, do: Callable[[Any], Any], why: str) -> Any:
    """Return what `do` makes of an array. Raises Unheld for the first row that it refuses."""
    try:
        return do(array)
    except pa.ArrowInvalid as error:
        first, count = 0, len(array)
        while count > 1:
            half = count // 2
            try:
                do(array.slice(first, half))
            except pa.ArrowInvalid:
                count = half
            else:
                first, count = first + half, count - half
        raise Unheld(why, first) from error


def _first(mask: Any) -> int | None:
    """Return the position of the first True."""
    at: int = pc.index(mask, True).as_py()
    return None if at < 0 else at


def _is_list(kind: pa.DataType) -> bool:
    is_kind = pa.types
    plain = is_kind.is_list(kind) or is_kind.is_large_list(kind) or is_kind.is_list_view(kind)
    return plain or is_kind.is_large_list_view(kind) or is_kind.is_fixed_size_list(kind)


def _leaves(kind: Any) -> int:
    if pa.types.is_list(kind):
        return _leaves(kind.value_type)
    return sum(_leaves(part.type) for part in kind) if pa.types.is_struct(kind) else 1


def _too_deep(array: Any = None) -> Unheld:
    at = None if array is None else _first(array.is_valid())
    return Unheld(f"it is nested deeper than the {MAX_DEPTH} lists and objects that are held", at)


def _too_long(at: int | None = None) -> Unheld:
    return Unheld(f"it is longer than {MAX_VALUE_BYTES >> 20} MB", at)
