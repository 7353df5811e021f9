"""Stand-ins for the network, where the network is not the subject of a test."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from embedsearch.core.model_spec import ModelSpec


class CountingExtractor:
    """A stand-in for the network where the network is not the subject of a test.

    Deterministic, and near for near pictures: a fixed projection of the picture at 8 × 8.
    """

    device, precision, lanes = "cpu", "fp32", 1
    embedded = 0

    def __init__(self, dim: int) -> None:
        self._projection = np.random.default_rng(7).standard_normal((192, dim)).astype(np.float32)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        type(self).embedded += len(pixels)
        count, side = len(pixels), pixels.shape[1] // 8
        small = pixels.reshape(count, 8, side, 8, side, 3).mean(axis=(2, 4)).reshape(count, -1)
        # Row by row: a matrix product rounds differently from one batch size to the next.
        rows = [row @ self._projection for row in small.astype(np.float32) - 127.0]
        vectors = np.stack(rows) + 1e-3
        of_length_1: npt.NDArray[np.float32] = vectors / np.linalg.norm(
            vectors, axis=1, keepdims=True
        )
        return of_length_1


def counting(spec: ModelSpec, *_: object) -> CountingExtractor:
    """Make one, as `index(extractor_factory=…)` asks for it."""
    return CountingExtractor(spec.dim)


class Stand:
    """A stand-in for the network: a unit vector that tells the picture, after some time."""

    device, precision = "cpu", "fp32"

    def __init__(self, lanes: int = 1, seconds: float = 0.0) -> None:
        self.lanes, self.seconds = lanes, seconds
        self.busy = self.most_busy = self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._lock:
            self.calls += 1
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        time.sleep(self.seconds)
        with self._lock:
            self.busy -= 1
        return told(pixels)


def told(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the vectors that tell pictures."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) + 1.0
    of_length_1: npt.NDArray[np.float32] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return of_length_1
