"""The values that a dictionary page of Parquet holds; in: a file and the page's place, out: a size.

Rows name these values by number, so few bytes of a file may become many: what a row can take is
told by the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

_UNPACKED = 0  # the codec of pages as they are
_CODECS: dict[int, Any] = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_LENGTH_BYTES = 4  # before each value


@dataclass(frozen=True)
class DictionaryPage:
    """Where a page is, and what its header states."""

    at: int
    packed: int
    unpacked: int
    values: int
    codec: int
    is_fixed: bool  # whether all values have one length, which stands in the schema

    @property
    def most_bytes(self) -> int:
        """What one value can have if nothing else is known."""
        return max(self.packed, self.unpacked)

    def longest(self, file: BinaryIO) -> int:
        """Return how many bytes its longest value has; those of the page where none can tell."""
        if self.is_fixed:
            return self.most_bytes // max(1, self.values)
        try:
            return self._longest_in(self._content(file))
        except (pa.ArrowException, OSError, ValueError):
            return self.most_bytes  # the library says what is wrong when it reads the rows

    def _content(self, file: BinaryIO) -> bytes:
        file.seek(self.at)
        content = file.read(self.packed)
        if self.codec == _UNPACKED:
            return content
        if self.codec not in _CODECS:
            raise ValueError("a codec that is not known")
        codec = _CODECS[self.codec]
        return pa.decompress(content, self.unpacked, codec, asbytes=True)

    def _longest_in(self, content: bytes) -> int:
        if not 0 <= self.values <= len(content) // _LENGTH_BYTES:
            raise ValueError("more values than bytes for them")
        at = longest = 0
        for _ in range(self.values):
            start = at + _LENGTH_BYTES
            length = int.from_bytes(content[at:start], "little")
            at = start + length
            if length > longest:
                longest = length
        if at > len(content):
            raise ValueError("the values end behind their page")
        return longest
