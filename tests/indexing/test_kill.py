"""A killed run is resumed, its debris swept; a read-only store answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from tests.support.library import REPOSITORY, paint, run_cli
from tests.support.stores import rows_of

# `index` in a process of its own, with the counting extractor and a commit every 32 images.
INDEX = """
import sys, time
from pathlib import Path
import embedsearch
from tests.support.extractor import CountingExtractor

class Slow(CountingExtractor):
    def __call__(self, pixels):
        time.sleep(float(sys.argv[3]))
        return super().__call__(pixels)

report = embedsearch.index(
    sys.argv[1], store=sys.argv[2], model="packaged", checkpoint_images=32, workers=1,
    extractor_factory=lambda spec, *_: Slow(spec.dim),
)
print(report.embedded)
"""


def start(folder: Path, store: Path, slow: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INDEX, str(folder), str(store), str(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def finish(folder: Path, store: Path) -> int:
    """Run to the end and return how many images were embedded."""
    process = start(folder, store)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return int(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for seed in range(160):
        paint(folder / f"{seed % 4}" / f"{seed:03d}.png", seed)
    for number in range(3):
        (folder / f"bad{number}.jpg").write_bytes(b"bad")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, bytes]:
    store = tmp_path_factory.mktemp("whole") / "w.es"
    assert finish(folder, store) == 160
    return rows_of(store)


def committed(store: Path) -> int:
    """Return the live rows of the current generation, 0 before the first commit."""
    try:
        return read_current(store).live
    except Exception:  # no store yet, no commit yet
        return 0


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_killed_run_is_resumed_to_the_same_rows(
    folder: Path, whole: dict[bytes, bytes], tmp_path: Path, share: float
) -> None:
    store = tmp_path / "k.es"
    process = start(folder, store, slow=0.15)
    while committed(store) < share * 160 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    kept = committed(store)
    assert kept >= share * 160 and rows_of(store).items() <= whole.items()
    assert check_store(store, read_data=True)[1] == []
    assert finish(folder, store) == 160 - kept, "more than one checkpoint was done again"
    assert rows_of(store) == whole
    assert finish(folder, store) == 0
    assert list((store / "tmp").iterdir()) == []


def test_debris_of_earlier_kills_is_swept(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "d.es"
    finish(folder / "1", store)
    debris = [
        store / "tmp" / "99999-0123456789abcdef",
        store / "shards" / "s-00000099-0123456789abcdef.parquet",
        store / "manifests" / "m-00000099.json",
        store / "ann" / "e-00000099-0123456789abcdef.faiss",
    ]
    for path in debris:
        path.write_bytes(b"half written")
    foreign = store / "shards" / "holiday.txt"
    foreign.write_text("not ours to remove")
    assert finish(folder / "1", store) == 0
    assert not any(path.exists() for path in debris) and foreign.exists()


def test_a_read_only_store_answers(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "ro.es"
    finish(folder / "2", store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    for path in [*store.rglob("*"), store]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        image = next((folder / "2").iterdir())
        done = run_cli("query", image, "--store", store, "-k", "3", "--paths")
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
        assert all(os.path.exists(path) for path in done.stdout.splitlines())
        assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    finally:
        for path in [store, *store.rglob("*")]:
            path.chmod(0o700)
