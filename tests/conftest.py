"""Shared fixtures: an empty cache, a counting extractor, photos from beside the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.records import ModelSpec
from embedsearch.core.session import Session
from tests.support.extractor import CountingExtractor
from tests.support.library import SHARED, Library, paint


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


@pytest.fixture
def extractor() -> Iterator[Callable[..., CountingExtractor]]:
    """A factory for `index(extractor_factory=…)`; CountingExtractor.embedded counts images."""
    CountingExtractor.embedded = 0

    def make(spec: ModelSpec, device: str, precision: str, session: Session) -> CountingExtractor:
        return CountingExtractor(spec.dim)

    yield make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve small pictures in two sub-folders."""
    folder = tmp_path / "photos"
    for seed in range(12):
        paint(folder / ("a" if seed % 2 else "b") / f"{seed:02d}.png", seed)
    return folder


@pytest.fixture
def library(tmp_path: Path, extractor: Callable[..., Any]) -> Library:
    return Library(tmp_path / "s.es", extractor)
