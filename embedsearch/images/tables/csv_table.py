"""CSV as people have it; in: a file, out: rows with their lines, or an Arrow table.

The separator is found in the header: a comma, a semicolon, a tab or a bar, or what a first line
`sep=;` says. The encoding is UTF-8, or what a byte order mark says; a table of
columns may also be in Windows-1252. Names of columns lose the
blanks around them; a column without a name is left out, as pandas writes its index. All failures
are ValueError, with the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core import bounds
from embedsearch.core.formulas import MARKED_BY, unguarded
from embedsearch.core.names import unicode_text
from embedsearch.images.tables.held_values import Unheld, held_column
from embedsearch.images.tables.text_file import MAX_ROW_BYTES, no_utf8, open_text

_SEPARATORS = ",;\t|"
_CHUNK = 8192  # rows that are held as Python's strings
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
# Digits that a number would not keep: 007, the hexadecimal 0x0A, and identifiers such as 12e4,
# which no program writes for a number.
_DIGITS = r"^[+-]?(0[0-9]+([.][0-9]*)?|0[xX].*|[0-9]+[eE][0-9]+)$"
_LONG = r"^[+-]?[0-9]{16,}$"  # beyond what a float keeps
_WHOLE = r"^[+-]?[0-9]+$"
_TIME = r"^[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"
_KINDS = (
    *(pa.int64(), pa.bool_(), pa.date32(), pa.time32("s")),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "ns")),
    pa.float64(),
)


@dataclass(frozen=True)
class CsvRows:
    """The rows of an open file: the line on which each ends, and a cell for each column."""

    columns: list[str]
    rows: Iterator[tuple[int, list[str]]]


@contextmanager
def open_csv(
    path: Path, is_header: Callable[[list[str]], bool], guess: str = ""
) -> Iterator[CsvRows]:
    """Yield the rows of a file. Of several separators, the first that makes a header counts.

    `guess` is the encoding that `guessed_encoding` said.

    Bytes that are not UTF-8 stay in the cells, as in names of files: `check_text` refuses them.
    Raises OSError and ValueError.
    """
    with open_text(path, guess) as file:
        # A value may be as long as a row; Python's bound for all readers of a process is 128 kB.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
        lines = _Lines(file)
        first = _filled(lines)
        if (said := _SEP.fullmatch(first)) is not None:
            first = _filled(lines)
        if not first:
            raise ValueError("it is empty")
        if len(first) > bounds.HEADER_CHARS:
            limit = f"{bounds.HEADER_CHARS:,} characters"
            raise ValueError(f"the names of its columns are longer than {limit}")
        separator = said[1] if said else _separator(path, first, is_header)
        lines.separator = separator
        reader = csv.reader(chain([first], lines), delimiter=separator)
        header = [cell.strip() for cell in next(reader)]
        named = [index for index, name in enumerate(header) if name]
        lines.held = 0
        columns = [header[index] for index in named]
        for name in columns:
            check_text(lines.number, "the header", name)
        rows = _rows(reader, lines, len(header), named, separator)
        if MARKED_BY.issubset(columns):
            rows = ((line, list(map(unguarded, cells))) for line, cells in rows)
        yield CsvRows(columns, rows)


def check_text(line: int, column: str, cell: str) -> None:
    """Raise ValueError for a cell that is not UTF-8."""
    if unicode_text(cell) != cell:
        raise no_utf8(cell, f"line {line}, {column}")


def read_csv(path: Path, naming: Callable[[list[str]], str | None], guess: str = "") -> pa.Table:
    """Return a table; the column that names images is text, the others have their types."""
    chunks: list[list[pa.Array[Any]]] = []
    with open_csv(path, lambda header: naming(header) is not None, guess) as found:
        columns = found.columns
        block: list[tuple[int, list[str]]] = []
        for row in found.rows:
            block.append(row)
            if len(block) == _CHUNK:
                chunks.append(_texts(columns, block))
                block = []
        chunks.append(_texts(columns, block))
    whole = [pa.chunked_array(arrays, pa.string()) for arrays in zip(*chunks, strict=True)]
    by = naming(columns)
    return pa.table(
        [text if name == by else _typed(text) for name, text in zip(columns, whole, strict=True)],
        names=columns,
    )


class _Lines:
    """The lines of a file; what one row takes up is bounded."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.number = 0
        self.held = 0  # characters since the last row
        self.separator = ","

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_BYTES + 1 - self.held)
        if not line:
            if self.held:
                raise ValueError("a quote that opens a value is not closed before the end")
            raise StopIteration
        self.number += 1
        self.held += len(line)
        if self.held > MAX_ROW_BYTES:
            limit = f"{MAX_ROW_BYTES >> 20} MB"
            raise ValueError(f"line {self.number}: a row is longer than {limit}; is a quote open?")
        if len(line) > bounds.SEPARATORS and line.count(self.separator) > bounds.SEPARATORS:
            limit = f"{bounds.SEPARATORS:,} values"
            raise ValueError(f"line {self.number}: a row has more than {limit}")
        return line


