"""A picture at another size; in: a Pillow image or its samples, out: samples, uint8 (H, W[, C]).

A picture more than twice as large is left to Pillow. Others are softened as much as they shrink,
else fine patterns turn into coarse ones, and interpolated. OpenCV does that in a fifth of the time
of Pillow or NumPy; without it the samples are the same, but for one level in 255.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

try:
    import cv2

    cv2.setNumThreads(1)  # a worker is one of many
except ImportError:  # it costs its speed only
    cv2 = None  # type: ignore[assignment]

Samples: TypeAlias = "npt.NDArray[np.uint8]"

# Sigma of the softening, in pixels, is this times √(scale² − 1). benchmarks/QUALITY.md has what
# others find, and how much a smaller copy of a picture stays its copy.
_SOFTENING = 0.6
_MANY = 2.0  # three pixels are too few for more
_LEAST_SCALE = 1.1  # softening for less would change no sample


def scaled(picture: Image.Image | Samples, size: tuple[int, int]) -> Samples:
    """Return the samples of a picture of L, RGB, RGBa or CMYK at a width and height."""
    width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
    scales = width / size[0], height / size[1]
    if max(scales) >= _MANY:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=_MANY))
    samples = np.asarray(picture)
    if max(scales) > _LEAST_SCALE:
        samples = _softened(samples, scales)
    return interpolated(samples, size)


def luma(samples: Samples) -> Samples:
    """Return the luma, uint8 (H, W), of RGB samples, by ITU-R BT.601."""
    if cv2 is not None:
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY), np.uint8)
    return np.asarray(Image.fromarray(samples).convert("L"))


def _softened(samples: Samples, scales: tuple[float, float]) -> Samples:
    """Return samples averaged with their neighbors, by a Gaussian of three pixels a side."""
    sigmas = [_SOFTENING * max(scale**2 - 1.0, 1e-4) ** 0.5 for scale in scales]
    if cv2 is not None:
        return np.asarray(cv2.GaussianBlur(samples, (3, 3), sigmas[0], sigmaY=sigmas[1]), np.uint8)
    soft: Any = samples.astype(np.float32)
    for axis, sigma in zip((1, 0), sigmas, strict=True):
        beside = np.exp(-0.5 / sigma**2)
        margin = [(1, 1) if axis == each else (0, 0) for each in range(soft.ndim)]
        lines = np.moveaxis(np.pad(soft, margin, "reflect" if len(soft) > 1 else "edge"), axis, 0)
        mean = (lines[1:-1] + beside * (lines[:-2] + lines[2:])) / (1.0 + 2.0 * beside)
        soft = np.moveaxis(mean, 0, axis)
    return _rounded(soft)


def interpolated(samples: Samples, size: tuple[int, int]) -> Samples:
    """Return samples at a width and height, linearly between the two nearest on each axis."""
    if samples.shape[1::-1] == size:
        return samples
    if cv2 is not None:
        return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    found: Any = samples
    for axis, length in ((0, size[1]), (1, size[0])):
        have = samples.shape[axis]
        places = ((np.arange(length) + 0.5) * have / length - 0.5).clip(0.0, have - 1.0)
        before = places.astype(np.int64)
        shares = (places - before).astype(np.float32)
        shares = shares.reshape([-1 if axis == each else 1 for each in range(samples.ndim)])
        low = found.take(before, axis)
        high = found.take(np.minimum(before + 1, have - 1), axis)
        found = low + shares * (high.astype(np.float32) - low)
    return _rounded(found)


def _rounded(values: Any) -> Samples:
    rounded: Samples = (values + 0.5).astype(np.uint8)
    return rounded
