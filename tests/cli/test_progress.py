"""What is shown of a long run: whole words at any width, and something for whatever takes long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embedsearch
from embedsearch.cli.output.progress import fitting
from embedsearch.core.session import Session
from embedsearch.curation.clusters import clusters, outliers
from embedsearch.curation.duplicates import duplicates
from embedsearch.curation.picture_map import picture_map
from embedsearch.exchange.export import export
from embedsearch.store.check import check
from tests.support.library import SAMPLES
from tests.support.terminal import all_shown, open_terminal

PARTS = (
    "520 of 2,013 images",
    "98 images/s",
    "0:00:15 left",
    "embed 97 % · decode 18 % · read 2 %",
    "→ a GPU, or a smaller model or --input-side 160",
)
RUN = """
import time
from embedsearch.cli.output.progress import ProgressDisplay
from embedsearch.core.records import Progress
note = "embed 97 % · decode 18 % · read 2 % → a GPU, or a smaller model or input_side=160"
with ProgressDisplay(print) as show:
    show.step("scanning: 2,013 images so far", 0, 0)
    time.sleep(1.4)
    show(Progress(520, 2013, 3, 5.3, note))
    time.sleep(0.6)
"""


@pytest.mark.parametrize("width", range(20, 140, 7))
def test_parts_are_whole_or_left_out(width: int) -> None:
    line = fitting(PARTS, width)
    shown = line.split("  ")
    assert tuple(shown) == PARTS[: len(shown)]
    assert len(line) <= width or len(shown) == 1
    if len(shown) < len(PARTS):  # as many as there is room for
        assert len(line) + 2 + len(PARTS[len(shown)]) > width


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_of_any_width_shows_no_half_of_a_hint(columns: int) -> None:
    master, slave = open_terminal(columns)
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen([sys.executable, "-c", RUN], stderr=slave, env=environment) as process:
        os.close(slave)
        shown = all_shown(master)
        assert process.wait(60) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = {line.strip(" \r━╸╺") for line in re.split(r"[\r\n]+", plain)} - {""}
    assert "scanning: 2,013 images so far" in lines
    (line,) = [line for line in lines if line.startswith("520 of 2,013 images  98 images/s")]
    assert "…" not in line and len(line) <= columns
    for part in line.split("  ")[3:]:
        assert part in {"3 failed", PARTS[3], PARTS[4]}
    assert (PARTS[4] in line) == (columns == 200)


def test_what_takes_long_tells_its_steps(tmp_path: Path) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(SAMPLES / "clocks", store=store, model="packaged")
    told: list[tuple[str, int, int]] = []
    session = Session(step=lambda *step: told.append(step))

    def steps() -> set[str]:
        assert all(0 <= done <= max(total, done) for _, done, total in told)
        found = {name for name, _, _ in told}
        told.clear()
        return found

    picture_map(store, session=session)
    assert steps() == {"reading the store", "placing 6 pictures by PCA", "making thumbnails"}
    clusters(store, 2, session=session)
    assert steps() == {"reading the store", "grouping 6 images"}
    outliers(store, session=session)
    assert steps() == {"reading the store", "comparing images"}
    duplicates(store, similar=0.1, session=session)
    assert steps() == {"reading the store", "comparing images", "comparing closely"}
    export(store, tmp_path / "all.parquet", session=session)
    assert steps() == {"writing"}
    check(store, read_data=True, session=session)
    assert steps() == {"verifying files", "reading shards"}
    embedsearch.index(store=store, session=session)
    assert steps() == {"scanning: 0 images so far"}
