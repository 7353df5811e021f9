"""A store on an S3 server at two times, and an empty cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.extractor import counting
from tests.support.library import Library, paint
from tests.support.mirrors import (
    PREFIX,
)

if TYPE_CHECKING:
    from tests.support.s3 import S3Server


@pytest.fixture(scope="package")
def generations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same store at two times; the later one has one picture more."""
    folder = tmp_path_factory.mktemp("made")
    library = Library(folder / "s.es", counting)
    made: list[Path] = []
    for seeds in ((0, 1, 2, 3, 4, 5), (6,)):
        for seed in seeds:
            paint(folder / "photos" / f"{seed}.png", seed)
        library.index(folder / "photos")
        made.append(folder / f"{len(made)}.es")
        shutil.copytree(library.store, made[-1])
    return made


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder for stores in it."""
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


@pytest.fixture
def s3(s3: S3Server, generations: list[Path], cached: Path) -> S3Server:
    """A server with the first generation, and no faults."""
    s3.put_folder(generations[0], PREFIX)
    s3.requests.clear()
    return s3
