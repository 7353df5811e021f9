"""Pictures and stores to test with, the command line, and where this checkout's folders are."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import embedsearch
from embedsearch.core.records import Reason
from embedsearch.indexing.report import IndexReport
from embedsearch.store.info import failures

REPOSITORY = Path(__file__).parent.parent.parent
SAMPLES = REPOSITORY / "sample_images"
SHARED = REPOSITORY.parent / "shared"
GOLDEN = REPOSITORY / "tests" / "golden"
CLOCK, BOAT = SAMPLES / "clocks" / "clocks_1.jpg", SAMPLES / "boats" / "boats_1.jpg"


def paint(path: Path, seed: int, size: tuple[int, int] = (48, 40), **save: Any) -> Path:
    """Write a small picture of its own for each seed: smooth colours with a patch."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    image.paste(tuple(int(c) for c in rng.integers(0, 256, 3)), (4, 4, 16, 14))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)
    return path


def run_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
    command = [sys.executable, "-m", "embedsearch", *map(str, arguments)]
    return subprocess.run(command, **options)


def wait_for(is_so: Callable[[], bool], seconds: float = 15.0) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Library:
    """A store over folders, indexed with the counting extractor."""

    def __init__(self, store: Path, factory: Callable[..., Any]) -> None:
        self.store = store
        self._factory = factory

    def index(self, *folders: str | Path, **options: Any) -> IndexReport:
        if not self.store.exists():
            options.setdefault("model", "packaged")
        return embedsearch.index(
            folders, store=self.store, extractor_factory=self._factory, **options
        )

    def reasons(self) -> dict[str, Reason]:
        return {failure.key: failure.reason for _, failure in failures(self.store)}


def counts(report: IndexReport) -> tuple[int, ...]:
    """(found, added, changed, moved, unchanged, failed, deleted)"""
    return (
        report.found,
        report.added,
        report.changed,
        report.moved,
        report.unchanged,
        report.failed,
        report.deleted,
    )
