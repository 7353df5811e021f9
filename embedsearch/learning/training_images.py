"""Labeled images, decoded once for many epochs; in: Labels, out: pixels to train on and held out.

Memory does not grow with the images: the arrays are mapped files in the system's page cache.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import StorageError, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import printable
from embedsearch.core.records import Failure, ImageRef
from embedsearch.core.session import Session
from embedsearch.core.system import max_workers
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.images.sources.folder import FolderScan
from embedsearch.learning.labels import Labels, check_learnable

_NAMED = 5  # unreadable images that are named


@dataclass(frozen=True)
class LabeledImages:
    """Images with labels: n labels, pixels uint8 (n, S, S, 3), n sha256 of their files."""

    labels: Labels
    pixels: npt.NDArray[np.uint8]
    digests: Sequence[bytes]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)


@dataclass(frozen=True)
class TrainingImages:
    """Images to learn from, held-out images, and the number of unreadable ones."""

    train: LabeledImages
    held: LabeledImages
    failed: int


def decode_training_images(
    labels: Labels, spec: ModelSpec, holdout: float, seed: int, scratch: Path, session: Session
) -> TrainingImages:
    """Split the images and decode them as `index` does for a model; `scratch` is a file to map.

    Raises UsageError for too few, StorageError for a full disk, and Interrupted.
    """
    chosen = [labels.keep(indices) for indices in labels.split(holdout, seed)]
    session.notice(
        f"{len(chosen[0].refs)} pictures to learn from, {len(chosen[1].refs)} held out; decoding"
    )
    parts, failed = [], 0
    for part in chosen:
        decoded = _decode_all(part.folder, part.refs, spec, scratch, session)
        pixels, digests, indices, failures = decoded
        for failure in failures[:_NAMED]:
            session.notice(f"left out: {printable(failure.key)}: {failure.reason}")
        failed += len(failures)
        parts.append(LabeledImages(part.keep(indices), pixels, digests))
    train, held = parts
    check_learnable(train.labels.targets)
    if len(train) < 2 or not len(held):
        raise UsageError(
            f"{len(train)} pictures to learn from and {len(held)} held out are too few: a class "
            "needs two at least"
        )
    return TrainingImages(train, held, failed)


def _decode_all(
    folder: str, refs: Sequence[ImageRef], spec: ModelSpec, file: Path, session: Session
) -> tuple[npt.NDArray[np.uint8], list[bytes], npt.NDArray[np.int64], list[Failure]]:
    """Return pixels, mapped from `file`, sha256 and indices of their refs, and failures."""
    side = spec.input_side
    shape = (len(refs), side, side, 3)
    if not refs:
        return np.empty(shape, np.uint8), [], np.empty(0, np.int64), []
    try:
        with file.open("wb") as made:
            made.truncate(math.prod(shape))
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, a crash when mapped
                os.posix_fallocate(made.fileno(), 0, math.prod(shape))
        pixels = np.memmap(file, mode="r+", dtype=np.uint8, shape=shape)
        file.unlink()  # the mapping keeps it
    except OSError as error:
        raise StorageError(
            f"{file.parent} has no room for {math.prod(shape) / 1e9:.1f} GB of decoded "
            f"pictures ({error.strerror or error}): give out on another disk",
            "out",
        ) from error
    is_good = np.zeros(len(refs), dtype=np.bool_)
    digests: dict[int, bytes] = {}
    failures: list[Failure] = []
    numbers = {ref.key: number for number, ref in enumerate(refs)}
    workers = min(max_workers(), len(refs))
    with DecodePool(side, DecodeLimits(), workers=workers, framing=spec.framing) as pool:
        placed = FolderScan(0, folder).places(refs)
        for batch in pool.run((DecodeJob(*each) for each in placed), session.stop):
            mine = [numbers[ref.key] for ref in batch.images.refs]
            pixels[mine] = batch.images.pixels  # slow ones come late: each has its own index
            is_good[mine] = True
            digests |= zip(mine, (facts.digest for facts in batch.images.facts), strict=True)
            failures += batch.failures
    session.check()
    indices = np.flatnonzero(is_good)
    for row, index in enumerate(indices):  # close the gaps that failures left
        if row != index:
            pixels[row] = pixels[index]
    known = [digests[index] for index in indices.tolist()]
    return pixels[: len(indices)], known, indices, sorted(failures, key=lambda f: numbers[f.key])
