"""Sets of photos to measure retrieval on, and what a network may see of one; in: a folder, out:
photos by set and class, and uint8 pixels.

Each set is of another kind, so that a default cannot be chosen by one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedsearch.core.model_spec import BILINEAR, MILD_CROP, SQUASH, Framing
from embedsearch.images.decode.image import square

OBJECTS = "caltech101_dev"  # which the tests use, too
KINDS = "retrieval_dev"  # a folder of other sets
SEEN = Framing(MILD_CROP, BILINEAR, 1)  # by default
CELL = 32  # pixels of a side that become one cell of the last map
_LEAST, _MOST = 0.85, 1.03  # of the pixels of a square, for own proportions

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """A photo of a set; it should find the others of its class."""

    set: str
    label: str
    path: Path


def photos_of(data: Path) -> list[Photo]:
    """Return all photos, sorted by set, class and name."""
    folders = [*sorted((data / KINDS).iterdir()), data / OBJECTS]
    return [
        Photo(folder.name, path.parent.name, path)
        for folder in folders
        for path in sorted(folder.rglob("*.jpg"))
    ]


def short_side_cropped(photo: Image.Image, side: int) -> Image.Image:
    """Return what torchvision's own transform cuts out: the short side at 8/7, the middle square.

    https://pytorch.org/vision: `ImageClassification(crop_size=224, resize_size=256)`.
    """
    scale = round(side * 256 / 224) / min(photo.size)
    width, height = (max(side, round(length * scale)) for length in photo.size)
    scaled = photo.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def center_cropped(photo: Image.Image, side: int) -> Image.Image:
    """Return the largest square of the middle."""
    short = min(photo.size)
    left, top = ((length - short) / 2 for length in photo.size)
    box = (left, top, left + short, top + short)
    return photo.resize((side, side), Image.Resampling.BICUBIC, box, reducing_gap=3.0)


def own_proportions(photo: Image.Image, side: int) -> Image.Image:
    """Return the whole photo, nearly undistorted, at about side² pixels in whole cells."""
    cells = (side // CELL) ** 2
    aspect = photo.width / photo.height
    sizes = (
        (across, down)
        for across in range(1, cells + 1)
        for down in range(1, cells + 1)
        if _LEAST * cells <= across * down <= _MOST * cells
    )
    across, down = min(
        sizes,
        key=lambda s: abs(np.log(s[0] / s[1] / aspect)) + 0.3 * abs(np.log(s[0] * s[1] / cells)),
    )
    size = (across * CELL, down * CELL)
    return photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def mirrored(photo: Image.Image, side: int) -> Pixels:
    """Return the mirror image of what is seen by default."""
    return np.ascontiguousarray(square(photo, side, SEEN)[:, ::-1])


def at_scale(scale: float) -> Callable[[Image.Image, int], Pixels]:
    """Return a rule: what is seen by default, at another size in whole cells."""
    return lambda photo, side: square(photo, round(side * scale / CELL) * CELL, SEEN)


RULES: dict[str, Callable[[Image.Image, int], Pixels]] = {
    "torchvision's": lambda photo, side: np.asarray(short_side_cropped(photo, side)),
    "squashed": lambda photo, side: square(photo, side, Framing(SQUASH)),
    "mildly cropped": lambda photo, side: square(photo, side, SEEN),
    "middle square": lambda photo, side: np.asarray(center_cropped(photo, side)),
    "own proportions": lambda photo, side: np.asarray(own_proportions(photo, side)),
    "mirror image": mirrored,
    "scale 0.71": at_scale(0.71),
    "scale 1.41": at_scale(1.41),
}
