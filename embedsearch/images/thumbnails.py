"""Thumbnails; in: image files, out: JPEGs, pixels, or tiles for a contact sheet.

Files are decoded in worker processes: they may have changed since they were indexed.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UnreadableImage, UsageError
from embedsearch.core.model_spec import BILINEAR, FIT, Framing
from embedsearch.core.paths import local_path
from embedsearch.core.records import ImageFacts, ImageLocation
from embedsearch.core.system import cache_folder
from embedsearch.images.decode.shared import Decoded, ImageFile, SharedDecoder
from embedsearch.images.originals import Originals
from embedsearch.images.temporary import TemporaryImages
from embedsearch.images.thumbnail_cache import ThumbnailCache

# Side: how many files its workers decode at a time. An image is decoded at the smallest side that
# is large enough, then reduced.
_SIDES = {256: 32, 512: 12, 1024: 4}
_WARM = (512, 1024)  # what a page shows: its grid, and a picture alone
MAX_SIDE = max(_SIDES)
_AT_ONCE = 32
_QUALITY = 85  # of a JPEG
_FRAMING = Framing(FIT, BILINEAR, 1)

_Pixels: TypeAlias = "npt.NDArray[np.uint8]"


class Thumbnailer:
    """Makes thumbnails for any number of threads."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._making = threading.Lock()
        self._decoders: dict[int, SharedDecoder] = {}
        self._cache = ThumbnailCache(cache_folder() / "thumbnails")
        self._originals = Originals(limits.max_bytes)

    def warm_up(self) -> None:
        """Start workers, so that the first thumbnails need not wait for them."""
        nothing = ImageFile(ImageLocation("/", ""), "nothing")
        with ThreadPoolExecutor(len(_WARM)) as threads:  # together they take as long as one
            list(threads.map(lambda side: self._decoder(side)([nothing]), _WARM))

    def close(self) -> None:
        """End the workers."""
        with self._making:
            for decoder in self._decoders.values():
                decoder.close()
            self._decoders.clear()
        self._originals.close()

    def jpeg(self, root: str, key: str, side: int, digest: bytes | None = None) -> bytes:
        """Return the image `key` below the folder `root`, upright, its longer side `side` pixels.

        A smaller image is not enlarged. A cached thumbnail is used while the file is unchanged.
        A link below `root` is followed only to the bytes of this digest. Raises UnreadableImage,
        and UsageError for a side that is not between 1 and MAX_SIDE.
        """
        _check(side)
        name = self._cache.key(root, key, side, digest)
        known = None if name is None else self._cache.get(name)
        if known is not None:
            return known
        place = self._originals.inside(root, key, digest)
        (outcome,) = self._decoder(side)([ImageFile(place, key)])
        if isinstance(outcome, UnreadableImage):
            raise outcome
        made = _jpeg(outcome, side)
        # Kept only if the file did not change meanwhile.
        if name is not None and name == self._cache.key(root, key, side, digest):
            self._cache.put(name, made)
        return made

    def version(self, root: str, key: str, side: int, digest: bytes | None = None) -> str | None:
        """Return a name for that JPEG while the file is unchanged, None where no file is here."""
        _check(side)
        return self._cache.key(root, key, side, digest)

    def _decoder(self, side: int) -> SharedDecoder:
        fits = min(known for known in _SIDES if known >= side)
        with self._making:
            if fits not in self._decoders:
                made = SharedDecoder(fits, self._limits, max_files=_SIDES[fits], framing=_FRAMING)
                self._decoders[fits] = made
            return self._decoders[fits]


def filling(fill: int, width: int, height: int) -> int:
    """Return the side of a thumbnail whose shorter side is `fill` pixels, as far as MAX_SIDE goes.

    It is right within a pixel. `width` and `height` are those of the picture. Raises UsageError.
    """
    _check(fill)
    longer, shorter = max(width, height, 1), max(1, min(width, height))
    return min(MAX_SIDE, math.ceil(fill * longer / shorter))


def _check(side: int) -> None:
    if not 1 <= side <= MAX_SIDE:
        raise UsageError(f"a thumbnail's side is between 1 and {MAX_SIDE} pixels, not {side}")


class ThumbnailReader:
    """Upright thumbnails of any files, for one thread. Workers start with the first.

    An image is a path or the bytes of a file; None stands for one that cannot be read. Images are
    decoded in order, a few at a time: memory does not grow with their number.
    """

    def __init__(self, side: int) -> None:
        """Decode to `side` pixels, the longer side of a picture."""
        self._side = side
        limits = DecodeLimits()
        self._decoder = SharedDecoder(side, limits, max_files=_AT_ONCE, framing=_FRAMING)
        self._handed = TemporaryImages()
        self._originals = Originals(limits.max_bytes)

    def __enter__(self) -> ThumbnailReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()
        self._handed.close()
        self._originals.close()

    def tiles(self, images: Iterable[str | bytes]) -> Iterator[_Pixels | None]:
        """Yield uint8 (S, S, 3) of each image, whole and centered on white."""
        for outcome in self._decoded(images):
            yield None if outcome is None else outcome.pixels

    def pixels(self, images: Iterable[str | bytes]) -> Iterator[_Pixels | None]:
        """Yield uint8 (H, W, 3) of each image, in its own proportions."""
        for outcome in self._decoded(images):
            yield None if outcome is None else _without_margin(outcome.pixels, outcome.facts)

    def jpegs(self, images: Iterable[str | bytes]) -> Iterator[bytes | None]:
        """Yield each image as a JPEG in its own proportions. A smaller one is not enlarged."""
        for outcome in self._decoded(images):
            yield None if outcome is None else _jpeg(outcome, self._side)

    def _decoded(self, images: Iterable[str | bytes]) -> Iterator[Decoded | None]:
        rest = iter(images)
        while some := list(islice(rest, _AT_ONCE)):
            places = [self._place(image) for image in some]
            files = [ImageFile(place, "") for place in places if place is not None]
            outcomes = iter(self._decoder(files))
            for place in places:
                outcome = None if place is None else next(outcomes)
                yield None if isinstance(outcome, UnreadableImage) else outcome

    def _place(self, image: str | bytes) -> ImageLocation | None:
        if isinstance(image, bytes):
            return self._handed.keep(image)
        with contextlib.suppress(UnreadableImage):
            return self._originals.at(local_path(image))
        return None


def _jpeg(decoded: Decoded, side: int) -> bytes:
    """Return the image without its margin, its longer side at most `side` pixels."""
    from PIL import Image  # a search without thumbnails loads no Pillow

    image = Image.fromarray(_without_margin(decoded.pixels, decoded.facts))
    side = min(side, max(decoded.facts.width, decoded.facts.height))
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def _without_margin(pixels: _Pixels, facts: ImageFacts) -> _Pixels:
    """Return the image within uint8 (S, S, 3), without the white margin."""
    side, longer = len(pixels), max(facts.width, facts.height)
    # Half a pixel less: the decoder rounds, and knows the sizes of a reduced picture only.
    height, width = (
        side if size == longer else max(1, math.floor(side * size / longer - 0.5))
        for size in (facts.height, facts.width)
    )
    top, left = (side - height) // 2, (side - width) // 2
    return pixels[top : top + height, left : left + width]
