"""A store to look around in: two roots, pictures with and without dates, and some that are gone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import embedsearch
from tests.support.library import paint

WORDS = ["cafe\u0301", "café", "tea", ""]  # the first two look the same
MONTHS = ["2023:10", "2024:02", "2023:10", "2022:12", "", "2024:02", ""]


@pytest.fixture(scope="package")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, `s.es`: 40 images in two folders, two of them by name only."""
    folder = tmp_path_factory.mktemp("browsed")
    homes = [folder / "b photos" / "trip" / "day 1", folder / "b photos", folder / "a photos"]
    for seed in range(45):
        exif = Image.Exif()
        if month := MONTHS[seed % 7]:
            exif[ExifTags.Base.DateTime] = f"{month}:{1 + seed % 20:02d} 10:00:00"
            exif[ExifTags.Base.Make] = ("Zeiss", "Canon", "Nikon")[seed % 3]
        size = (60 + seed % 4, 40)
        made = paint(homes[seed % 3] / f"{97 * seed % 50:02d}.jpg", seed, size=size, exif=exif)
        os.utime(made, ns=(0, 10**18 + 37 * seed % 11 * 10**9))
    rows = [
        {"name": f"{97 * seed % 50:02d}.jpg", "what": WORDS[seed % 4], "stars": seed % 5}
        for seed in range(45)
    ]
    (folder / "t.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="package")
def store(looked_at: Path, counting: Callable[..., Any]) -> Path:
    path = looked_at / "s.es"
    roots = [looked_at / "b photos", looked_at / "a photos"]
    options: dict[str, Any] = {"store": path, "extractor_factory": counting}
    embedsearch.index(roots, model="packaged", metadata=str(looked_at / "t.json"), **options)
    for seed in range(0, 45, 9):
        next(looked_at.glob(f"* photos/**/{97 * seed % 50:02d}.jpg")).unlink()
    embedsearch.index(roots, **options)
    np.save(looked_at / "v.npy", np.eye(2, 512, dtype=np.float32))
    (looked_at / "names.txt").write_text("zz/1.jpg\nzz/2.jpg\n")
    embedsearch.import_vectors(
        looked_at / "v.npy",
        paths=looked_at / "names.txt",
        root=looked_at,
        model="packaged",
        store=path,
    )
    return path


@pytest.fixture(scope="package")
def counting() -> Callable[..., Any]:
    from tests.support.extractor import counting as made

    return made


@pytest.fixture
def searcher(store: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(store) as opened:
        yield opened
