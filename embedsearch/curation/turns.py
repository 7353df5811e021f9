"""Ways to turn or mirror an image, each with the new order of a signature's cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.records import SIGNATURE_SIDE

_SQUARE = np.arange(SIGNATURE_SIDE**2).reshape(SIGNATURE_SIDE, SIGNATURE_SIDE)


@dataclass(frozen=True)
class Turn:
    """A way to turn or mirror an image: its name, and what it does to an array (H, W, …)."""

    how: str
    square: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    cells: npt.NDArray[np.int64] = field(init=False)  # where each cell of a turned signature was

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", np.ascontiguousarray(self.square(_SQUARE)).reshape(-1))

    def of(self, units: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
        """Return the units of turned images, float16 (n, 256)."""
        return units if self is AS_IT_IS else units[:, self.cells]


AS_IT_IS = Turn("copy", lambda image: image)
# Each set is closed: two of its turns together are one of them, so copies of copies are copies.
FLIPS = (Turn("flipped", lambda image: image[:, ::-1]),)
ROTATIONS = (
    Turn("turned left", lambda image: np.rot90(image)),
    Turn("upside down", lambda image: np.rot90(image, 2)),
    Turn("turned right", lambda image: np.rot90(image, 3)),
)
BOTH = (
    Turn("turned left, flipped", lambda image: np.rot90(image)[:, ::-1]),
    Turn("upside down, flipped", lambda image: image[::-1]),
    Turn("turned right, flipped", lambda image: np.rot90(image, 3)[:, ::-1]),
)
