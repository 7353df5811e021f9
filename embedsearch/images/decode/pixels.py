"""A decoded image as upright RGB; in: a Pillow image in any mode, out: one of S × S pixels.

Alpha and orientation are applied to the small image, which bounds memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from embedsearch.core.records import Box, Reason
from embedsearch.images.decode.opening import DecodeError

_BAND_ROWS = 256
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


def simple_mode(image: Image.Image) -> Image.Image:
    """Return the image as L, RGB or RGBA; deep and float samples are scaled, not clipped."""
    mode = image.mode
    if mode in {"RGB", "L", "RGBA"}:
        has_color_key = mode != "RGBA" and "transparency" in image.info
        return image.convert("RGBA") if has_color_key else image
    if mode.startswith("I;16"):
        return _by_bands(image, lambda band: (np.asarray(band) >> 8).astype(np.uint8))
    if mode in {"I", "F"}:
        return _stretch(image)
    if mode in {"P", "PA", "LA", "La", "RGBa"}:
        has_alpha = mode != "P" or "transparency" in image.info
        return image.convert("RGBA" if has_alpha else "RGB")
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:
            raise DecodeError(Reason.UNSUPPORTED_MODE, "LAB picture")
        return converted
    return image.convert("L" if mode == "1" else "RGB")


def _by_bands(
    image: Image.Image, convert: Callable[[Image.Image], npt.NDArray[np.uint8]]
) -> Image.Image:
    """Return an L image, converted a band of rows at a time so that no wide copy is made."""
    gray = Image.new("L", image.size)
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        gray.paste(Image.fromarray(convert(band)), (0, top))
    return gray


def _stretch(image: Image.Image) -> Image.Image:
    """Return 32-bit samples as L: finite minimum to maximum become 0 to 255, NaN becomes 0.

    16-bit pictures that a decoder gave as 32-bit integers keep their fixed scale.
    """
    low, high = np.inf, -np.inf
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        samples = np.asarray(band, dtype=np.float64)
        finite = samples[np.isfinite(samples)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    if image.mode == "I" and low >= 0 and high <= 0xFFFF:
        low, high = 0.0, float(0xFFFF)
    if not high > low:  # constant, or nothing finite
        return Image.new("L", image.size, 0 if not np.isfinite(high) else 128)

    def scale(band: Image.Image) -> npt.NDArray[np.uint8]:
        samples = np.nan_to_num(np.asarray(band, dtype=np.float64), nan=low, posinf=high)
        return (np.clip((samples - low) / (high - low), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    return _by_bands(image, scale)


def resize_to_square(
    image: Image.Image, side: int, *, fit: bool, box: tuple[int, int, int, int] | None
) -> Image.Image:
    """Return RGB, side × side. Alpha is weighed in while reducing, then shown over white."""
    if box is not None:
        image = image.crop(box)
    width, height = side, side
    if fit:
        scale = min(side / image.width, side / image.height)
        width = max(1, round(image.width * scale))
        height = max(1, round(image.height * scale))
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small)
    small = small.convert("RGB")
    if not fit:
        return small
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(small, ((side - width) // 2, (side - height) // 2))
    return canvas


def turn_upright(small: Image.Image, orientation: int) -> Image.Image:
    return small.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else small
