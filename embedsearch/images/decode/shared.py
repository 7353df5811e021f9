"""One pool of decoding processes for all threads; in: files, out: pixels and facts, or an error.

Requests of several threads are decoded together, by one worker a processor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UnreadableImage
from embedsearch.core.microbatch import MicroBatcher
from embedsearch.core.model_spec import SQUASHED, Framing
from embedsearch.core.paths import printable
from embedsearch.core.records import Box, Failure, ImageFacts, ImageLocation, ImageRef, Reason
from embedsearch.core.system import available_processors
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob

_ANY = -1  # size and time of a file that may have changed


@dataclass(frozen=True)
class ImageFile:
    """Where an image is, its name in messages, and the wanted part of it."""

    place: ImageLocation
    name: str
    crop: Box | None = None

    @classmethod
    def at(cls, path: str, name: str, crop: Box | None = None) -> ImageFile:
        """Return a file by its real path; its folder need not be listable."""
        return cls(ImageLocation(*os.path.split(path)), name, crop)


@dataclass(frozen=True)
class Decoded:
    """Pixels uint8 (S, S, 3), RGB upright, and what the file says."""

    pixels: npt.NDArray[np.uint8]
    facts: ImageFacts


_Outcome: TypeAlias = "Decoded | UnreadableImage"


class SharedDecoder:
    """Decodes for any number of threads. Workers start at the first call."""

    def __init__(
        self,
        side: int,
        limits: DecodeLimits,
        *,
        max_files: int,
        framing: Framing = SQUASHED,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Decode up to `max_files` files at a time; `meanwhile` runs while the workers decode.

        `framing` says what of a picture the pixels show.
        """
        self._side = side
        self._limits = limits
        self._max_files = max_files
        self._framing = framing
        self._meanwhile = meanwhile
        self._decode_together = MicroBatcher(self._decode, max_files)
        self._using = threading.Lock()
        self._pool: DecodePool | None = None

    def __call__(self, files: Sequence[ImageFile]) -> list[_Outcome]:
        """Return the outcome for each file, in order."""
        return self._decode_together(files) if files else []

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        with self._using:
            self._end_workers()

    def _end_workers(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _decode(self, files: list[ImageFile]) -> list[_Outcome]:
        jobs = (
            DecodeJob(ImageRef(number, file.place.key, _ANY, _ANY), file.place, file.crop)
            for number, file in enumerate(files)
        )
        found: dict[int, _Outcome] = {}
        with self._using:
            pool = self._pool_for(len(files))
            try:
                batches = pool.run(jobs)
                self._meanwhile()
                for batch in batches:
                    images = batch.images
                    rows = zip(images.refs, images.facts, images.pixels, strict=True)
                    found |= {
                        ref.root: Decoded(pixels.copy(), facts) for ref, facts, pixels in rows
                    }
                    found |= {f.root: _unreadable(f, files[f.root].name) for f in batch.failures}
            except BaseException:  # late answers of an abandoned stream must not reach the next one
                self._end_workers()
                raise
        return [found[index] for index in range(len(files))]

    def _pool_for(self, files: int) -> DecodePool:
        workers = min(files, available_processors())
        if self._pool is None:
            self._pool = DecodePool(
                self._side,
                self._limits,
                workers=workers,
                batch=self._max_files,
                framing=self._framing,
            )
        self._pool.grow_to(workers)
        return self._pool


def _unreadable(failure: Failure, name: str) -> UnreadableImage:
    if failure.reason is Reason.VANISHED:
        return UnreadableImage(f"{printable(name)}: there is no such file", failure.reason)
    message = f"{printable(name)} cannot be read: {failure.reason} ({failure.detail})"
    return UnreadableImage(message, failure.reason)
