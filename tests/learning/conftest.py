"""Pictures of four classes to learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training import (
    pattern,
)


@pytest.fixture(scope="package")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of twelve pictures each; no colour, size or direction tells them apart."""
    folder = tmp_path_factory.mktemp("patterns")
    for kind in range(4):
        for seed in range(12):
            pattern(folder / f"c{kind}" / f"{seed:02d}.png", kind, seed)
    return folder
