"""A decoded image reduced to S × S, or to S × more; in: L, RGB, RGBA or CMYK, out: upright RGB.

Alpha and orientation are applied to the small image, which bounds memory.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from embedsearch.core.model_spec import MILD_CROP, SQUASH
from embedsearch.core.records import Box, Reason
from embedsearch.images.decode.opening import DecodeError

CROPPED = 0.5  # of a picture's distortion, in logarithms, is cropped away by MILD_CROP
MOST_STRETCH = 8.0  # long side over short of a picture scaled for it: bounds the memory
_LIGHT = 216  # mean luma of what is seen; on white it would hardly be
_DARK_GROUND = (64, 64, 64, 255)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def stored_box(crop: Box, size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in the stored picture of a box in the upright one.

    What lies outside the picture is cut off. Raises DecodeError where nothing is left.
    """
    width, height = size if orientation < 5 else size[::-1]
    left, top = max(crop.x, 0), max(crop.y, 0)
    right, bottom = min(crop.x + crop.width, width), min(crop.y + crop.height, height)
    if left >= right or top >= bottom:
        message = f"{crop} holds nothing of a picture of {width} x {height} pixels"
        raise DecodeError(Reason.ZERO_SIZE, message)
    if orientation in {2, 3, 7, 6}:  # mirrored sideways once it stands
        left, right = width - right, width - left
    if orientation in {3, 4, 7, 8}:
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)


def reduce(
    image: Image.Image,
    side: int,
    *,
    fit: bool,
    box: tuple[float, float, float, float] | None,
    resize: str = SQUASH,
) -> Image.Image:
    """Return the image at the size of `scaled_size`, or with `fit` within side × side.

    Alpha is weighed in.
    """
    if box is not None:
        image = image.crop(box)
    size = scaled_size(image.size, side, resize)
    if fit:
        scale = min(side / image.width, side / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def scaled_size(size: tuple[int, int], side: int, resize: str) -> tuple[int, int]:
    """Return width and height to which a whole picture is scaled; the network sees its `middle`.

    Of a picture whose sides are as a to 1, MILD_CROP shows the middle a^(1 - CROPPED) to 1. One of
    more than MOST_STRETCH^(1 / CROPPED) to 1 is cropped less. Raises ValueError for another rule.
    """
    if resize == SQUASH:
        return side, side
    if resize != MILD_CROP:
        raise ValueError(f"unknown resize {resize!r}")
    stretch = min((max(size) / min(size)) ** CROPPED, MOST_STRETCH)
    margin = round(side * (stretch - 1.0) / 2.0)  # on both sides: a mirrored picture shows the same
    longer = side + 2 * margin
    return (longer, side) if size[0] > size[1] else (side, longer)


def middle(scaled: Image.Image, side: int) -> Image.Image:
    """Return the side × side pixels in the middle of an image, itself if it has no others."""
    if scaled.size == (side, side):
        return scaled
    left, top = (scaled.width - side) // 2, (scaled.height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def on_ground(small: Image.Image) -> Image.Image:
    """Return RGB: what is transparent is white, or dark where the drawing is light.

    White drawings on white would all be the same picture.
    """
    if small.mode != "RGBA":
        return small.convert("RGB")
    alpha = np.asarray(small.getchannel("A"), dtype=np.float64)
    luma = np.asarray(small.convert("RGB").convert("L"), dtype=np.float64)
    weight = alpha.sum()
    is_light = weight > 0 and (luma * alpha).sum() / weight >= _LIGHT
    ground = Image.new("RGBA", small.size, _DARK_GROUND if is_light else "white")
    return Image.alpha_composite(ground, small).convert("RGB")


def on_square(small: Image.Image, side: int) -> Image.Image:
    """Return the image centered on a white square, itself if it fills it."""
    if small.size == (side, side):
        return small
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return canvas


def turn_upright(small: Image.Image, orientation: int) -> Image.Image:
    return small.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else small
