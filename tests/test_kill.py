"""Processes that die: at any moment, by any signal, the next run goes on from the last commit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from tests.conftest import REPOSITORY, paint, run_cli
from tests.test_store import rows_of

# `index` in a process of its own, with the counting extractor and a commit every 16 images.
INDEX = """
import sys, time
from pathlib import Path
import embedsearch
from tests.conftest import CountingExtractor

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


def test_random_kills_lose_nothing(folder: Path, whole: dict[bytes, bytes], tmp_path: Path) -> None:
    seed = 20261124
    rng = random.Random(seed)
    store = tmp_path / "r.es"
    acknowledged = 0
    for trial in range(12):
        process = start(folder, store, slow=0.02)
        time.sleep(rng.uniform(0.3, 2.0))
        process.kill()
        process.communicate()
        now = committed(store)
        assert now >= acknowledged, (seed, trial)
        acknowledged = now
        if now:
            assert rows_of(store).items() <= whole.items(), (seed, trial)
            assert check_store(store, read_data=True)[1] == [], (seed, trial)
    finish(folder, store)
    assert rows_of(store) == whole


STRACE = shutil.which("strace")


@pytest.mark.skipif(STRACE is None, reason="needs strace, which .ci/run installs")
def test_kill_at_system_calls_of_the_writer(
    folder: Path, whole: dict[bytes, bytes], tmp_path: Path
) -> None:
    """SIGKILL at every n-th fsync and rename of a run: the two calls a commit consists of."""
    base = tmp_path / "base.es"
    finish(folder / "0", base)
    paint(folder / "0" / "later.png", 4242)
    try:
        points = 0
        for call in ("fsync", "rename"):
            for number in range(1, 40):
                store = tmp_path / f"{call}{number}.es"
                shutil.copytree(base, store)
                before = rows_of(store)
                inject = f"inject={call}:signal=SIGKILL:when={number}"
                tracer = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
                indexer = [sys.executable, "-c", INDEX, str(folder / "0"), str(store), "0"]
                command = [*tracer, "-e", inject, *indexer]
                done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
                now = rows_of(store)
                assert before.items() <= now.items(), (call, number)
                assert check_store(store, read_data=True)[1] == [], (call, number)
                if done.returncode == 0:
                    break
                points += 1
                finish(folder / "0", store)
                assert len(rows_of(store)) == len(before) + 1
                shutil.rmtree(store)
        assert points >= 12, f"only {points} kill points were reached"
    finally:
        (folder / "0" / "later.png").unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_commit_and_leave(tmp_path: Path, number: signal.Signals) -> None:
    """The command line stops within five seconds, says what is committed, and goes on later."""
    photos = tmp_path / "photos"
    rng = np.random.default_rng(1)
    for seed in range(700):
        paint(photos / f"{seed}.jpg", seed, size=(320, 240))
    store = tmp_path / "s.es"
    for attempt in range(3):
        arguments = ["index", str(photos), "--store", str(store), "--model", "packaged"]
        process = subprocess.Popen(
            [sys.executable, "-m", "embedsearch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        time.sleep(rng.uniform(0.4, 2.0))
        if attempt == 2:  # surely embedding
            time.sleep(0.5)
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode in {128 + number, -number}, errors
        assert time.monotonic() - sent < 5
        assert "Traceback" not in errors
        if process.returncode > 0:
            assert "interrupted" in errors
        if committed(store):
            assert check_store(store, read_data=True)[1] == []
    done = run_cli("index", photos, "--store", store, "--model", "packaged", "--json")
    report = json.loads(done.stdout)
    assert report["images"] == 700 and report["unchanged"] == 700 - report["added"]


def test_two_writers_started_together(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "two.es"
    for trial in range(3):
        shutil.rmtree(store, ignore_errors=True)
        processes = [start(folder, store, slow=0.05) for _ in range(2)]
        results = [process.communicate(timeout=120) for process in processes]
        codes = [process.returncode for process in processes]
        assert 0 in codes, (trial, results)
        for code, (_, errors) in zip(codes, results, strict=True):
            assert code == 0 or "StoreLocked" in errors, errors
        assert len(rows_of(store)) == 160
        assert check_store(store, read_data=True)[1] == []


def test_readers_during_commits_see_whole_generations(tmp_path: Path) -> None:
    """Two readers open and query over and over while ten generations are committed."""
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(20):
        paint(photos / f"{seed:02d}.png", seed)
    finish(photos, store)
    reader = (
        "import sys, json, numpy as np, embedsearch\n"
        "q = np.eye(512, dtype=np.float32)[0]\n"
        "seen = []\n"
        "while True:\n"
        "    with embedsearch.open_store(sys.argv[1]) as s:\n"
        "        keys = sorted(hit.key for hit in s.query(q, k=100))\n"
        "        seen.append((s.manifest.generation, len(keys), s.manifest.live))\n"
        "    print(json.dumps(seen[-1]), flush=True)\n"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", reader, str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for _ in range(2)
    ]
    for seed in range(20, 26):
        paint(photos / f"{seed:02d}.png", seed)
        (photos / f"{seed - 20:02d}.png").unlink()
        finish(photos, store)
    answers = 0
    for process in readers:
        process.terminate()
        out, errors = process.communicate()
        assert "Error" not in errors, errors
        generations = []
        for line in out.splitlines():
            generation, hits, live = json.loads(line)
            assert hits == live == 20
            generations.append(generation)
        assert generations == sorted(generations), "a reader went back to an older generation"
        answers += len(generations)
    assert answers >= 20 and len(set(generations)) >= 3


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
