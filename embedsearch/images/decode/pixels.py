"""A decoded image reduced to S × S, or to S × more; in: L, RGB, RGBA or CMYK, out: upright RGB.

Colors, alpha and orientation are applied to the small image, which bounds memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from embedsearch.core.model_spec import BILINEAR, CROP, FIT, MILD_CROP, SQUASH, Framing
from embedsearch.core.records import Box, Reason
from embedsearch.images.decode.color import to_srgb
from embedsearch.images.decode.opening import DecodeError
from embedsearch.images.decode.scaling import Samples, scaled
from embedsearch.images.decode.stated import Stated

CROPPED = 0.5  # of a picture's distortion, in logarithms, is cropped away by MILD_CROP
MOST_STRETCH = 8.0  # long side over short of a picture scaled for it: bounds the memory
_LIGHT = 216  # mean luma of what is seen; on white it would hardly be
_DARK_GROUND = (64, 64, 64, 255)
_Turn = Callable[[Samples], Samples]
_TURNS: dict[int, _Turn] = {  # by EXIF's orientation; all are views
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
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


def reduced(
    picture: Image.Image | Samples,
    side: int,
    framing: Framing,
    stated: Stated,
    box: tuple[int, int, int, int] | None = None,
) -> Samples:
    """Return RGB, uint8 (H, W, 3), of the size that the framing wants, in sRGB, without alpha.

    The picture is of L, RGB, RGBA or CMYK, the samples are of L or RGB; `box` is the part to show.
    """
    if framing.resize == CROP:
        box = _shortened(box or (0, 0, *_size(picture)))
    if isinstance(picture, np.ndarray):
        if box is not None:
            picture = picture[box[1] : box[3], box[0] : box[2]]
        size = scaled_size(picture.shape[1::-1], side, framing)
        mode, small = "RGB" if picture.ndim == 3 else "L", scaled(picture, size)
    else:
        picture = picture if box is None else picture.crop(box)
        size = scaled_size(picture.size, side, framing)
        mode, small = picture.mode, _scaled_image(picture, size, framing)
    if mode != "RGB" or stated.has_colors:
        colored = on_ground(to_srgb(Image.fromarray(small, mode), stated))
        small = np.asarray(colored)
    return _on_square(small, side, framing.fill) if framing.resize == FIT else small


def _size(picture: Image.Image | Samples) -> tuple[int, int]:
    """Return width and height."""
    return picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]


def _shortened(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return the middle of a box, at most MOST_STRETCH times as long as wide."""
    left, top, right, bottom = box
    longest = int(MOST_STRETCH * min(right - left, bottom - top))
    across, down = max(0, right - left - longest) // 2, max(0, bottom - top - longest) // 2
    return left + across, top + down, right - across, bottom - down


def _scaled_image(image: Image.Image, size: tuple[int, int], framing: Framing) -> Samples:
    """Return the samples of an image at a size, alpha weighed in."""
    if framing.interpolation != BILINEAR:
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    if image.mode != "RGBA":
        return scaled(image, size)
    weighed = Image.fromarray(scaled(image.convert("RGBa"), size), "RGBa")
    return np.asarray(weighed.convert("RGBA"))


def scaled_size(size: tuple[int, int], side: int, framing: Framing) -> tuple[int, int]:
    """Return width and height to which a whole picture is scaled; the network sees its `middle`.

    FIT leaves its proportions, the longer side S; CROP too, the shorter side S / `shown`.

    Of a picture whose sides are as a to 1, MILD_CROP shows the middle a^(1 - CROPPED) to 1. One of
    more than MOST_STRETCH^(1 / CROPPED) to 1 is cropped less. Raises ValueError for another rule.
    """
    resize = framing.resize
    if resize == SQUASH:
        return side, side
    if resize == FIT:
        scale = side / max(size)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if resize == CROP:
        shorter = round(side / framing.shown)
        longer = int(shorter * max(size) / min(size))
        return (longer, shorter) if size[0] > size[1] else (shorter, longer)
    if resize != MILD_CROP:
        raise ValueError(f"unknown resize {resize!r}")
    stretch = min((max(size) / min(size)) ** CROPPED, MOST_STRETCH)
    margin = round(side * (stretch - 1.0) / 2.0)  # on both sides: a mirrored picture shows the same
    longer = side + 2 * margin
    return (longer, side) if size[0] > size[1] else (side, longer)


def middle(small: Samples, side: int) -> Samples:
    """Return the side × side pixels in the middle."""
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    return small[top : top + side, left : left + side]


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


def _on_square(small: Samples, side: int, fill: int) -> Samples:
    """Return the pixels centered on a square of a level of gray."""
    square = np.full((side, side, 3), fill, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def turn_upright(small: Samples, orientation: int) -> Samples:
    """Return the pixels turned by EXIF's orientation, 1 to 8."""
    return _TURNS[orientation](small) if orientation in _TURNS else small
