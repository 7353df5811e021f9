"""`embedsearch bench` measures photos of one's own and leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import embedsearch
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.indexing.bench import network_rate
from tests.support.extractor import Stand
from tests.support.library import SAMPLES, paint, run_cli


def test_bench_reports_every_stage_and_writes_nothing(tmp_path: Path) -> None:
    done = run_cli(
        "bench", SAMPLES, "--model", "packaged", "--json", "--images", "60", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["found"], report["images"], report["passes"], report["failed"]) == (54, 54, 2, 0)
    assert set(report["rates"]) == {"scan", "read", "decode", "embed"}
    assert all(rate > 0 for rate in report["rates"].values())
    # All together cannot be faster than any stage alone, but for the noise of a shared machine.
    assert 0 < report["images_per_s"] < 1.3 * min(report["rates"].values())
    assert report["slowest_stage"] in {"read", "decode", "embed"} and report["advice"]
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_a_table(tmp_path: Path) -> None:
    paint(tmp_path / "one.png", 1)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = run_cli("bench", tmp_path, "--model", "packaged", "--images", "8", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "2 of 2 images 4 times, 1 failed, 0.0 megapixels (median), with pack"
    )
    assert lines[1].startswith("the network runs in ")
    assert [line.split()[0] for line in lines[3:7]] == ["scan", "read", "decode", "embed"]
    assert re.fullmatch(
        r"[\d,]+ of at most [\d,]+ images/s; the network takes \d+ % of the processors.*", lines[-1]
    )


def test_bench_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        embedsearch.bench(tmp_path / "none")
    with pytest.raises(NothingIndexed, match="no images found"):
        embedsearch.bench(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(NothingIndexed, match="can be read"):
        embedsearch.bench(tmp_path, model="packaged")
    with pytest.raises(UsageError, match=r"^images must"):
        embedsearch.bench(tmp_path, images=0)


def test_the_rate_of_a_network_is_that_of_all_its_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr("embedsearch.indexing.bench.NETWORK_SECONDS", 0.5)
    pixels = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    rate = network_rate(Stand(lanes=2, seconds=0.02), pixels, 8).images_per_s
    assert rate == pytest.approx(2 * 8 / 0.02, rel=0.2)
