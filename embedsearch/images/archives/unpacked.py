"""The bytes of a tar file, plain or compressed as a whole; in: an open file, out: a stream.

Both kinds go forward only. What a compressed one unpacks to is counted and bounded.
"""

from __future__ import annotations

import bz2
import lzma
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound

_PIECE_BYTES = 256 << 10  # that are unpacked at once


class TarStream(ABC):
    """A tar file that is read from its start; `position` is in the tar file, unpacked."""

    position = 0

    @property
    @abstractmethod
    def most_members(self) -> int:
        """Return how many members it may have, as far as it was read."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""

    @abstractmethod
    def skip_to(self, position: int) -> None:
        """Go on from a later position. Raises ReadError where there is none."""

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next bytes, not all at once. Raises ReadError where they end too early."""
        while size:
            piece = self.read(min(size, _PIECE_BYTES))
            if not piece:
                raise tarfile.ReadError("unexpected end of data")
            size -= len(piece)
            yield piece


class PlainTar(TarStream):
    """A tar file as it is on the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = os.fstat(file.fileno()).st_size

    @property
    def most_members(self) -> int:
        """Return the bound of all archives."""
        return bounds.MEMBERS

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        data = self._file.read(size)
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Go on from a later position. Raises ReadError where there is none."""
        if position > self._end:
            raise tarfile.ReadError("unexpected end of data")
        self._file.seek(position)
        self.position = position


class PackedTar(TarStream):
    """A tar file that is compressed as a whole."""

    def __init__(self, file: BinaryIO, unpacker: Callable[[], Unpacker]) -> None:
        self._file = file
        self._pieces = _unpacked(file, unpacker)
        self._rest = memoryview(b"")
        self._unpacked = 0

    @property
    def most_members(self) -> int:
        """Return the bound for the bytes that were read: an empty member packs to few."""
        packed = self._file.tell()
        return min(bounds.MEMBERS, bounds.MEMBERS_FLOOR + packed // bounds.MEMBER_PACKED_BYTES)

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end. Raises OverBound."""
        parts = list(self._taken(size))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip_to(self, position: int) -> None:
        """Go on from a later position. Raises ReadError where there is none, and OverBound."""
        missing = position - self.position
        for part in self._taken(missing):
            missing -= len(part)
        if missing > 0:
            raise tarfile.ReadError("unexpected end of data")

    def _taken(self, size: int) -> Iterator[bytes]:
        while size > 0:
            if not self._rest:
                piece = next(self._pieces, b"")
                if not piece:
                    return
                self._unpacked += len(piece)
                self._check()
                self._rest = memoryview(piece)
            part, self._rest = self._rest[:size], self._rest[size:]
            size -= len(part)
            self.position += len(part)
            yield bytes(part)

    def _check(self) -> None:
        packed = self._file.tell()
        if self._unpacked > max(bounds.UNPACKED_FLOOR_BYTES, bounds.UNPACKED_RATIO * packed):
            raise OverBound(
                f"{packed} bytes of it unpack to more than {bounds.UNPACKED_FLOOR_BYTES >> 20} MB "
                f"and {bounds.UNPACKED_RATIO} times their size"
            )


class Unpacker(Protocol):
    """What the decompressors of bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Gunzip:
    """A decompressor of gzip with the methods of the others."""

    needs_input = True

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._stream.unconsumed_tail
        return piece


_UNPACKERS: tuple[tuple[bytes, Callable[[], Unpacker]], ...] = (
    (b"\x1f\x8b", _Gunzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=bounds.XZ_MEMORY_BYTES)),
)


def open_tar(file: BinaryIO) -> TarStream:
    """Return the stream of an open file, by its first bytes."""
    head = file.read(6)
    file.seek(0)
    for start, unpacker in _UNPACKERS:
        if head.startswith(start):
            return PackedTar(file, unpacker)
    return PlainTar(file)


def _unpacked(file: BinaryIO, new: Callable[[], Unpacker]) -> Iterator[bytes]:
    """Yield what a file unpacks to, in pieces; it may be several streams, one after the other."""
    data = file.read(_PIECE_BYTES)
    while data:
        unpacker = new()
        while not unpacker.eof:
            try:
                piece = unpacker.decompress(data, _PIECE_BYTES)
            except lzma.LZMAError as error:
                if "limit" not in str(error):
                    raise
                limit = bounds.XZ_MEMORY_BYTES >> 20
                raise OverBound(f"xz needs more than {limit} MB to unpack it") from error
            data = b""
            if piece:
                yield piece
            if not unpacker.eof and unpacker.needs_input:
                data = file.read(_PIECE_BYTES)
                if not data:
                    raise EOFError("the compressed data ends too early")
        data = (unpacker.unused_data or file.read(_PIECE_BYTES)).lstrip(b"\0")
        if not any(data.startswith(start) for start, _ in _UNPACKERS):
            return  # padding, as of tapes
