"""A search of the tests' own, which reads the rows of a store and looks at every one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch.core.records import Hit
from tests.support.stores import compared_rows, measured

DIM = 512


def oracle(store: Path, query: npt.NDArray[np.float32], k: int) -> list[tuple[bytes, float]]:
    """Every live row's q·v/|v| in float64, both measured, best first, ties in the order of keys."""
    asked, rows = measured(store, query), compared_rows(store)
    scores = {
        key: float(np.clip(asked @ vector / np.linalg.norm(vector), -1, 1))
        for key, vector in rows.items()
    }
    ordered = sorted(scores, key=lambda key: (-np.float32(scores[key]), key))
    return [(key, scores[key]) for key in ordered[:k]]


def assert_right(hits: list[Hit], wanted: list[tuple[bytes, float]]) -> None:
    assert [os.fsencode(hit.key) for hit in hits] == [key for key, _ in wanted]
    assert [hit.rank for hit in hits] == list(range(1, len(wanted) + 1))
    for hit, (_, score) in zip(hits, wanted, strict=True):
        assert hit.score == pytest.approx(score, abs=1e-5)


def units(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return vectors (…, D) of length 1."""
    found: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


def unit(seed: int) -> npt.NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)
