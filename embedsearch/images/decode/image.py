"""One open file to upright RGB pixels; in: a seekable binary file, out: uint8 (S, S, 3) and facts.

Runs in a worker process (`worker.py`). JPEGs are read at the DCT scale that S needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import BILINEAR, SQUASHED, Framing
from embedsearch.core.records import Appearance, Box, Reason
from embedsearch.images.decode.facts import appearance_of, read_exif
from embedsearch.images.decode.formats.jpeg import plain_samples
from embedsearch.images.decode.formats.raw import RAW, is_raw, open_raw
from embedsearch.images.decode.formats.tiff import in_native_order, is_misread, read_tiff
from embedsearch.images.decode.opening import (
    DecodeError as DecodeError,
    check_pixels,
    is_disk_error,
    load_pixels,
    message_of,
    open_image,
)
from embedsearch.images.decode.pixels import (
    middle,
    reduced,
    stored_box,
    turn_upright,
)
from embedsearch.images.decode.samples import extrema, simple_mode
from embedsearch.images.decode.scaling import Samples, luma
from embedsearch.images.decode.stated import Stated, stated_by

_FORMAT_NAMES = {"HEIF": "HEIC"}  # as the files are called; Pillow knows the family
_ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
_MAX_FRAMES = 64  # that are looked at, and no more than max_pixels in all of them
_BLANK = 8  # levels of 255 between darkest and brightest of a frame that shows nothing
_JPEGS = {"JPEG", "MPO"}
_SHOWN = 32.0  # standard deviation of the luma of a frame that is taken without looking on


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: pixels uint8 (S, S, 3) upright, sizes of the upright original."""

    pixels: npt.NDArray[np.uint8]
    look: Appearance
    width: int
    height: int
    format: str
    taken_at: datetime | None
    camera: str | None
    gps: tuple[float, float] | None
    truncated: bool
    has_more: bool  # pages or frames behind the first


@dataclass(frozen=True)
class _Opened:
    """A first image: its size in the file, and what a file of its kind states.

    Its pixels are decoded, to `samples` where they are not None.
    """

    image: Image.Image
    size: tuple[int, int]
    stated: Stated
    truncated: bool
    samples: Samples | None = None


