"""What a Parquet file states before the library believes it; in: a path, out: a checked file.

The library makes room for whatever sizes the footer and the pages state, so both are read here
first, by their format (Thrift's compact protocol): how many fields, chunks and values there are,
and what each page unpacks to.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound

_MAGIC, _TAIL_BYTES = b"PAR1", 8
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, {4, 5, 6}, 7, 8
_LISTS, _MAP, _STRUCT, _UUID = {9, 10}, 11, 12, 13
_DEEPEST = 64  # structs and lists in one another
_BYTES = {6, 7}  # types of values that have any length
_DATA, _DICTIONARY, _DATA_2 = 5, 7, 8  # fields of a page's header
_ENCODING = {_DATA: 2, _DATA_2: 4}  # fields of those
_PREFIXES = 7  # the encoding by which a value repeats the begin of the one before
_HEAD_BYTES = 4096  # of a page, which are read first


@dataclass
class _Chunk:
    """A column in a row group: where its pages are."""

    name: str = ""  # of the column that it belongs to
    kind: int = -1
    packed: int = 0
    start: int = 0
    dictionary: int = 0
    largest: int = 0  # bytes that a page unpacks to
    longest: int = 0  # bytes that one value may have beside those of its page


@dataclass
class Parquet:
    """An open file that was checked."""

    file: pq.ParquetFile
    bytes: int
    longest: dict[str, int] = field(default_factory=dict)  # see _Chunk, by column

    def rows_at_once(self, names: Collection[str], most: int) -> int:
        """Return how many rows of these columns fit into READ_BYTES when they are unpacked."""
        longest = sum(self.longest.get(name, 0) for name in names)
        return max(1, min(most, bounds.READ_BYTES // max(1, longest)))


def open_parquet(path: str | Path, *, checksums: bool = False) -> Parquet:
    """Open a file that states nothing beyond the bounds. Raises OverBound, and what Arrow does."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        longest: dict[str, int] = {}
        for group in _groups(file, size):
            for chunk in group:
                longest[chunk.name] = max(longest.get(chunk.name, 0), chunk.longest)
    return Parquet(pq.ParquetFile(path, page_checksum_verification=checksums), size, longest)


def _groups(file: BinaryIO, size: int) -> Iterator[list[_Chunk]]:
    """Yield the chunks of each row group once their pages are checked."""
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if not tail.endswith(_MAGIC) or length > size - _TAIL_BYTES:
        return  # the library says it better
    if length > bounds.FOOTER_BYTES:
        raise OverBound(f"a footer of more than {bounds.FOOTER_BYTES >> 20} MB")
    file.seek(size - _TAIL_BYTES - length)
    for group in _footer(_Reader(file.read(length))):
        for chunk in group:
            _check_pages(file, size, chunk)
        packed, unpacked = sum(c.packed for c in group), sum(c.largest for c in group)
        _check_ratio("the pages of its columns", packed, unpacked)
        by_column: dict[str, _Chunk] = {}
        for chunk in group:
            whole = by_column.setdefault(chunk.name, _Chunk(chunk.name))
            whole.longest += chunk.longest
        yield list(by_column.values())


def _check_ratio(what: str, packed: int, unpacked: int) -> None:
    if unpacked > max(bounds.PAGE_FLOOR_BYTES, bounds.PAGE_RATIO * packed):
        limit = f"{bounds.PAGE_FLOOR_BYTES >> 20} MB and {bounds.PAGE_RATIO} times their size"
        raise OverBound(f"{what} of {packed} bytes unpack to {unpacked}: more than {limit}")


def _check_pages(file: BinaryIO, size: int, chunk: _Chunk) -> None:
    """Look at the headers of a chunk's pages. Raises OverBound."""
    is_first = 0 < chunk.dictionary < chunk.start
    at = chunk.dictionary if is_first else chunk.start
    end, values = min(size, at + chunk.packed), 0
    while 0 <= at < end:
        page, length = _page(file, at)
        packed, unpacked = page.packed, page.unpacked
        if packed < 0 or unpacked < 0:
            raise ValueError("a page states a size below 0")
        _check_ratio("a page", packed, unpacked)
        values += page.values
        if values > bounds.VALUES_FLOOR + size // bounds.VALUE_BYTES:
            raise OverBound(f"{values} values are stated in {size} bytes")
        chunk.largest = max(chunk.largest, unpacked)
        if chunk.kind in _BYTES and page.repeats:
            chunk.longest = max(chunk.longest, unpacked)
        at += length + packed


@dataclass
class _Page:
    packed: int = 0
    unpacked: int = 0
    values: int = 0
    repeats: bool = False  # whether one of its bytes may become many


def _page(file: BinaryIO, at: int) -> tuple[_Page, int]:
    """Return the header of a page, and its length."""
    for most in (_HEAD_BYTES, bounds.PAGE_HEADER_BYTES):
        file.seek(at)
        reader = _Reader(file.read(most))
        try:
            return _page_header(reader), reader.at
        except IndexError as error:
            if most == bounds.PAGE_HEADER_BYTES:
                limit = bounds.PAGE_HEADER_BYTES >> 20
                raise OverBound(f"no header of a page within {limit} MB") from error
    raise AssertionError("the last try returns or raises")


