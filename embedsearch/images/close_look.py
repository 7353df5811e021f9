"""Two images seen closely; in: their pixels, out: whether they are the same picture, and how.

Signatures, 16 × 16, propose copies; small things and colors are not in them. Here two images are
compared at up to 256 × 256, and what passes at up to 1024 × 1024, where other words on a page
differ: cell by cell, the energy of what differs is set against the energy of what is there.
Compression and scaling change all cells a little; another dialog, another frame of a fixed camera
or another object changes a few cells a lot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256
FINE_SIDE = 1024
_COLOR_SIDE = 16
_COARSE_SIDE = 32
_POWERS = 4  # of a cubic tone curve
# Images of other sizes are compared at a grid this much coarser than the smaller one: finer, the
# blur of scaling counts as a difference.
_SCALING_BLUR = 1.2
_MIN_GRID, _CELLS = 16, 32  # cells of a side, each overlapping the next by half
_NOISE = 144.0  # levels², energy that compression leaves in an empty cell
_EVEN = 0.02
# Of 150 photos. As large as the original: copies of quality 8 to 60 have 3.7 and less, a small
# object or other words in a dialog 6.8 and more. Scaled to 0.3 to 0.8: 98 in 100 copies have 1.6
# and less, other words in a dialog at 0.6 and more have 2.0 and more, 98 in 100 of them 2.4.
_MAX_DIFFERENCE = 4.5
_MAX_DIFFERENCE_SCALED = 2.0
# At 1024 × 1024, in cells of 8, copies of 30 photos and pages of quality 15 to 85, or scaled to 0.3
# to 0.8, have 1.6 and less; another amount on a page, date on a photo or number plate 8 and more.
_MAX_FINE_DIFFERENCE = 4.0
_FINE_CELL = 8
# At 32 × 32 the same copies have 0.3 and less, those scaled to 0.15 have 1.3 and less.
_MAX_COARSE = 2.0
# Levels of 255. Copies of quality 20 and more change the tone by 3 and the color of a cell by 14;
# a white balance that differs by 8 % changes it by 22, a brightness by 15 % the tone by 14.
_MAX_TONE = 7.0
_MAX_COLOR = 18.0
_MAX_MEAN_COLOR = 7.0
_GRAY = 8.0  # the color of the cells of a gray JPEG is less

Grid = npt.NDArray[np.float32]


class Verdict(StrEnum):
    """What another image is to the one that is kept."""

    COPY = "copy"
    GRAY = "gray"  # the same picture without its colors
    IN_COLOR = "in color"  # the same picture with the colors that the kept one lacks
    RECOLORED = "recolored"  # the same shapes in other colors or other brightness
    DIFFERENT = "different"


@dataclass(frozen=True)
class Look:
    """Luma uint8 (256, 256), color differences int16 (16, 16, 2), and the original's size."""

    luma: npt.NDArray[np.uint8]
    color: npt.NDArray[np.int16]
    coarse: Grid  # the luma, float32 (32, 32)
    size: tuple[int, int]
    has_more: bool = False  # pages or frames that nobody has looked at

    @classmethod
    def of(
        cls, pixels: npt.NDArray[np.uint8], size: tuple[int, int], *, has_more: bool = False
    ) -> Look:
        """Return the look of an image squashed to uint8 (256, 256, 3)."""
        image = Image.fromarray(pixels)
        small = np.asarray(image.reduce(SIDE // _COLOR_SIDE), np.int16)
        plain = image.convert("L")
        luma, gray = np.asarray(plain), np.asarray(plain.reduce(SIDE // _COLOR_SIDE), np.int16)
        return cls(luma, small[..., ::2] - gray[..., None], _at(luma, _COARSE_SIDE), size, has_more)

    @property
    def is_gray(self) -> bool:
        """Return whether the picture has no colors."""
        return bool(np.abs(self.color).max() < _GRAY)

    @property
    def is_large(self) -> bool:
        """Return whether a finer look shows more."""
        return min(self.size) > SIDE

    def turned(self, turn: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Look:
        """Return the look of the image turned by a function of arrays (H, W, …)."""
        size = self.size[::-1] if turn(np.zeros((1, 2))).shape == (2, 1) else self.size
        luma, color, coarse = (turn(plane) for plane in (self.luma, self.color, self.coarse))
        return Look(luma, color, coarse, size, self.has_more)


@dataclass(frozen=True)
class FineLook:
    """Luma uint8 (1024, 1024), and the original's size."""

    luma: npt.NDArray[np.uint8]
    size: tuple[int, int]

    @classmethod
    def of(cls, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> FineLook:
        """Return the look of an image squashed to uint8 (1024, 1024, 3)."""
        return cls(np.asarray(Image.fromarray(pixels).convert("L")), size)

    def turned(self, turn: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> FineLook:
        """Return the look of the image turned by a function of arrays (H, W, …)."""
        size = self.size[::-1] if turn(np.zeros((1, 2))).shape == (2, 1) else self.size
        return FineLook(turn(self.luma), size)


def is_same_picture(kept: FineLook, other: FineLook) -> bool:
    """Return whether nothing in two images differs that can be seen at 1024 × 1024."""
    grid = _grid_side(kept, other, FINE_SIDE)
    one, two = _at(kept.luma, grid), _at(other.luma, grid)
    found = _differences(_with_tone_of(one, two)[None], two, _FINE_CELL)[0]
    return bool(found <= _MAX_FINE_DIFFERENCE)


class Leaders:
    """Looks that others are compared with roughly, all at once."""

    def __init__(self) -> None:
        self._looks: list[Look | None] = []
        self._powers = np.empty((0, _COARSE_SIDE**2, _POWERS), np.float32)
        self._solvers = np.empty((0, _POWERS, _COARSE_SIDE**2), np.float32)

    def add(self, look: Look | None) -> None:
        """Add a look; without one, everything may be near."""
        count = len(self._looks)
        if count == len(self._powers):
            more = max(8, count)
            self._powers = np.resize(self._powers, (count + more, _COARSE_SIDE**2, _POWERS))
            self._solvers = np.resize(self._solvers, (count + more, _POWERS, _COARSE_SIDE**2))
        nothing = np.zeros((_COARSE_SIDE, _COARSE_SIDE), np.float32)
        powers = _powers_of(nothing if look is None else look.coarse)
        self._powers[count] = powers
        self._solvers[count] = np.linalg.pinv(powers.astype(np.float64))
        self._looks.append(look)

    def near(self, look: Look) -> list[int]:
        """Return the numbers of the looks that may show the same picture, ascending.

        Most frames of a fixed camera are told apart here.
        """
        if not (count := len(self._looks)):
            return []
        curves = self._solvers[:count] @ look.coarse.reshape(-1)
        toned = np.einsum("lpc,lc->lp", self._powers[:count], curves)
        squares = np.clip(toned, 0.0, 255.0).reshape(count, _COARSE_SIDE, _COARSE_SIDE)
        most = [math.inf if one is None else _MAX_COARSE for one in self._looks]
        return [int(n) for n in np.flatnonzero(_differences(squares, look.coarse) <= most)]


def verdict(kept: Look, other: Look) -> Verdict:
    """Return what an image is to the one that is kept."""
    grid = _grid_side(kept, other, SIDE)
    one, two = _at(kept.luma, grid), _at(other.luma, grid)
    toned = _with_tone_of(one, two)
    if _differences(toned[None], two)[0] > _most(kept, other):
        return Verdict.DIFFERENT
    if float(np.abs(toned - one).mean()) > _MAX_TONE:
        return Verdict.RECOLORED
    side = min(_COLOR_SIDE, max(4, grid // 4))
    distance = np.linalg.norm(_color_at(kept.color, side) - _color_at(other.color, side), axis=-1)
    if distance.max() <= _MAX_COLOR and distance.mean() <= _MAX_MEAN_COLOR:
        return Verdict.COPY
    if kept.is_gray is other.is_gray:
        return Verdict.RECOLORED
    return Verdict.IN_COLOR if kept.is_gray else Verdict.GRAY


def _grid_side(one: Look | FineLook, other: Look | FineLook, most: int) -> int:
    """Return the finest grid, up to `most`, at which scaling alone makes no difference."""
    smallest = min(*one.size, *other.size)
    if one.size != other.size:
        smallest = int(smallest / _SCALING_BLUR)
    return max(_MIN_GRID, min(most, smallest))


def _at(luma: npt.NDArray[np.uint8], side: int) -> Grid:
    # A box leaves what depends on where its edges fall: scaled copies would differ.
    return _resized(luma, side, Image.Resampling.BICUBIC)


def _color_at(color: npt.NDArray[np.int16], side: int) -> Grid:
    return np.stack([_resized(color[..., n], side, Image.Resampling.BOX) for n in (0, 1)], -1)


def _resized(plane: npt.NDArray[Any], side: int, by: Image.Resampling) -> Grid:
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image if image.width == side else image.resize((side, side), by))


def _most(one: Look, other: Look) -> float:
    """Return the largest difference of two images of the same picture."""
    return _MAX_DIFFERENCE if one.size == other.size else _MAX_DIFFERENCE_SCALED


def _powers_of(image: Grid) -> Grid:
    """Return the powers of the samples that a tone curve is made of, float32 (n, 4)."""
    x = image.reshape(-1) / np.float32(255.0)
    return np.stack([x**power for power in range(_POWERS)], axis=1)


def _with_tone_of(one: Grid, two: Grid) -> Grid:
    """Return `one` with the tone curve, a cubic, that makes it most like `two`."""
    step = max(1, len(one) // 64)
    some = _powers_of(one[::step, ::step]).astype(np.float64)
    wanted = two[::step, ::step].reshape(-1).astype(np.float64)
    curve, *_ = np.linalg.lstsq(some, wanted, rcond=None)
    fitted = np.polyval(curve[::-1].astype(np.float32), one / np.float32(255.0))
    return np.asarray(np.clip(fitted, 0.0, 255.0), np.float32)


def _differences(ones: Grid, two: Grid, cell: int | None = None) -> npt.NDArray[np.float64]:
    """Return how far one cell differs from an image, for each of several, float64 (n,).

    In each cell the energy of the difference is divided by that of both images. The largest such
    ratio counts, the more so the more it stands out among the others.
    """
    cell = cell or max(4, len(two) // _CELLS)
    ratios = []
    for top in (0, cell // 2):
        for left in (0, cell // 2):
            a, b = _cells(ones[:, top:, left:], cell), _cells(two[None, top:, left:], cell)
            energy = (a.var(axis=(2, 4)) + b.var(axis=(2, 4))) / 2.0
            ratio = np.square(a - b).mean(axis=(2, 4)) / (energy + _NOISE)
            ratios.append(ratio.reshape(len(ones), -1))
    found = np.concatenate(ratios, axis=1).astype(np.float64)
    largest = found.max(axis=1)
    most: npt.NDArray[np.float64] = largest * np.sqrt(
        largest / (np.quantile(found, 0.9, axis=1) + _EVEN)
    )
    return most


def _cells(images: Grid, cell: int) -> Grid:
    rows, columns = (size // cell for size in images.shape[1:])
    cut = images[:, : rows * cell, : columns * cell]
    return cut.reshape(len(images), rows, cell, columns, cell)
