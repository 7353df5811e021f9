"""Vectors saved with numpy.save; in: a file, out: an array that stays on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError


def open_vectors(path: Path) -> npt.NDArray[np.floating[Any]]:
    """Return float (rows, D), mapped into memory; no code in it is run. Raises UsageError."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise UsageError(f"{path} is {array.dtype} {array.shape}, not float (rows, D)")
    return array
