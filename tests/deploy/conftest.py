"""A store of the sample images, for servers behind others."""

from __future__ import annotations

from pathlib import Path

import pytest

import embedsearch
from tests.support.library import SAMPLES


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deployed") / "s.es"
    embedsearch.index(SAMPLES, store=path, model="packaged")
    return path
