"""Shared fixtures: an empty cache, a counting extractor, photos from beside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session

REPOSITORY = Path(__file__).parent.parent
SAMPLES = REPOSITORY / "sample_images"
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of our own, so that no test depends on what a home folder holds."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("EMBEDSEARCH_CACHE", str(folder / "embedsearch"))
    patch.setenv("TORCH_HOME", str(folder / "torch"))
    patch.delenv("EMBEDSEARCH_STORE", raising=False)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photos and weights beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data, which is not beside this checkout")
    return SHARED / "data"


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
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def extractor() -> Iterator[Callable[..., CountingExtractor]]:
    """A factory for `index(extractor_factory=…)`; CountingExtractor.embedded counts images."""
    CountingExtractor.embedded = 0

    def make(spec: ModelSpec, device: str, precision: str, session: Session) -> CountingExtractor:
        return CountingExtractor(spec.dim)

    yield make


def paint(path: Path, seed: int, size: tuple[int, int] = (48, 40), **save: Any) -> Path:
    """Write a small picture of its own for each seed: smooth colours with a patch."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    image.paste(tuple(int(c) for c in rng.integers(0, 256, 3)), (4, 4, 16, 14))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve small pictures in two sub-folders."""
    folder = tmp_path / "photos"
    for seed in range(12):
        paint(folder / ("a" if seed % 2 else "b") / f"{seed:02d}.png", seed)
    return folder


def run_cli(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
    command = [sys.executable, "-m", "embedsearch", *map(os.fspath, arguments)]
    return subprocess.run(command, **options)


def wait_for(is_so: Callable[[], bool], seconds: float = 15.0) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
