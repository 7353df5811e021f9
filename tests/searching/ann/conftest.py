"""Six hundred pictures, and their rows under every kind of index."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import embedsearch
from embedsearch.store.info import info
from tests.support.extractor import counting
from tests.support.indexes import COUNT, KINDS, index
from tests.support.library import paint


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pictures in two folders, of which some are equal."""
    photos = tmp_path_factory.mktemp("ann") / "photos"
    for seed in range(COUNT):
        paint(photos / "ab"[seed % 2] / f"{seed:03d}.png", seed % 550, size=(16 + seed % 9, 12))
    return photos


@pytest.fixture(scope="package")
def stores(folder: Path) -> dict[str, Path]:
    """The same rows, of which some were deleted, under every kind of index."""
    first = folder.parent / "exact.es"
    embedsearch.index(folder, store=first, model="packaged", extractor_factory=counting)
    made = {}
    for kind in KINDS:
        made[kind] = folder.parent / f"{kind}.es"
        if kind != "exact":
            shutil.copytree(first, made[kind])
        index(made[kind], folder, ann=kind)
        assert (info(made[kind]).to_dict()["search"]) == kind
    return made
