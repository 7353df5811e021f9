"""A list of image refs of any length in little memory; above 1 MiB it is kept in a file."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from embedsearch.core.errors import StorageError
from embedsearch.core.records import ImageRef
from embedsearch.core.system import temporary_folder

_REF = struct.Struct("<qqqI")  # root, size, time, and the bytes of the key that follow
_SPILL_BYTES = 1 << 20
_READ_BYTES = 1 << 20


class RefList:
    """Append all refs first, then iterate as often as needed."""

    def __init__(self) -> None:
        self._count = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPILL_BYTES)  # noqa: SIM115

    def __len__(self) -> int:
        return self._count

    def append(self, ref: ImageRef) -> None:
        """Add a ref at the end. Raises StorageError if the disk is full."""
        key = os.fsencode(ref.key)
        with _named_errors():
            self._file.write(_REF.pack(ref.root, ref.size, ref.mtime_ns, len(key)) + key)
        self._count += 1

    def __iter__(self) -> Iterator[ImageRef]:
        data, offset = b"", 0
        while True:
            with _named_errors():
                self._file.seek(offset)  # flushes what was appended
                more = self._file.read(_READ_BYTES)
            offset += len(more)
            data += more
            end = 0
            while (start := end + _REF.size) <= len(data):
                root, size, mtime_ns, length = _REF.unpack_from(data, end)
                if start + length > len(data):
                    break
                end = start + length
                yield ImageRef(root, os.fsdecode(data[start:end]), size, mtime_ns)
            data = data[end:]
            if not more:
                return


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{temporary_folder()}: {error.strerror or error}") from error