def _page_header(reader: _Reader) -> _Page:
    page = _Page()
    for number, kind in reader.fields():
        if number == 2:
            page.unpacked = reader.integer()
        elif number == 3:
            page.packed = reader.integer()
        elif number in _ENCODING and kind == _STRUCT:
            for inner, of_kind in reader.fields():
                if inner == 1:
                    page.values = reader.integer()
                elif inner == _ENCODING[number]:
                    page.repeats = reader.integer() == _PREFIXES
                else:
                    reader.skip(of_kind)
        else:
            page.repeats |= number == _DICTIONARY
            reader.skip(kind)
    return page


def _footer(reader: _Reader) -> Iterator[list[_Chunk]]:
    """Yield the chunks of each row group of a file's metadata."""
    chunks = 0
    try:
        for number, kind in reader.fields():
            if number == 2 and kind in _LISTS:
                _check_schema(reader)
            elif number == 4 and kind in _LISTS:
                for _ in range(reader.length()):
                    group = _group(reader)
                    chunks += len(group)
                    if chunks > bounds.COLUMN_CHUNKS:
                        limit = bounds.COLUMN_CHUNKS
                        raise OverBound(f"more than {limit} columns in all row groups together")
                    yield group
            else:
                reader.skip(kind)
    except IndexError as error:
        raise ValueError("its footer ends too early") from error


def _check_schema(reader: _Reader) -> None:
    """Raise OverBound for a schema of too many fields, or too deep."""
    count = reader.length()
    if count > bounds.SCHEMA_FIELDS:
        raise OverBound(f"{count} fields are more than {bounds.SCHEMA_FIELDS}")
    open_groups: list[int] = []  # how many children each still has
    for _ in range(count):
        children = 0
        for number, kind in reader.fields():
            if number == 5:
                children = reader.integer()
            else:
                reader.skip(kind)
        if open_groups:
            open_groups[-1] -= 1
        if children > 0:
            open_groups.append(children)
        while open_groups and not open_groups[-1]:
            open_groups.pop()
        if len(open_groups) > bounds.SCHEMA_DEPTH:
            raise OverBound(f"its fields are more than {bounds.SCHEMA_DEPTH} deep")


def _group(reader: _Reader) -> list[_Chunk]:
    group: list[_Chunk] = []
    for number, kind in reader.fields():
        if number == 1 and kind in _LISTS:
            for _ in range(reader.length()):
                chunk = _Chunk()
                for inner, of_kind in reader.fields():
                    if inner == 3 and of_kind == _STRUCT:
                        _metadata(reader, chunk)
                    else:
                        reader.skip(of_kind)
                group.append(chunk)
        else:
            reader.skip(kind)
    return group


def _metadata(reader: _Reader, chunk: _Chunk) -> None:
    integers = {1: "kind", 7: "packed", 9: "start", 11: "dictionary"}
    for number, kind in reader.fields():
        if number in integers:
            setattr(chunk, integers[number], reader.integer())
        elif number == 3 and kind in _LISTS:
            for place in range(reader.length()):
                text = reader.binary()
                if place == 0:
                    chunk.name = text.decode("utf-8", "replace")
        else:
            reader.skip(kind)


class _Reader:
    """Values in Thrift's compact protocol. Raises IndexError at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of each field of a struct; each is read or skipped meanwhile."""
        number = 0
        while byte := self._byte():
            step = byte >> 4
            number = number + step if step else self.integer()
            yield number, byte & 15

    def integer(self) -> int:
        """Return a number with a sign."""
        value = self._number()
        return (value >> 1) ^ -(value & 1)

    def length(self) -> int:
        """Return how many elements a list has; their type is passed over."""
        byte = self._byte()
        return self._number() if byte >> 4 == 15 else byte >> 4

    def binary(self) -> bytes:
        """Return bytes."""
        length = self._number()
        start, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise IndexError
        return self._data[start : self.at]

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > _DEEPEST:
            raise OverBound("a header is nested too deep")
        if kind in {_TRUE, _FALSE}:
            return
        if kind == _BYTE:
            self._byte()
        elif kind in _INTEGERS:
            self._number()
        elif kind in {_DOUBLE, _UUID}:
            self.at += 8 if kind == _DOUBLE else 16
        elif kind == _BINARY:
            self.binary()
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in _LISTS or kind == _MAP:
            self._skip_elements(kind, depth)
        else:
            raise ValueError(f"a header holds a value of type {kind}, which there is not")

    def _skip_elements(self, kind: int, depth: int) -> None:
        if kind == _MAP:
            count = self._number()
            byte = self._byte() if count else 0
            kinds = [byte >> 4, byte & 15]
        else:
            kinds = [self._data[self.at] & 15]
            count = self.length()
        for _ in range(count):
            for each in kinds:
                if each in {_TRUE, _FALSE}:
                    self._byte()  # in a list it has one
                else:
                    self.skip(each, depth + 1)

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a header holds a number of more than 64 bits")


def read_columns(parquet: Parquet, names: list[str]) -> Any:
    """Return columns as a table. Raises OverBound for one that memory should not hold."""
    import pyarrow as pa

    schema = parquet.file.schema_arrow
    most = max(bounds.TABLE_FLOOR_BYTES, bounds.TABLE_RATIO * parquet.bytes)
    held, batches = 0, []
    for batch in parquet.file.iter_batches(parquet.rows_at_once(names, 65_536), columns=names):
        held += batch.nbytes
        if held > most:
            limit = f"{bounds.TABLE_FLOOR_BYTES >> 20} MB and {bounds.TABLE_RATIO} times its size"
            raise OverBound(f"its columns unpack to more than {limit}")
        batches.append(batch)
    kept = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_batches(batches, kept).combine_chunks()
