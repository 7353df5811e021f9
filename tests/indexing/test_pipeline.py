"""Stages beside each other: order, errors, lanes, workers that are added, the slowest named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch.core.config import DecodeLimits, IndexConfig
from embedsearch.core.errors import MissingLibrary
from embedsearch.core.records import ImageRef
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.indexing.bottleneck import Setup, advice, shares, slowest_stage, summary
from embedsearch.indexing.pipeline import Pipeline
from embedsearch.network.feed import CPU_AHEAD
from tests.support.extractor import Stand, told
from tests.support.jobs import decode_job
from tests.support.library import paint

SIDE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(100):
        paint(tmp_path / "many" / f"{number:03d}.png", number)
    (tmp_path / "many" / "050x.png").write_bytes(b"no picture")
    return tmp_path / "many"


def jobs(folder: Path) -> Iterator[DecodeJob]:
    names = sorted(path.name for path in folder.iterdir())
    return (decode_job(ImageRef(0, name, -1, -1), str(folder)) for name in names)


def alone(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    with DecodePool(SIDE, DecodeLimits()) as pool:
        return {
            ref.key: told(batch.images.pixels)[place]
            for batch in pool.run(jobs(folder))
            for place, ref in enumerate(batch.images.refs)
        }


@pytest.mark.parametrize("lanes", [1, 3])
def test_every_image_gets_its_own_vector_in_order(folder: Path, lanes: int) -> None:
    wanted = alone(folder)
    keys, failed = [], []
    with Pipeline(SIDE, IndexConfig(device="cpu"), jobs(folder), 101) as pipeline:
        for batch in pipeline.embed(Stand(lanes, 0.003)):
            for ref, vector in zip(batch.images.refs, batch.images.vectors, strict=True):
                assert np.array_equal(vector, wanted[ref.key])
                keys.append(ref.key)
            failed += batch.failures
    assert keys == sorted(wanted) and len(keys) == 100
    assert [failure.key for failure in failed] == ["050x.png"]


def test_lanes_work_beside_each_other(folder: Path) -> None:
    stand = Stand(lanes=3, seconds=0.05)
    with Pipeline(SIDE, IndexConfig(device="cpu"), jobs(folder), 101) as pipeline:
        assert sum(len(batch.images.refs) for batch in pipeline.embed(stand)) == 100
        assert pipeline.busy_s()["embed"] == pytest.approx(stand.calls * 0.05 / 3, rel=0.3)
    assert stand.most_busy == 3


def test_what_is_not_asked_for_is_not_made(folder: Path) -> None:
    """A caller that is slow, as a full disk is, keeps the stages before it waiting."""
    for number in range(200, 500):
        paint(folder / f"{number}.png", number)
    stand = Stand()
    with Pipeline(SIDE, IndexConfig(device="cpu"), jobs(folder), 401) as pipeline:
        batches = pipeline.embed(stand)
        next(batches)
        time.sleep(1.0)
        assert stand.calls <= 1 + stand.lanes + CPU_AHEAD
        assert sum(len(batch.images.refs) for batch in batches) > 300


def test_an_error_of_a_lane_reaches_the_caller_and_all_ends(folder: Path) -> None:
    class Broken(Stand):
        def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            if self.calls == 4:
                raise MissingLibrary("the device went away")
            return super().__call__(pixels)

    before = threading.active_count()
    with (
        pytest.raises(MissingLibrary, match="went away"),
        Pipeline(SIDE, IndexConfig(device="cpu"), jobs(folder), 101) as pipeline,
    ):
        for _ in pipeline.embed(Broken(lanes=2)):
            pass
    assert threading.active_count() == before


def test_an_error_of_the_caller_ends_all_within_a_second(folder: Path) -> None:
    before = threading.active_count()
    started = time.monotonic()
    with (
        pytest.raises(OSError, match="full"),
        Pipeline(SIDE, IndexConfig(device="cpu"), jobs(folder), 101) as pipeline,
    ):
        for _ in pipeline.embed(Stand(lanes=2, seconds=0.01)):
            raise OSError("full disk")
    assert time.monotonic() - started < 5
    assert threading.active_count() == before


SLOW = """
import time
import embedsearch.images.decode.image as image
real = image.decode
def decode(file, side, limits, **options):
    head = file.read(4); file.seek(0)
    time.sleep(4.0 if head == b"LATE" else 0.02)
    if head == b"LATE": raise image.DecodeError(image.Reason.CORRUPT, "late")
    return real(file, side, limits, **options)
