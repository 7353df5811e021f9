"""A decoded image reduced to S × S; in: L, RGB, RGBA or CMYK, out: an upright RGB image.

Alpha and orientation are applied to the small image, which bounds memory.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from embedsearch.core.records import Box, Reason
from embedsearch.images.decode.opening import DecodeError

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
) -> Image.Image:
    """Return the image at side × side, or within it in its own proportions. Alpha is weighed in."""
    if box is not None:
        image = image.crop(box)
    width, height = side, side
    if fit:
        scale = min(side / image.width, side / image.height)
        width = max(1, round(image.width * scale))
        height = max(1, round(image.height * scale))
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


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
