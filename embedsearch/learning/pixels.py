"""Pictures decoded once for many epochs; in: refs, out: uint8 pixels in a file.

Memory does not grow with the pictures: the array is a mapped file, which the system's page cache
holds as far as there is room.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsearch.config import DecodeLimits, available_processors
from embedsearch.decode.pool import DecodePool
from embedsearch.decode.process import DecodeJob
from embedsearch.errors import StorageError
from embedsearch.records import Failure, ImageRef
from embedsearch.session import Session


def decode_all(
    folder: str, refs: Sequence[ImageRef], side: int, file: Path, session: Session
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[Failure]]:
    """Decode into `file`; return pixels uint8 (n, S, S, 3), the places in refs, and failures.

    Raises StorageError where the disk is full, and Interrupted.
    """
    try:
        shape = (len(refs), side, side, 3)
        with file.open("wb") as made:
            made.truncate(math.prod(shape))
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, a crash when mapped
                os.posix_fallocate(made.fileno(), 0, math.prod(shape))
        pixels = np.memmap(file, mode="r+", dtype=np.uint8, shape=shape)
        file.unlink()  # the mapping keeps it; however the run ends, nothing stays behind
        places = np.empty(len(refs), dtype=np.int64)
        failures: list[Failure] = []
        numbers = {ref.key: number for number, ref in enumerate(refs)}
        count = 0
        workers = min(available_processors(), len(refs))
        with DecodePool(side, DecodeLimits(), workers=workers) as pool:
            for batch in pool.run((DecodeJob(ref, folder) for ref in refs), session.stop):
                good = batch.images
                pixels[count : count + len(good.refs)] = good.pixels
                places[count : count + len(good.refs)] = [numbers[ref.key] for ref in good.refs]
                count += len(good.refs)
                failures += batch.failures
        session.check()
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror or error}") from error
    return pixels[:count], places[:count], failures
