"""Small pictures of images; in: files, out: JPEGs, or tiles for a contact sheet.

Files are decoded in worker processes, whatever became of them since they were indexed.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt

from embedsearch.config import DecodeLimits, cache_folder
from embedsearch.decode.handover import ByteFiles
from embedsearch.decode.shared import ImageFile, SharedDecoder
from embedsearch.errors import UnreadableImage, UsageError
from embedsearch.queries import path_of
from embedsearch.records import ImageFacts
from embedsearch.thumbnail_cache import ThumbnailCache

# A picture is decoded at the smallest of these that is not too small, then reduced: a set of
# workers each, which decodes so many at a time.
_SIDES = {256: 32, 1024: 4}
MAX_SIDE = max(_SIDES)
_TILES_AT_ONCE = 32


class Thumbnailer:
    """Makes thumbnails for any number of threads."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._making = threading.Lock()
        self._decoders: dict[int, SharedDecoder] = {}
        self._cache = ThumbnailCache(cache_folder() / "thumbnails")

    def warm_up(self) -> None:
        """Start a worker, so that the first thumbnail need not wait for one."""
        self._decoder(min(_SIDES))([ImageFile("/", "", "nothing")])

    def close(self) -> None:
        """End the workers."""
        with self._making:
            for decoder in self._decoders.values():
                decoder.close()
            self._decoders.clear()

    def jpeg(self, root: str, key: str, side: int) -> bytes:
        """Return the image `key` below the folder `root`, upright, its longer side `side` pixels.

        A smaller picture is not enlarged. One that was made before is kept while the file is the
        same. No link below `root` is followed. Raises UnreadableImage, and UsageError for a side
        that is not between 1 and MAX_SIDE.
        """
        from embedsearch.present.jpeg import jpeg  # a search without thumbnails does without Pillow

        if not 1 <= side <= MAX_SIDE:
            raise UsageError(f"a thumbnail's side is between 1 and {MAX_SIDE} pixels, not {side}")
        name = self._cache.key(root, key, side)
        known = None if name is None else self._cache.get(name)
        if known is not None:
            return known
        (outcome,) = self._decoder(side)([ImageFile(root, key, key)])
        if isinstance(outcome, UnreadableImage):
            raise outcome
        facts = outcome.facts
        made = jpeg(
            _without_margin(outcome.pixels, facts), min(side, max(facts.width, facts.height))
        )
        if name is not None and name == self._cache.key(root, key, side):  # the same file still
            self._cache.put(name, made)
        return made

    def _decoder(self, side: int) -> SharedDecoder:
        fits = min(known for known in _SIDES if known >= side)
        with self._making:
            if fits not in self._decoders:
                self._decoders[fits] = SharedDecoder(
                    fits, self._limits, most=_SIDES[fits], fit=True
                )
            return self._decoders[fits]


def tiles(
    images: Sequence[str | os.PathLike[str] | bytes], side: int
) -> Iterator[npt.NDArray[np.uint8] | None]:
    """Yield uint8 (side, side, 3) of each image, whole and centred on white, in order.

    None stands for one that cannot be read.
    """
    decoder = SharedDecoder(side, DecodeLimits(), most=_TILES_AT_ONCE, fit=True)
    with closing(ByteFiles()) as handed, closing(decoder):
        for start in range(0, len(images), _TILES_AT_ONCE):
            some = images[start : start + _TILES_AT_ONCE]
            with handed.of([image for image in some if isinstance(image, bytes)]) as given:
                paths = iter(given)
                files = [
                    next(paths) if isinstance(image, bytes) else os.path.realpath(path_of(image))
                    for image in some
                ]
                for outcome in decoder([ImageFile.at(path, "") for path in files]):
                    yield None if isinstance(outcome, UnreadableImage) else outcome.pixels


def _without_margin(pixels: npt.NDArray[np.uint8], facts: ImageFacts) -> npt.NDArray[np.uint8]:
    """Return what shows the picture, of uint8 (S, S, 3), and nothing of the white around it."""
    side, longer = len(pixels), max(facts.width, facts.height)
    # Half a pixel less: the decoder rounds, and knows the sizes of a reduced picture only.
    height, width = (
        side if size == longer else max(1, math.floor(side * size / longer - 0.5))
        for size in (facts.height, facts.width)
    )
    top, left = (side - height) // 2, (side - width) // 2
    return pixels[top : top + height, left : left + width]
