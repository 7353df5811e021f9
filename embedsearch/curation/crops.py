"""Crops of other images; in: signatures, out: how well one shows a part of another.

A part keeps at least four fifths of each side. The windows of the whole's signature are compared
with the part's, both reduced to 12 × 12.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from embedsearch.core.records import SIGNATURE_SIDE

# 97 in 100 artificial crops of nine tenths have more; other images of the same thing have 0.954
# and less.
MIN_SCORE = 0.96
MIN_COSINE = 0.7  # cosine of the embeddings from which two images are compared
_SIDE = 12
_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)
_STEP = 1 / 80  # of a side, from window to window


class Crops:
    """Signatures that may show parts of each other."""

    def __init__(self, signatures: npt.NDArray[np.uint8]) -> None:
        """Take signatures, uint8 (n, 256)."""
        self._signatures = signatures

    def scores(self, whole: int, parts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the best correlation of each part with a window of the whole, float32 (p,)."""
        weights = _windows()
        square = self._squares(np.array([whole]))[0]
        seen = np.einsum("yrs,st,xct->yxrc", weights, square, weights, optimize=True)
        windows = _units(seen.reshape(-1, _SIDE * _SIDE))
        full = weights[0]
        small = np.einsum("rs,nst,ct->nrc", full, self._squares(parts), full, optimize=True)
        best: npt.NDArray[np.float32] = (_units(small.reshape(len(parts), -1)) @ windows.T).max(1)
        return best

    def matrix(
        self, some: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return for each two how well either shows a part of the other, float32 (n, m)."""
        one = np.stack([self.scores(int(index), others) for index in some])
        other = np.stack([self.scores(int(index), some) for index in others], axis=1)
        return np.maximum(one, other)

    def _squares(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        side = SIGNATURE_SIDE
        return self._signatures[indices].reshape(-1, side, side).astype(np.float32)


def _units(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows without their mean, of length 1; ones without structure are 0."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: npt.NDArray[np.float32] = np.where(lengths < 2.0 * _SIDE, 0.0, rows / (lengths + 1e-9))
    return units.astype(np.float32)


@cache
def _windows() -> npt.NDArray[np.float32]:
    """Return for each window of a side the weights of its cells, float32 (windows, 12, 16)."""
    found = []
    for scale in _SCALES:
        steps = round((1.0 - scale) / _STEP)
        for step in range(steps + 1):
            start = (1.0 - scale) * step / max(steps, 1)
            edges = (start + scale * np.arange(_SIDE + 1) / _SIDE) * SIGNATURE_SIDE
            cells = np.arange(SIGNATURE_SIDE)
            inside = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
            weights = np.maximum(inside, 0.0)
            found.append(weights / weights.sum(axis=1, keepdims=True))
    return np.array(found, np.float32)
