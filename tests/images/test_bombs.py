"""Files of few bytes that unpack to many: each is a failure, in bounded memory and time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bombs import PARQUETS, TABLES, TARS, ZIPS, watched
from tests.support.library import paint, run_cli

MOST_MB, MOST_S = 500, 60.0  # beside other tests; alone half of that


@pytest.fixture(scope="module", autouse=True)
def converted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Convert the network first: that takes more memory than a run."""
    folder = tmp_path_factory.mktemp("first")
    paint(folder / "a.png", 40)
    options = "--store", folder / "s.es", "--model", "packaged", "--device", "cpu"
    assert run_cli("index", folder, *options).returncode == 0


@pytest.mark.parametrize("name", [*TARS, *ZIPS, *PARQUETS])
def test_a_bomb_is_a_failure_and_costs_nothing_else(name: str, tmp_path: Path) -> None:
    make, words = {**TARS, **ZIPS, **PARQUETS}[name]
    make(tmp_path / name)
    (tmp_path / "photos").mkdir()
    paint(tmp_path / "photos" / "good.png", 40)
    store = tmp_path / "s.es"
    options = "--store", store, "--model", "packaged", "--device", "cpu"
    done = watched("index", tmp_path / "photos", tmp_path / name, *options)
    assert (done.code == 0 and "committed" in done.out) or "1 added" in done.out, done.out
    assert done.peak_mb <= MOST_MB and done.seconds <= MOST_S, done
    listed = run_cli("failures", "--store", store, "--json").stdout
    details = {row["detail"] for row in map(json.loads, listed.splitlines())}
    assert any(words in detail for detail in details) or not words, details


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_fills_the_memory_is_refused(name: str, tmp_path: Path) -> None:
    make, words = TABLES[name]
    make(tmp_path / name)
    (tmp_path / "photos").mkdir()
    paint(tmp_path / "photos" / "good.png", 40)
    options = "--store", tmp_path / "s.es", "--model", "packaged", "--metadata", tmp_path / name
    done = watched("index", tmp_path / "photos", *options)
    assert done.code == 2 and words in done.out, done.out
    assert done.peak_mb <= MOST_MB and done.seconds <= MOST_S, done
    assert not (tmp_path / "s.es").exists()
