"""`--engine ray`: what the local engine makes, on this machine and on three nodes that may die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import Interrupted, StorageError
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.indexing.sync import index
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.units import UNITS_NAME
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.stores import live_rows

CONFIG = IndexConfig(model="packaged", precision="fp32")


def assert_same(store: Path, folders: list[Path], other: Path) -> None:
    """The rows are those of the local engine, the vectors to the last bit but one of float16."""
    report = index(folders, store=other, config=CONFIG)
    mine, theirs = (
        {(row["root"], row["key"]): row for row in live_rows(place)} for place in (store, other)
    )
    assert mine.keys() == theirs.keys() and len(mine) == report.images
    for name, row in mine.items():
        difference = np.subtract(row.pop("vector"), theirs[name].pop("vector"))
        assert np.abs(difference).max() < 1e-3
        assert {**row, "row": 0} == {**theirs[name], "row": 0}
    assert list(failures(store)) == list(failures(other))
    assert check_store(store, read_data=True)[1] == []


@pytest.mark.scale
def test_the_command_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    shutil.copytree(SAMPLES, photos)
    (photos / "broken.jpg").write_bytes(b"no picture")
    store = tmp_path / "s.es"
    options = ("--store", store, "--model", "packaged", "--precision", "fp32", "--engine", "ray")
    done = run_cli("index", photos, *options, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == 1 and report["images"] == report["added"]
    assert "Traceback" not in done.stderr and "core_worker" not in done.stderr
    assert_same(store, [photos], tmp_path / "local.es")
    again = run_cli("index", photos, *options)
    assert again.returncode == 0 and "nothing to embed" in again.stdout
    for wrong in (["--engine", "spark"], ["--engine", "ray", "--unit", "0/2"]):
        assert run_cli("index", photos, "--store", store, *wrong).returncode == 2


NODE = {"num_cpus": 2, "object_store_memory": 300 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three raylets on this machine, each a node of its own to Ray."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    made.others = [made.add_node(num_cpus=2, object_store_memory=300 << 20) for _ in range(2)]
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_ADDRESS", made.address)
    yield made
    patch.undo()
    made.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(1500):
        paint(folder / f"{number % 7}" / f"{number:04d}.png", number)
    (folder / "0" / "broken.png").write_bytes(b"no picture")
    return folder


def run(folders: list[Path], store: Path, **options: Any) -> Any:
    from embedsearch.indexing.distributed.ray import index_on_ray

    return index_on_ray([str(f) for f in folders], store=store, config=CONFIG, **options)


@pytest.mark.scale
def test_three_nodes_make_what_one_process_makes(cluster: Any, many: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    report = run([many], tmp_path / "s.es", on_progress=heard.append)
    assert (report.added, report.failed, report.images) == (1500, 1, 1500)
    assert heard[-1].done == heard[-1].total == 1501 and heard[-1].failed == 1
    assert_same(tmp_path / "s.es", [many], tmp_path / "local.es")
    paint(many / "0" / "0000.png", 9999)
    (many / "1" / "0001.png").unlink()
    paint(many / "2" / "new.png", 9998)
    report = run([many], tmp_path / "s.es")
    assert (report.added, report.changed, report.images) == (1, 1, 1500)


@pytest.mark.scale
def test_a_cluster_without_a_free_cpu_is_given_up(cluster: Any, many: Path, tmp_path: Path) -> None:
    """In one line and within its time; the next run goes on, and nothing was committed."""
    import ray

    ray.init(log_to_driver=False)
    try:
        held = [ray.remote(_Holder).options(num_cpus=1).remote() for _ in range(6)]
        ray.get([one.ready.remote() for one in held])
        started = time.monotonic()
        with pytest.raises(StorageError, match="the cluster was silent for 15 s"):
            run([many], tmp_path / "s.es", stall_s=15)
        assert time.monotonic() - started < 60
        assert read_current(tmp_path / "s.es").live == 0
    finally:
        ray.shutdown()
    assert run([many], tmp_path / "s.es").failed == 1


class _Holder:
    """Holds a CPU."""

    def ready(self) -> bool:
        return True


@pytest.mark.scale
def test_a_job_that_is_stopped_goes_on(cluster: Any, many: Path, tmp_path: Path) -> None:
    """Parts that are on the disk are not made again."""
    done: list[Progress] = []
    session = Session(stop=lambda: signal.SIGTERM if done else 0)
    with pytest.raises(Interrupted):
        run([many], tmp_path / "s.es", session=session, on_progress=done.append)
    parts = list((tmp_path / "s.es" / UNITS_NAME / "parts").iterdir())
    assert parts
    heard: list[Progress] = []
    report = run([many], tmp_path / "s.es", on_progress=heard.append)
    assert report.images == read_current(tmp_path / "s.es").live
    assert heard[-1].total <= 1501 - 256 * (len(parts) - 1)


@pytest.mark.scale
def test_a_node_that_is_killed(cluster: Any, many: Path, tmp_path: Path) -> None:
    """The job completes, or fails with a line within 300 s and a rerun completes."""
    raylet = cluster.others[0].all_processes["raylet"][0].process
    killed: list[float] = []

    def kill(_: Progress) -> None:
        if not killed:
            os.kill(raylet.pid, signal.SIGKILL)
            killed.append(time.monotonic())

    try:
        report = run([many], tmp_path / "s.es", on_progress=kill)
    except StorageError as error:
        assert "\n" not in str(error) and "the same command" in str(error)
        assert time.monotonic() - killed[0] < 300
        report = run([many], tmp_path / "s.es")
    assert time.monotonic() - killed[0] < 600
    assert_same(tmp_path / "s.es", [many], tmp_path / "local.es")
    assert report.failed == 1


@pytest.mark.scale
def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "embedsearch", "index", str(SAMPLES), "--engine", "ray"]
    options = ["--store", str(tmp_path / "s.es"), "--model", "packaged"]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 4 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
