"""Vectors saved with numpy.save; in: a file, out: its rows, read in blocks from the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import StorageError, UsageError


@dataclass(frozen=True)
class VectorFile:
    """A file of float (rows, D). Blocks are read, not mapped.

    The system would end a process that touches a mapped page of a file that was cut meanwhile.
    """

    path: Path
    rows: int
    dim: int
    dtype: np.dtype[Any]
    start: int  # of the first row, in bytes
    held: npt.NDArray[Any] | None = None  # all rows of a file that holds column after column

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> npt.NDArray[np.floating[Any]]:
        """Return a block of rows. Raises StorageError."""
        if self.held is not None:
            return self.held[rows]
        first, stop, _ = rows.indices(self.rows)
        at = self.start + first * self.dim * self.dtype.itemsize
        count = (stop - first) * self.dim
        try:
            block = np.fromfile(self.path, self.dtype, count, offset=at)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if len(block) < count:
            raise StorageError(f"{self.path} was cut while it was read")
        return block.reshape(-1, self.dim)


def open_vectors(path: Path) -> VectorFile:
    """Return the vectors in a file; no code in it is run. Raises UsageError."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(array, np.memmap):
        raise UsageError(f"{path} holds several arrays: save one with numpy.save")
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise UsageError(f"{path} is {array.dtype} {array.shape}, not float (rows, D)")
    held = None if array.flags.c_contiguous else np.load(path, allow_pickle=False)
    return VectorFile(path, len(array), array.shape[1], array.dtype, array.offset, held)
