"""JSON as people have it; in: a file, out: an Arrow table.

It is one object a line, an array of objects, or an object of objects by the names of images. All
failures are ValueError, with the line.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core import bounds
from embedsearch.core.names import unicode_text
from embedsearch.images.tables.column_names import NAME, NEEDED, naming_column, naming_field
from embedsearch.images.tables.held_values import Unheld, check_value, held_type
from embedsearch.images.tables.text_file import MAX_ROW_BYTES, no_utf8, open_text

MAX_DOCUMENT_BYTES = 256 << 20  # of JSON that is not one object a line: memory holds it whole
_SAFE_DEPTH = 500  # brackets in one another that Arrow's parser takes without a crash
_CELL_BYTES = 8  # of a field in a row that has none
_FIELD = re.compile(rb'"([^"]{0,1600}+)"\s{0,80}+:')
_WANTED = "one object a line, an array of objects, or an object of objects by name is wanted"


def read_json(path: Path) -> tuple[pa.Table, str | None]:
    """Return a table, and the column that names images, None if none does."""
    with path.open("rb") as file:
        head = file.read(1024)
        if head.lstrip()[:1] == b"{":
            file.seek(0)
            _check_shape(file)
            file.seek(0)
            try:
                table = _read_lines(file, path.stat().st_size)
            except pa.ArrowInvalid:
                pass  # the parser's words would be about its insides: see below
            else:
                if (by := naming_field(table.schema)) is not None or table.num_rows != 1:
                    return _with_all_digits(table, lambda: _objects(path)), by
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        if head.lstrip()[:1] == b"{":
            _check_lines(path)
        raise ValueError(
            f"JSON of more than {MAX_DOCUMENT_BYTES >> 20} MB has to be one object a line, with "
            "the same kind of value in a field each time"
        )
    with open_text(path) as file_text:
        text = file_text.read()
    _check_count(text)
    rows, by = _rows(_values(text))
    _check_rows(rows)
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    try:
        table = _with_all_digits(_read_lines(io.BytesIO(lines), len(lines)), lambda: rows)
    except pa.ArrowInvalid:  # a field holds several kinds of values
        table = json_columns(rows)
    return table, by or naming_field(table.schema)


def json_columns(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a column for each name; one whose values are not of one type becomes JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table([json_column([row.get(name) for row in rows]) for name in names], names)


def json_column(values: list[Any]) -> pa.Array[Any]:
    """Return values as one column, as JSON text where they have no type in common."""
    if (array := typed_column(values)) is not None:
        return array
    texts = [None if value is None else json.dumps(value, default=str) for value in values]
    return pa.array(texts, pa.string())


def typed_column(values: list[Any]) -> pa.Array[Any] | None:
    """Return values as one column of a type that is held, None where they have none in common."""
    try:
        array: pa.Array[Any] = pa.array(values)
        held_type(array.type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, Unheld):
        return None
    return array


def _check_shape(file: BinaryIO) -> None:
    """Raise ValueError for lines that Arrow's parser would crash of, or fill the memory for.

    It makes room for each field in each row.
    """
    opened, number, size = 0, 1, 0
    fields: set[bytes] = set()
    for piece in iter(lambda: file.readline(MAX_ROW_BYTES), b""):
        opened += piece.count(b"[") + piece.count(b"{")
        if opened > _SAFE_DEPTH and _depth(piece) > _SAFE_DEPTH:
            raise ValueError(f"line {number} is nested too deeply")
        size += len(piece)
        fields.update(_FIELD.findall(piece))
        room = _CELL_BYTES * len(fields) * number
        if room > max(bounds.TABLE_FLOOR_BYTES, bounds.TABLE_RATIO * size) or (
            len(fields) > bounds.SCHEMA_FIELDS
        ):
            raise ValueError(f"line {number}: there are {len(fields)} fields by now, too many")
        if piece.endswith(b"\n"):
            opened, number = 0, number + 1


def _check_count(text: str) -> None:
    """Raise ValueError for a document of many tiny values, which take up many times its size."""
    count = sum(map(text.count, ",[{"))
    if count > bounds.JSON_VALUES_FLOOR + len(text) // bounds.JSON_VALUE_BYTES:
        raise ValueError(
            f"{count:,} values in {len(text):,} characters are too many for one document: write "
            "one object a line"
        )


def _depth(line: bytes) -> int:
    """Return how deep the brackets of a line are in one another, without those in texts."""
    brackets = re.sub(rb'"(?:[^"\\]|\\.)*"?|[^][{}"]+', b"", line)
    steps = np.where(np.isin(np.frombuffer(brackets, np.uint8), list(b"[{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _check_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError for a value that is not held, with its row and column."""
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            try:
                check_value(value)
            except Unheld as error:
                raise ValueError(f"row {number}, column {unicode_text(name)}: {error}") from error


