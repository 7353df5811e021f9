"""An image in an archive; in: an open file and a ByteRange of it, out: the image's bytes."""

from __future__ import annotations

import os
import zlib

from embedsearch.core.records import ByteRange, Reason


class BrokenPart(Exception):
    """The archive does not hold what its directory says."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_part(descriptor: int, part: ByteRange) -> bytes:
    """Return the bytes of a part, unpacked: never more than `part.size`.

    Raises BrokenPart, and OSError for a file that cannot be read.
    """
    data = b""
    while len(data) < part.length:
        try:
            some = os.pread(descriptor, part.length - len(data), part.start + len(data))
        except (OverflowError, MemoryError) as error:
            message = "the archive states a place that it does not have"
            raise BrokenPart(Reason.CORRUPT, message) from error
        if not some:
            raise BrokenPart(Reason.TRUNCATED, "the archive ends in the middle of it")
        data = data + some if data else some
    if part.is_deflated:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data, part.size + 1)  # a decompression bomb ends here
        except (zlib.error, ValueError, OverflowError) as error:  # or a size that none has
            raise BrokenPart(Reason.CORRUPT, f"it cannot be unpacked ({error})") from error
    if len(data) != part.size:
        raise BrokenPart(Reason.CORRUPT, f"it is not of the {part.size} bytes that it should be")
    if part.crc is not None and zlib.crc32(data) != part.crc:
        raise BrokenPart(Reason.CORRUPT, "its checksum is another one")
    return data
