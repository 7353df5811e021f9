"""An image in an archive; in: an open file and a ByteRange of it, out: the image's bytes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator

from embedsearch.core.records import ByteRange, Reason

_PIECE_BYTES = 1 << 20


class BrokenPart(Exception):
    """The archive does not hold what its directory says."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_part(descriptor: int, part: ByteRange) -> bytes:
    """Return the bytes of a part, unpacked: never more than `part.size`.

    Raises BrokenPart, and OSError for a file that cannot be read.
    """
    return b"".join(part_pieces(descriptor, part))


def part_pieces(descriptor: int, part: ByteRange) -> Iterator[bytes]:
    """Yield the bytes of a part, unpacked, in pieces: never more than `part.size`.

    Raises BrokenPart, at the end too, and OSError for a file that cannot be read.
    """
    crc, size = 0, 0
    packed = _packed(descriptor, part)
    for piece in _unpacked(packed) if part.is_deflated else packed:
        crc = zlib.crc32(piece, crc)
        size += len(piece)
        if size > part.size:  # a decompression bomb ends here
            break
        yield piece
    if size != part.size:
        raise BrokenPart(Reason.CORRUPT, f"it is not of the {part.size} bytes that it should be")
    if part.crc is not None and crc != part.crc:
        raise BrokenPart(Reason.CORRUPT, "its checksum is another one")


def _packed(descriptor: int, part: ByteRange) -> Iterator[bytes]:
    done = 0
    while done < part.length:
        try:
            some = os.pread(descriptor, min(_PIECE_BYTES, part.length - done), part.start + done)
        except (OverflowError, MemoryError) as error:
            message = "the archive states a place that it does not have"
            raise BrokenPart(Reason.CORRUPT, message) from error
        if not some:
            raise BrokenPart(Reason.TRUNCATED, "the archive ends in the middle of it")
        yield some
        done += len(some)


def _unpacked(packed: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    for some in packed:
        rest, is_full = some, True
        while rest or is_full:  # a full piece may be followed by more of what was taken in
            try:
                piece = unpacker.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise BrokenPart(Reason.CORRUPT, f"it cannot be unpacked ({error})") from error
            rest, is_full = unpacker.unconsumed_tail, len(piece) == _PIECE_BYTES
            if piece:
                yield piece