def _filled(lines: _Lines) -> str:
    """Return the next line that is not blank, "" at the end."""
    for line in lines:
        if line.strip():
            return line
        lines.held = 0
    return ""


def _separator(path: Path, first: str, is_header: Callable[[list[str]], bool]) -> str:
    """Return the separator of a header."""
    default = "\t" if path.suffix.lower() == ".tsv" else ","
    listed = [default, *(each for each in _SEPARATORS if each != default)]
    headers = {each: next(csv.reader([first], delimiter=each)) for each in listed}
    for separator, header in headers.items():
        if is_header([cell.strip() for cell in header]):
            return separator
    return max(listed, key=lambda each: len(headers[each]))


def _rows(
    reader: Iterator[list[str]], lines: _Lines, width: int, named: Sequence[int], separator: str
) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in reader:
            lines.held = 0
            if not any(cells):  # Excel goes on below the table
                continue
            if any(cells[width:]):
                shown = "a tab" if separator == "\t" else separator
                raise ValueError(
                    f"line {lines.number} has {len(cells)} values, and the header {width}: put a "
                    f"value that holds {shown} into quotes"
                )
            cells += [""] * (width - len(cells))
            yield lines.number, [cells[index] for index in named]
    except csv.Error as error:
        raise ValueError(f"line {lines.number}: {error}") from error


def _texts(columns: list[str], block: Sequence[tuple[int, list[str]]]) -> list[pa.Array[Any]]:
    """Return rows as columns of text."""
    try:
        return [
            pa.array([cells[index] for _, cells in block], pa.string())
            for index in range(len(columns))
        ]
    except UnicodeEncodeError:
        for line, cells in block:
            for name, cell in zip(columns, cells, strict=True):
                check_text(line, name, cell)
        raise


def _typed(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return a column of text as numbers, dates, times or true and false, if all of it is."""
    from pyarrow import csv as arrow

    column = pc.if_else(pc.equal(column, pa.scalar("")), pa.scalar(None, pa.string()), column)
    spelled = arrow.ConvertOptions()
    text = pc.utf8_trim_whitespace(column)
    is_missing = pc.is_in(text, pa.array(list(spelled.null_values or ()), pa.string()))
    values = pc.if_else(is_missing, pa.scalar(None, pa.string()), text)
    if values.null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values))])
    if _any(pc.match_substring_regex(values, _DIGITS)):
        return column
    is_whole = not _any(pc.invert(pc.match_substring_regex(values, _WHOLE)))
    for kind in _KINDS[:1] if is_whole else _KINDS:
        try:
            found: pa.ChunkedArray[Any] = held_column(_cast(values, kind))
        except (pa.ArrowInvalid, Unheld):  # the year 0 is text
            continue
        if pa.types.is_floating(kind) and (
            _any(pc.is_inf(found)) or _any(pc.match_substring_regex(values, _LONG))
        ):
            return column  # 1.2e456 is no number that anyone meant
        return found
    return column


def _cast(values: Any, kind: pa.DataType) -> Any:
    """Return texts as another type. Raises ArrowInvalid."""
    if pa.types.is_time(kind):  # Arrow reads these only with a date
        if _any(pc.invert(pc.match_substring_regex(values, _TIME))):
            raise pa.ArrowInvalid("no time")
        values = pc.binary_join_element_wise("1970-01-01", values, "T").cast(pa.timestamp("s"))
    return values.cast(kind)


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())
