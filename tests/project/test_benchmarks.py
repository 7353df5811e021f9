"""The parts that `make bench` times in processes of their own still run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.alone import PARTS
from embedsearch.store.current import read_current
from tests.support.library import REPOSITORY, SAMPLES

CLOCKS = str(SAMPLES / "clocks")
PRINTED = {
    "network": (["packaged", "auto"], 1),
    "camera": ([], 2),
}


def part(name: str, *arguments: str) -> list[float]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "alone.py"), name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [float(word) for word in done.stdout.split()]


def test_every_part_is_tried_here() -> None:
    assert PARTS.keys() == {*PRINTED, "idle", "index"}


@pytest.mark.parametrize("name", PRINTED)
def test_a_part_prints_its_figures(name: str) -> None:
    more, count = PRINTED[name]
    figures = part(name, CLOCKS, *more)
    assert len(figures) == count
    assert min(figures) > 0


def test_the_network_is_loaded_and_nothing_printed() -> None:
    assert part("idle", "packaged") == []


def test_a_stand_in_indexes_every_photo(tmp_path: Path) -> None:
    part("index", str(tmp_path / "s.es"), "packaged", CLOCKS)
    assert read_current(tmp_path / "s.es").live == len(list((SAMPLES / "clocks").iterdir()))
