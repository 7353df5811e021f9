"""A store that is indexed by units, and one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.units import Factory, Shared


@pytest.fixture
def shared(tmp_path: Path, extractor: Factory) -> Shared:
    return Shared(tmp_path / "shared.es", extractor)


@pytest.fixture
def alone(tmp_path: Path, extractor: Factory) -> Shared:
    return Shared(tmp_path / "alone.es", extractor)