image.decode = decode
"""


@pytest.fixture
def slow_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))


@pytest.mark.usefixtures("slow_decoder")
def test_workers_are_added_while_the_caller_waits(folder: Path) -> None:
    with DecodePool(SIDE, DecodeLimits(), workers=1, max_workers=4, batch=8) as pool:
        seen = [pool.workers for _ in pool.run(jobs(folder))]
    assert seen[0] == 1 and 2 <= seen[-1] <= 4
    with DecodePool(SIDE, DecodeLimits(), workers=1, max_workers=4, batch=8) as pool:
        for batch in pool.run(jobs(folder)):  # the mutant: a caller that is slower than one worker
            time.sleep(0.03 * len(batch.images.refs))
            assert pool.workers == 1


@pytest.mark.usefixtures("slow_decoder")
def test_a_slow_file_holds_up_nobody(folder: Path) -> None:
    """Of 101 files two take four seconds each, one at the front: the rest is there before."""
    for name in ("000.png", "003.png"):
        (folder / name).write_bytes(b"LATE")
    arrived: dict[str, float] = {}
    started = time.monotonic()
    with DecodePool(SIDE, DecodeLimits(), workers=2, max_workers=2, batch=8) as pool:
        for batch in pool.run(jobs(folder)):
            now = time.monotonic() - started
            arrived |= {ref.key: now for ref in batch.images.refs}
            arrived |= {failure.key: now for failure in batch.failures}
    assert len(arrived) == 101
    late = {key for key, seconds in arrived.items() if seconds > 3.9}
    # Behind each slow file at most one more was already sent to the same worker.
    assert {"000.png", "003.png"} <= late and len(late) <= 4


def test_the_slowest_stage_and_what_helps() -> None:
    cpu = Setup("cpu", "bf16", workers=1, input_side=224)
    gpu = Setup("cuda", "bf16", workers=64, input_side=224)
    busy = {"read": 1.0, "decode": 71.0, "embed": 22.0, "write": 0.2}
    assert slowest_stage(busy) == "decode"
    assert summary(busy, 100.0, gpu).startswith("decode 71 % · embed 22 % · read 1 % → more proc")
    assert slowest_stage({"read": 40.0, "decode": 35.0, "embed": 60.0}) == "read"
    assert slowest_stage({"read": 0.0, "decode": 0.0}) == ""
    assert advice("embed", replace(cpu, int8_pays=True)) == "precision=int8"
    assert "GPU" in advice("embed", cpu), "int8 was not measured here, or is no faster"
    assert "GPU" in advice("embed", Setup("cpu", "int8", 1, 224))
    assert advice("embed", Setup("cuda", "fp32", 8, 224)) == "precision=auto"
    assert shares({"embed": 2.0, "load": 30.0}, 10.0) == {"embed": 0.2, "load": 1.0}


def test_workers_asked_for_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("config", "system"):
        monkeypatch.setattr(f"embedsearch.core.{module}.available_processors", lambda: 8)
    assert IndexConfig().worker_range(on_gpu=False) == (1, 8)
    assert IndexConfig().worker_range(on_gpu=True) == (8, 8)
    assert IndexConfig(workers=3).worker_range(on_gpu=True) == (3, 3)
    assert IndexConfig(workers=999).worker_range(on_gpu=False) == (16, 16)
