"""What a Parquet file states before the library believes it; in: a path, out: a checked file.

The library makes room for whatever sizes the footer and the pages state, so both are read here
first, by their format: how many fields, chunks and values there are, and what each page unpacks to.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.images.tables.dictionary_page import DictionaryPage
from embedsearch.images.tables.thrift import LISTS, STRUCT, ThriftReader
from embedsearch.images.tables.unpacked import largest_rows, unpacked_bytes

_MAGIC, _TAIL_BYTES = b"PAR1", 8
_FIXED = 7  # the type of values of one length
_BYTES = {6, _FIXED}  # types of values that have any length
_DATA, _DICTIONARY, _DATA_2 = 5, 7, 8  # fields of a page's header
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_2: 4}  # fields of those
_NAMED = {2, 8}  # the encodings by which rows name values of a dictionary
_PREFIXES = 7  # the encoding by which a value repeats the begin of the one before
_HEAD_BYTES = 4096  # of a page, which are read first


@dataclass
class _Chunk:
    """A column in a row group: where its pages are."""

    kind: int = -1
    codec: int = 0
    packed: int = 0
    start: int = 0
    dictionary: int = 0
    group: int = 0
    leaf: int = 0  # which column of the schema, of those without others in them
    largest: int = 0  # bytes that a page unpacks to
    longest: int = 0  # bytes that a value of its pages takes; see _bytes_of_a_value
    dictionaries: list[DictionaryPage] = field(default_factory=list)  # whose values are not known
    named: int = 0  # values of any length that pages name in a dictionary
    others: int = 0  # bytes that all other values may take

    @property
    def value_bytes(self) -> int:
        """What one of its values may take in memory."""
        return max(self.longest, self.page_bytes)

    @property
    def page_bytes(self) -> int:
        """What a value of its dictionaries has at most, if nothing else is known."""
        return max((page.most_bytes for page in self.dictionaries), default=0)


@dataclass
class Parquet:
    """An open file that was checked."""

    file: pq.ParquetFile
    path: str | Path
    bytes: int
    chunks: list[_Chunk] = field(default_factory=list)  # with values of any length
    looked_at: int = 0  # values of dictionaries
    measured: set[int] = field(default_factory=set)  # columns whose rows were

    def check_held(self, size: int, what: str = "its columns") -> None:
        """Raise OverBound if memory should not hold so many bytes of its columns."""
        if size > self._most_held:
            limit = f"{bounds.TABLE_FLOOR_BYTES >> 20} MB and {bounds.TABLE_RATIO} times its size"
            raise OverBound(f"{what} unpack to more than {limit}")

    @property
    def _most_held(self) -> int:
        return max(bounds.TABLE_FLOOR_BYTES, bounds.TABLE_RATIO * self.bytes)

    def rows_at_once(self, names: Collection[str], most: int) -> int:
        """Return how many rows of these columns fit into READ_BYTES when they are unpacked.

        A name is one of a column, or of a field in it with dots between. Raises OverBound where one
        row may have more than memory should hold, and what Arrow does.
        """
        leaves = self._leaves(set(names))
        self._check_lists(leaves)
        rows = self._fitting(leaves, most)
        if rows < most and self._look(leaves):
            rows = self._fitting(leaves, most)
        return rows

    def _leaves(self, names: set[str]) -> set[int]:
        """Return the columns of the schema that are read for these names, as the library does."""
        schema: Any = self.file.schema
        paths = (schema.column(number).path.split(".") for number in range(len(schema)))
        above = (accumulate(path, "{}.{}".format) for path in paths)
        return {number for number, each in enumerate(above) if not names.isdisjoint(each)}

    def _fitting(self, leaves: set[int], most: int) -> int:
        return max(1, min(most, bounds.READ_BYTES // max(1, self._row_bytes(leaves))))

    def _row_bytes(self, leaves: set[int]) -> int:
        of_row: Counter[int] = Counter()
        for chunk in self.chunks:
            if chunk.leaf in leaves:
                of_row[chunk.group] += chunk.value_bytes
        return max(of_row.values(), default=0)

    def _check_lists(self, leaves: set[int]) -> None:
        """Raise OverBound for lists of which a row may have more than memory should hold.

        A row is read whole, however often it names a value. Its bytes are counted only in columns
        that would have too many if each value were as long as the longest.
        """
        lists = {leaf for leaf in leaves if self._is_list(leaf)}
        chunks = [chunk for chunk in self.chunks if chunk.leaf in lists - self.measured]
        others = sum(chunk.others for chunk in chunks)
        self.check_held(others, "its lists may")
        if others + sum(chunk.named * chunk.page_bytes for chunk in chunks) > self._most_held:
            named: Counter[int] = Counter()
            with open(self.path, "rb") as file:
                for chunk in chunks:
                    longest = self._longest(file, chunk)
                    named[chunk.leaf] += chunk.named * (longest or chunk.page_bytes)
            if others + named.total() > self._most_held:
                share = (self._most_held - others) // len(named)
                for leaf in (leaf for leaf, size in named.items() if size > share):
                    self._measure(leaf)
        self.check_held(self._row_bytes(lists & self.measured))

    def _measure(self, leaf: int) -> None:
        schema: Any = self.file.schema
        largest = largest_rows(self.path, schema.column(leaf).path)
        for chunk in self.chunks:
            if chunk.leaf == leaf:
                chunk.longest, chunk.dictionaries = largest[chunk.group], []
        self.measured.add(leaf)

    def _is_list(self, leaf: int) -> bool:
        schema: Any = self.file.schema
        return bool(schema.column(leaf).max_repetition_level)

    def _look(self, leaves: set[int]) -> bool:
        """Learn the longest value of each dictionary; return whether any was learned.

        Until then the whole page counts as one value. So it does for lists, of which a row may
        have a value many times.
        """
        found = False
        with open(self.path, "rb") as file:
            for chunk in self.chunks:
                if chunk.leaf not in leaves or self._is_list(chunk.leaf):
                    continue
                if (longest := self._longest(file, chunk)) is not None:
                    chunk.longest, chunk.dictionaries = max(chunk.longest, longest), []
                    found = True
        return found

    def _longest(self, file: BinaryIO, chunk: _Chunk) -> int | None:
        """Return how long the values of dictionaries are; None without, or with too many."""
        values = sum(page.values for page in chunk.dictionaries)
        most = bounds.VALUES_FLOOR + self.bytes // bounds.VALUE_BYTES
        if not chunk.dictionaries or self.looked_at + values > most:
            return None
        self.looked_at += values
        return max(page.longest(file) for page in chunk.dictionaries)


def open_parquet(path: str | Path, *, checksums: bool = False) -> Parquet:
    """Open a file that states nothing beyond the bounds. Raises OverBound, and what Arrow does."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        chunks = [chunk for group in _groups(file, size) for chunk in group if chunk.value_bytes]
    opened = pq.ParquetFile(path, page_checksum_verification=checksums)
    return Parquet(opened, path, size, chunks)


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
    for number, group in enumerate(_footer(ThriftReader(file.read(length)))):
        for leaf, chunk in enumerate(group):
            chunk.group, chunk.leaf = number, leaf
            _check_pages(file, size, chunk)
        packed, unpacked = sum(c.packed for c in group), sum(c.largest for c in group)
        _check_ratio("the pages of its columns", packed, unpacked)
        yield group


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
        if chunk.kind in _BYTES:
            chunk.longest = max(chunk.longest, _bytes_of_a_value(page))
            if page.encoding in _NAMED and not page.is_dictionary:
                chunk.named += page.values
            else:
                chunk.others += _bytes_of_all_values(page)
            if page.is_dictionary:
                place, is_fixed = at + length, chunk.kind == _FIXED
                listed = packed, unpacked, page.listed, chunk.codec, is_fixed
                chunk.dictionaries.append(DictionaryPage(place, *listed))
        at += length + packed
    if chunk.kind == _FIXED:  # as long as any other, and Arrow keeps none of them once
        length = max((-(-p.most_bytes // max(1, p.values)) for p in chunk.dictionaries), default=0)
        chunk.others, chunk.named = chunk.others + chunk.named * length, 0


def _bytes_of_a_value(page: _Page) -> int:
    """Return what a row takes of a page: on average, as whole pages are read, if none repeats."""
    size = max(page.packed, page.unpacked)  # some are not packed, whatever their sizes say
    repeats = page.encoding == _PREFIXES  # one of its bytes may become many
    return 0 if page.is_dictionary else size if repeats else -(-size // max(1, page.values))


def _bytes_of_all_values(page: _Page) -> int:
    """Return what the values of a page may take together, a dictionary's as they are listed."""
    return max(page.packed, page.unpacked) * (page.values if page.encoding == _PREFIXES else 1)


@dataclass
class _Page:
    packed: int = 0
    unpacked: int = 0
    values: int = 0
    listed: int = 0  # values of a dictionary
    is_dictionary: bool = False
    encoding: int = -1


def _page(file: BinaryIO, at: int) -> tuple[_Page, int]:
    """Return the header of a page, and its length."""
    for most in (_HEAD_BYTES, bounds.PAGE_HEADER_BYTES):
        file.seek(at)
        reader = ThriftReader(file.read(most))
        try:
            return _page_header(reader), reader.at
        except IndexError as error:
            if most == bounds.PAGE_HEADER_BYTES:
                limit = bounds.PAGE_HEADER_BYTES >> 20
                raise OverBound(f"no header of a page within {limit} MB") from error
    raise AssertionError("the last try returns or raises")


def _page_header(reader: ThriftReader) -> _Page:
    page = _Page()
    kinds: set[int] = set()
    for number, kind in reader.fields():
        if number == 2:
            page.unpacked = reader.integer()
        elif number == 3:
            page.packed = reader.integer()
        elif number in _ENCODING and kind == STRUCT:
            kinds.add(number)
            _page_kind(reader, number, page)
        else:
            reader.skip(kind)
    if len(kinds) > 1:
        raise ValueError("a page states to be of two kinds")
    return page


def _page_kind(reader: ThriftReader, number: int, page: _Page) -> None:
    page.is_dictionary = number == _DICTIONARY
    for inner, kind in reader.fields():
        if inner == 1 and page.is_dictionary:
            page.listed = reader.integer()
        elif inner == 1:
            page.values = reader.integer()
        elif inner == _ENCODING[number]:
            page.encoding = reader.integer()
        else:
            reader.skip(kind)


def _footer(reader: ThriftReader) -> Iterator[list[_Chunk]]:
    """Yield the chunks of each row group of a file's metadata."""
    chunks = 0
    try:
        for number, kind in reader.fields():
            if number == 2 and kind in LISTS:
                _check_schema(reader)
            elif number == 4 and kind in LISTS:
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


def _check_schema(reader: ThriftReader) -> None:
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


def _group(reader: ThriftReader) -> list[_Chunk]:
    group: list[_Chunk] = []
    for number, kind in reader.fields():
        if number == 1 and kind in LISTS:
            for _ in range(reader.length()):
                chunk = _Chunk()
                for inner, of_kind in reader.fields():
                    if inner == 3 and of_kind == STRUCT:
                        _metadata(reader, chunk)
                    else:
                        reader.skip(of_kind)
                group.append(chunk)
        else:
            reader.skip(kind)
    return group


def _metadata(reader: ThriftReader, chunk: _Chunk) -> None:
    integers = {1: "kind", 4: "codec", 7: "packed", 9: "start", 11: "dictionary"}
    for number, kind in reader.fields():
        if number in integers:
            setattr(chunk, integers[number], reader.integer())
        else:
            reader.skip(kind)


def read_columns(parquet: Parquet, names: list[str]) -> Any:
    """Return columns as a table. Raises OverBound for one that memory should not hold."""
    import pyarrow as pa

    schema = parquet.file.schema_arrow
    held, batches = 0, []
    for batch in parquet.file.iter_batches(parquet.rows_at_once(names, 65_536), columns=names):
        held += unpacked_bytes(batch)
        parquet.check_held(held)
        batches.append(batch)
    kept = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_batches(batches, kept).combine_chunks()
