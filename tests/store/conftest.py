"""A store with something of everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch


@pytest.fixture
def store(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Path:
    """A store of twelve images at generation 2, with FAISS file, failures and deleted rows."""
    path = tmp_path / "s.es"
    embedsearch.index(photos, store=path, model="packaged", extractor_factory=extractor)
    (photos / "a" / "01.png").unlink()
    (photos / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    embedsearch.index(photos, store=path, extractor_factory=extractor)
    return path