def _read_lines(file: BinaryIO, size: int) -> pa.Table:
    from pyarrow import json as arrow

    # A row fits into a block, and so may be as long as the bound, not as the library's 1 MB.
    block = min(max(size + 1, 1 << 20), MAX_ROW_BYTES)
    return arrow.read_json(file, read_options=arrow.ReadOptions(block_size=block))


def _with_all_digits(table: pa.Table, rows: Callable[[], Iterable[Mapping[str, Any]]]) -> pa.Table:
    """Return a table in which whole numbers that a float would cut are text, as their columns."""
    doubted = [name for name in table.column_names if _has_long(table.column(name))]
    if not doubted:
        return table
    values: dict[str, list[Any]] = {name: [] for name in doubted}
    for row in rows():
        for name in doubted:
            values[name].append(row.get(name))
    for name in doubted:
        if any(map(_is_cut, values[name])):
            texts = [None if v is None else json.dumps(v) for v in values[name]]
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(texts, pa.string()))
    return table


def _has_long(column: Any) -> bool:
    """Return whether a column has floats, perhaps inside, that whole numbers may have become."""
    if pa.types.is_floating(column.type):
        return bool(pc.any(pc.greater_equal(pc.abs(column), pa.scalar(2.0**53))).as_py())
    if pa.types.is_list(column.type):
        return _has_long(pc.list_flatten(column))
    return pa.types.is_struct(column.type) and any(map(_has_long, column.flatten()))


def _is_cut(value: Any) -> bool:
    """Return whether a value is, or holds, a whole number that a float does not keep."""
    if isinstance(value, dict):
        return any(map(_is_cut, value.values()))
    if isinstance(value, list):
        return any(map(_is_cut, value))
    return isinstance(value, int) and (abs(value) >= 1 << 63 or float(value) != value)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that is known to hold nothing else."""
    with open_text(path) as file:
        if path.stat().st_size <= MAX_DOCUMENT_BYTES:
            yield from _values(file.read())
            return
        for number, line in enumerate(file, start=1):
            yield from _values(line, number)


def _check_lines(path: Path) -> None:
    """Raise ValueError for the first line that is no object, or too long."""
    with open_text(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), ""), start=1):
            if len(line) > MAX_ROW_BYTES:
                raise ValueError(f"line {number} is longer than {MAX_ROW_BYTES >> 20} MB")
            if line.strip() and not isinstance(_values(line, number)[0], dict):
                raise ValueError(f"line {number} is {_said(_values(line)[0])}; {_WANTED}")


def _values(text: str, first_line: int = 1) -> list[Any]:
    """Return the JSON values of a text, with any blanks between them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = first_line + text.count("\n", 0, error.start)
        raise no_utf8(text[error.start : error.end], f"line {line}") from error
    decoder, values, position = json.JSONDecoder(), [], 0
    try:
        while position < len(text):
            if text[position].isspace():
                position += 1
                continue
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"line {line}, character {error.colno}: {error.msg}; {_WANTED}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return values


def _rows(values: list[Any]) -> tuple[list[dict[str, Any]], str | None]:
    """Return the objects of a table, and their column of names if the file has no such column."""
    if not values:
        raise ValueError("it is empty")
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    elif len(values) == 1 and isinstance(values[0], dict) and naming_column(values[0]) is None:
        return _by_name(values[0])
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise ValueError(f"value {number} is {_said(value)}; {_WANTED}")
    return values, None


def _by_name(whole: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """Return the objects of an object with their names, unless they have a column of names."""
    inner = list(whole.values())
    if not inner or not all(isinstance(value, dict) for value in inner):
        held = ", ".join(list(whole)[:20])
        raise ValueError(f"it is one object with the fields {held}; {NEEDED} is needed")
    paths = {naming_column(name for name in value if name != NAME) for value in inner}
    if None not in paths and not any("." in name for name in whole):
        return inner, None  # by numbers: each has a path of its own
    has_names = any(NAME in value for value in inner)
    by = "path" if has_names or any("/" in name for name in whole) else NAME
    return [
        {by: name, **{k: v for k, v in value.items() if k != by}} for name, value in whole.items()
    ], by


def _said(value: Any) -> str:
    kinds = {list: "an array", str: "a text", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "true or false" if isinstance(value, bool) else "a number")
