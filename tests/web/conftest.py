"""A server of the sample images, which most tests here ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedsearch
from tests.support.library import SAMPLES
from tests.support.serving import Served, served


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    table = folder / "captions.csv"
    table.write_text("name,caption\nclocks_1.jpg,<script>alert(1)</script>\n")
    path = folder / "s.es"
    embedsearch.index(photos, store=path, model="packaged", metadata=str(table))
    return path


@pytest.fixture(scope="package")
def server(store: Path) -> Iterator[Served]:
    with served(store, "-v") as running:
        yield running