def decode(
    file: BinaryIO,
    side: int,
    limits: DecodeLimits,
    framing: Framing = SQUASHED,
    crop: Box | None = None,
) -> DecodedImage:
    """Decode the first image of `file` that shows something to side × side pixels, in sRGB.

    `framing` says what the square shows of the whole image, or of the part of it in `crop`. The
    appearance is that of the whole. Raises DecodeError, whatever the decoder raised.
    """
    opened = _opened(file, side, framing, limits, crop)
    image, (width, height) = opened.image, opened.size
    exif = read_exif(image)

    def again(rawmode: str) -> Image.Image:
        return _in_layout(file, rawmode, limits)

    def finished(frame: Image.Image | Samples, stated: Stated) -> Samples:
        box = None if crop is None else _drafted_box(crop, opened, exif.orientation)
        return turn_upright(reduced(frame, side, framing, stated, box), exif.orientation)

    try:
        first = opened.samples
        upright = finished(
            simple_mode(image, opened.stated, again) if first is None else first, opened.stated
        )
        if image.format in _ANIMATED and _is_blank(upright):
            plain = replace(opened.stated, area=None)
            limit = min(_MAX_FRAMES, limits.max_pixels // (width * height))
            upright = _telling(
                upright,
                (finished(simple_mode(frame, plain), plain) for frame in _frames(image, limit)),
            )
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(Reason.UNSUPPORTED_MODE, message_of(error)) from error
    if exif.orientation >= 5:
        width, height = height, width
    return DecodedImage(
        pixels=middle(upright, side),
        look=appearance_of(upright),
        width=width,
        height=height,
        format=_FORMAT_NAMES.get(image.format or "", image.format or ""),
        taken_at=exif.taken_at,
        camera=exif.camera,
        gps=exif.gps,
        truncated=opened.truncated,
        has_more=_has_more(image),
    )


def square(
    image: Image.Image, side: int, framing: Framing, crop: Box | None = None
) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as uint8 (side, side, 3), upright, like `decode`."""
    orientation, stated = read_exif(image).orientation, stated_by(image)
    box = None if crop is None else stored_box(crop, image.size, orientation)
    simple = simple_mode(image, stated)
    upright = turn_upright(reduced(simple, side, framing, stated, box), orientation)
    return middle(upright, side)


def _opened(
    file: BinaryIO, side: int, framing: Framing, limits: DecodeLimits, crop: Box | None
) -> _Opened:
    """Return the first image of a file; a JPEG no larger than the framing of a side needs.

    Raises DecodeError.
    """
    least = math.ceil(framing.draft * side / framing.shown)
    if is_raw(file):
        return _of_raw(file, side, least, limits, crop)
    try:
        image = open_image(file)
        size = image.size
        _reduce_scale(image, size, least, crop)
        check_pixels(image, size, limits)
        if is_misread(image):
            raise DecodeError(Reason.UNSUPPORTED_FORMAT, "TIFF")
        in_native_order(image)
        stated = stated_by(image, file)
        is_plain = image.size == size and framing.interpolation == BILINEAR
        samples = plain_samples(image, file) if is_plain else None
        truncated = samples is None and load_pixels(image, limits)
        return _Opened(image, size, stated, truncated, samples)
    except DecodeError as error:
        image = read_tiff(file, limits, error)
    return _Opened(image, image.size, stated_by(image), truncated=False)


def _of_raw(
    file: BinaryIO, side: int, least: int, limits: DecodeLimits, crop: Box | None
) -> _Opened:
    """Return the picture of a RAW file. Raises DecodeError."""
    image, size = open_raw(file, side, limits)
    _reduce_scale(image, size, least, crop)
    check_pixels(image, size, limits)
    stated = stated_by(image)
    truncated = load_pixels(image, limits)
    image.format = RAW
    return _Opened(image, size, stated, truncated)


def _reduce_scale(image: Image.Image, size: tuple[int, int], least: int, crop: Box | None) -> None:
    """Let a JPEG be decoded at the scale that leaves `least` pixels a side of what is shown.

    MILD_CROP asks for no more: what it leaves of the long side is no less than the short one.
    """
    width = height = least
    if image.format in _JPEGS and crop is not None:
        left, top, right, bottom = stored_box(crop, size, read_exif(image).orientation)
        width = width * size[0] // (right - left)
        height = height * size[1] // (bottom - top)
    image.draft("RGB", (width, height))


def _drafted_box(crop: Box, opened: _Opened, orientation: int) -> tuple[int, int, int, int]:
    """Return the box of `crop` in the image at the scale at which it was decoded."""
    across = opened.image.width / opened.size[0]
    down = opened.image.height / opened.size[1]
    left, top, right, bottom = stored_box(crop, opened.size, orientation)
    left, top = int(left * across), int(top * down)
    return left, top, max(left + 1, round(right * across)), max(top + 1, round(bottom * down))


def _in_layout(file: BinaryIO, rawmode: str, limits: DecodeLimits) -> Image.Image:
    """Return the image of a file, its samples read as if they were of another layout."""
    file.seek(0)
    image = open_image(file)
    tiles = image.tile  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))
        for tile in tiles
    ]
    load_pixels(image, limits)
    return image


def _has_more(image: Image.Image) -> bool:
    """Return whether a file holds other pictures than its first; those of a camera's JPEG do not.

    These are smaller ones, or maps that belong to it.
    """
    if image.format in _JPEGS:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what is behind the first one is broken
        return False


def _frames(image: Image.Image, limit: int) -> Iterator[Image.Image]:
    """Yield the later frames of an animation, `limit` at most, up to the first broken one."""
    for number in range(1, limit):
        try:
            image.seek(number)
            image.load()
        except Exception as error:  # EOFError after the last; a broken one costs those behind it
            if is_disk_error(error):
                raise DecodeError(Reason.IO_ERROR, message_of(error)) from error
            return
        yield image


def _telling(first: Samples, later: Iterator[Samples]) -> Samples:
    """Return the frame that shows something: the first clear one, or else the clearest.

    Animations fade in from black, and the frames of a fade are as much alike as the blank ones.
    """
    best, most = first, 0.0
    for frame in later:
        if not _is_blank(frame):
            contrast = float(np.asarray(luma(frame), dtype=np.float64).std())
            if contrast > most:
                best, most = frame, contrast
            if most >= _SHOWN:
                break
    return best


def _is_blank(upright: Samples) -> bool:
    return all(high - low <= _BLANK for low, high in extrema(Image.fromarray(upright)))
