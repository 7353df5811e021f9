"""The sample pictures: of our own making, small, and neighbours that are visibly right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from tests.support.library import SAMPLES

PICTURES = sorted(path for path in SAMPLES.glob("*/*.*"))


def test_there_are_as_many_as_promised() -> None:
    groups = {path.parent.name for path in PICTURES}
    assert 40 <= len(PICTURES) <= 60 and 8 <= len(groups) <= 10
    assert sum(path.stat().st_size for path in PICTURES) < 8_000_000
    assert {path.suffix for path in PICTURES} == {".jpg", ".png", ".webp"}


def test_neighbours_are_of_the_same_group(samples_store: Path) -> None:
    with embedsearch.open_store(samples_store) as searcher:
        answers = searcher.query_batch(PICTURES, k=2)
    right = []
    for path, (itself, nearest) in zip(PICTURES, answers, strict=True):
        assert itself.full_path == str(path)
        right.append(nearest.key.split("/")[0] == path.parent.name)
    assert np.mean(right) >= 0.9, [p.name for p, r in zip(PICTURES, right, strict=True) if not r]


def test_no_two_are_crops_or_jitters_of_each_other(samples_store: Path) -> None:
    """Near-copies have cosines above 0.95; different scenes of one kind lie far below."""
    with embedsearch.open_store(samples_store) as searcher:
        vectors = searcher.embed(PICTURES)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1.0)
    assert scores.max() < 0.93


@pytest.mark.scale
def test_the_script_paints_them_again(tmp_path: Path) -> None:
    """One group of the script's output is compared by its looks: codecs differ by version."""
    script = SAMPLES / "render.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=300)
    painted = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*.*"))
    assert painted == [path.relative_to(SAMPLES) for path in PICTURES]
    for relative in painted:
        with Image.open(SAMPLES / relative) as ours, Image.open(tmp_path / relative) as theirs:
            assert ours.size == theirs.size
            pair = [
                np.asarray(image.convert("RGB").resize((64, 64)), int) for image in (ours, theirs)
            ]
        assert np.abs(pair[0] - pair[1]).mean() < 2, relative
