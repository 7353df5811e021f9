"""One open file to upright RGB pixels; in: a seekable binary file, out: uint8 (S, S, 3) and facts.

Runs in a worker process (`worker.py`). JPEGs are read at the DCT scale that S needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.records import Appearance, Box, Reason
from embedsearch.images.decode.facts import appearance_of, read_exif
from embedsearch.images.decode.opening import (
    DecodeError as DecodeError,
    load_pixels,
    message_of,
    open_image,
)
from embedsearch.images.decode.pixels import resize_to_square, simple_mode, stored_box, turn_upright

DRAFT_SCALE = 2


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


def decode(
    file: BinaryIO, side: int, limits: DecodeLimits, *, fit: bool = False, crop: Box | None = None
) -> DecodedImage:
    """Decode the first image of `file` to side × side pixels.

    The whole image, or the part of it in `crop`, is squashed to the square; with `fit` it keeps its
    proportions, centered on white. Raises DecodeError, whatever the decoder raised.
    """
    image = open_image(file, limits)
    width, height = image.size
    if crop is None:
        image.draft("RGB", (DRAFT_SCALE * side, DRAFT_SCALE * side))
    truncated = load_pixels(image, limits)
    exif = read_exif(image)
    try:
        box = None if crop is None else stored_box(crop, image.size, exif.orientation)
        small = resize_to_square(simple_mode(image), side, fit=fit, box=box)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(Reason.UNSUPPORTED_MODE, message_of(error)) from error
    if exif.orientation >= 5:
        width, height = height, width
    upright = turn_upright(small, exif.orientation)
    return DecodedImage(
        pixels=np.asarray(upright, dtype=np.uint8),
        look=appearance_of(upright),
        width=width,
        height=height,
        format=image.format or "",
        taken_at=exif.taken_at,
        camera=exif.camera,
        gps=exif.gps,
        truncated=truncated,
    )


def square(image: Image.Image, side: int, crop: Box | None = None) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as uint8 (side, side, 3), upright, like `decode`."""
    orientation = read_exif(image).orientation
    box = None if crop is None else stored_box(crop, image.size, orientation)
    small = resize_to_square(simple_mode(image), side, fit=False, box=box)
    return np.asarray(turn_upright(small, orientation), dtype=np.uint8)
