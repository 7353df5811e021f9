"""The directory of a zip file; in: an open file, out: its entries, one at a time.

The library holds all entries in memory, each of them several times as long as in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from zipfile import BadZipFile

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound

_END = struct.Struct("<4s4H2LH")  # of the file, with a comment behind it
_LOCATOR = struct.Struct("<4sLQL")  # of the end as zip64 has it, just before the end
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_MAX_COMMENT = 1 << 16
_ZIP64, _IN_ZIP64 = 1, 0xFFFFFFFF  # an extra field, and what says that a number is in it


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """What the directory says of one member; `start` is that of its local header."""

    name: bytes
    extra: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    start: int
    attributes: int


def entries(file: BinaryIO) -> Iterator[ZipEntry]:
    """Yield the entries. Raises BadZipFile and OverBound."""
    length, start, before = _place(file)
    file.seek(start)
    left, number = length, 0
    while left > 0:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size:
            raise BadZipFile("Truncated central directory")
        mark, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, attributes, at = (
            _ENTRY.unpack(head)
        )
        if mark != b"PK\1\2":
            raise BadZipFile("Bad magic number for central directory")
        number += 1
        if number > bounds.MEMBERS:
            raise OverBound(f"it has more than {bounds.MEMBERS} members")
        name, extra, comment = (file.read(each) for each in lengths)
        left -= _ENTRY.size + len(name) + len(extra) + len(comment)
        size, packed, at = _in_64_bits(extra, size, packed, at)
        yield ZipEntry(name, extra, flags, method, crc, packed, size, at + before, attributes)


def _place(file: BinaryIO) -> tuple[int, int, int]:
    """Return the length of the directory, its start, and how much lies before the zip file."""
    whole = file.seek(0, os.SEEK_END)
    file.seek(max(0, whole - _END.size - _MAX_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if at < 0:
        raise BadZipFile("File is not a zip file")
    *_, length, offset, _ = _END.unpack_from(tail, at)
    end = whole - len(tail) + at
    file.seek(max(0, end - _LOCATOR.size))
    locator = file.read(_LOCATOR.size)
    if locator.startswith(b"PK\6\7") and end >= _LOCATOR.size + _END64.size:
        file.seek(end - _LOCATOR.size - _END64.size)
        end64 = file.read(_END64.size)
        if end64.startswith(b"PK\6\6"):
            *_, length, offset = _END64.unpack(end64)
            end -= _LOCATOR.size + _END64.size
    before = end - length - offset
    if before < 0 or end < length:
        raise BadZipFile("Bad offset for central directory")
    return length, end - length, before


def _in_64_bits(extra: bytes, *numbers: int) -> list[int]:
    """Return the numbers of an entry, from the field of zip64 where they are too long."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _ZIP64:
            found = []
            for number in numbers:
                if number == _IN_ZIP64:
                    if len(field) < 8:
                        raise BadZipFile("Corrupt zip64 extra field")
                    number, field = int.from_bytes(field[:8], "little"), field[8:]
                found.append(number)
            return found
    return list(numbers)
