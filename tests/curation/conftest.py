"""Photos and copies of two of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

import embedsearch
from tests.support.library import BOAT, CLOCK, SAMPLES


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """54 photos, and copies of two of them."""
    folder = tmp_path_factory.mktemp("curated")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    (photos / "copies").mkdir()
    shutil.copy(CLOCK, photos / "copies" / "same.jpg")
    image = Image.open(CLOCK).convert("RGB")
    for name, made in {
        "small.png": image.resize((200, 150), Image.Resampling.LANCZOS),
        "grey.png": image.convert("L"),
        "flip.png": ImageOps.mirror(image),
        "upside.png": ImageOps.flip(image),
        "right.png": image.transpose(Image.Transpose.ROTATE_270),
        "half.png": image.transpose(Image.Transpose.ROTATE_180),
        "left_flipped.png": ImageOps.mirror(image.transpose(Image.Transpose.ROTATE_90)),
        "part.png": image.crop((30, 20, 606, 452)),
    }.items():
        made.save(photos / "copies" / name)
    Image.open(BOAT).convert("RGB").save(photos / "copies" / "boat.jpg", quality=30)
    embedsearch.index(photos, store=folder / "s.es", model="packaged")
    return folder / "s.es"
