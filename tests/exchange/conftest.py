"""A store to export from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch


@pytest.fixture
def store(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Path:
    """Twelve pictures, of which one was deleted again."""
    path = tmp_path / "s.es"
    embedsearch.index(photos, store=path, model="packaged", extractor_factory=extractor)
    (photos / "a" / "03.png").unlink()
    embedsearch.index(photos, store=path, extractor_factory=extractor)
    return path
