"""The sample images with captions, which every framework is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.frameworks import make_store


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("frameworks") / "s.es")
