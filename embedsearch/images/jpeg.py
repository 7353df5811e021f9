"""Pixels as a JPEG; in: pixels, out: the bytes of a JPEG without metadata."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_QUALITY = 85


def jpeg(pixels: npt.NDArray[np.uint8], side: int) -> bytes:
    """Return uint8 (H, W, 3) as a JPEG whose longer side has at most `side` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
