"""Decoding processes that crash, hang, eat memory or babble cost one file each."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError
from embedsearch.core.records import Failure, ImageRef, Reason
from embedsearch.images.decode import crew
from embedsearch.images.decode.pool import SPARE_REGIONS, DecodedBatch, DecodePool
from embedsearch.images.decode.process import DecodeJob
from tests.support.jobs import decode_job
from tests.support.library import paint, wait_for

# Replaces decode() in the workers: the name of the file says what the decoder does with it.
FAKE = """
import os, signal, sys, time
import embedsearch.images.decode.image as image
real = image.decode
def decode(file, side, limits, **options):
    head = file.read(8); file.seek(0)
    if head == b"SEGFAULT": os.kill(os.getpid(), signal.SIGSEGV)
    if head == b"EXITZERO": os._exit(0)
    if head == b"HANGHANG": time.sleep(3600)
    if head == b"MEMORYXX": return [bytearray(1 << 28) for _ in range(100)]
    if head == b"BABBLEXX":
        os.write(1, b"noise " * 10_000); os.write(2, b"noise " * 10_000)
        raise image.DecodeError(image.Reason.CORRUPT, "babbled")
    if head == b"RAISEXXX": raise RuntimeError("a bug of ours")
    return real(file, side, limits, **options)
image.decode = decode
"""


@pytest.fixture
def fake_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(hook))


def folder_of(tmp_path: Path, bad: list[str], good: int) -> tuple[Path, list[str]]:
    """A folder where bad files stand among good ones; returns it and the names in order."""
    folder = tmp_path / "mixed"
    names = []
    for number in range(good):
        names.append(paint(folder / f"{number:03d}.png", number).name)
    for number, kind in enumerate(bad):
        path = folder / f"{(number + 1) * good // (len(bad) + 1):03d}_{kind}.jpg"
        path.write_bytes(kind.encode() + b" and more")
        names.append(path.name)
    return folder, sorted(names)


def jobs(folder: Path, names: list[str]) -> Iterator[DecodeJob]:
    return (decode_job(ImageRef(0, name, -1, -1), str(folder)) for name in names)


def gather(batches: Iterator[DecodedBatch]) -> tuple[list[str], dict[str, Failure]]:
    good: list[str] = []
    failed: dict[str, Failure] = {}
    for batch in batches:
        good += [ref.key for ref in batch.images.refs]
        failed |= {failure.key: failure for failure in batch.failures}
    return good, failed


@pytest.mark.usefixtures("fake_decoder")
def test_each_misbehaviour_costs_its_file_only(tmp_path: Path) -> None:
    wanted = {
        "SEGFAULT": Reason.DECODER_CRASH,
        "EXITZERO": Reason.DECODER_CRASH,
        "HANGHANG": Reason.TIMEOUT,
        "MEMORYXX": Reason.MEMORY,
        "BABBLEXX": Reason.CORRUPT,
        "RAISEXXX": Reason.DECODER_CRASH,
    }
    folder, names = folder_of(tmp_path, list(wanted), good=40)
    limits = DecodeLimits(image_timeout_s=3.0, worker_memory_bytes=800 << 20)
    with DecodePool(32, limits, workers=2, batch=8) as pool:
        good, failed = gather(pool.run(jobs(folder, names)))
    assert {name.partition("_")[2][:8]: f.reason for name, f in failed.items()} == wanted
    assert sorted(good) == [name for name in names if "_" not in name], "a neighbour was lost"
    crash = next(f for name, f in failed.items() if "SEGFAULT" in name)
    assert "signal 11" in crash.detail


@pytest.mark.usefixtures("fake_decoder")
def test_a_hanging_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, ["HANGHANG"] * 3, good=60)
    limits = DecodeLimits(image_timeout_s=1.5)
    started = time.monotonic()
    with DecodePool(32, limits, workers=2, batch=8) as pool:
        good, failed = gather(pool.run(jobs(folder, names)))
    assert len(good) == 60 and len(failed) == 3
    assert time.monotonic() - started < 12


def test_a_worker_killed_from_outside_costs_no_file(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, [], good=400)
    with DecodePool(32, DecodeLimits(), workers=2, batch=8) as pool:
        batches = pool.run(jobs(folder, names))
        good = [ref.key for ref in next(batches).images.refs]
        for worker in list(pool.crew.workers):
            os.kill(worker.child.process.pid, signal.SIGKILL)
        rest, failed = gather(batches)
    assert good + rest == names and not failed


def test_workers_killed_one_after_the_other_cost_no_file(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, [], good=1)
    with DecodePool(32, DecodeLimits(), workers=2, batch=1) as pool:
        first, second = list(pool.crew.workers)
        while not (first.ready and second.ready):
            assert gather(pool.run(jobs(folder, names))) == (names, {})
        for worker in (first, second):
            os.kill(worker.child.process.pid, signal.SIGSTOP)
        batches = pool.run(jobs(folder, names))
        wait_for(lambda: bool(first.tasks))
        first.child.process.kill()
        wait_for(lambda: first not in pool.crew.workers)
        second.child.process.kill()
        assert gather(batches) == (names, {})


def test_pixels_lie_in_job_order_across_the_ring(tmp_path: Path) -> None:
    """More batches than the ring holds: each pixel block belongs to its ref."""
    count = 8 * (SPARE_REGIONS + 4) + 5
    folder, names = folder_of(tmp_path, [], good=count)
    alone: dict[str, bytes] = {}
    with DecodePool(16, DecodeLimits(), workers=1, batch=1) as pool:
        for batch in pool.run(jobs(folder, names)):
            alone[batch.images.refs[0].key] = batch.images.pixels[0].tobytes()
    with DecodePool(16, DecodeLimits(), workers=3, batch=8) as pool:
        seen = 0
        for batch in pool.run(jobs(folder, names)):
            for ref, pixels in zip(batch.images.refs, batch.images.pixels, strict=True):
                assert pixels.tobytes() == alone[ref.key]
                seen += 1
    assert seen == count and len(set(alone.values())) == count


def test_a_pool_serves_one_run_after_another(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, [], good=5)
    with DecodePool(16, DecodeLimits(), workers=1, batch=4) as pool:
        for _ in range(3):
            good, failed = gather(pool.run(jobs(folder, names)))
            assert good == names and not failed


def test_stopping_ends_the_run_at_once(tmp_path: Path) -> None:
    folder, names = folder_of(tmp_path, [], good=50)
    stop = threading.Event()
    with DecodePool(16, DecodeLimits(), workers=1, batch=4) as pool:
        batches = pool.run(jobs(folder, names), lambda: int(stop.is_set()))
        next(batches)
        stop.set()
        assert list(batches) == []


def test_a_worker_that_cannot_start_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['numpy'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder, names = folder_of(tmp_path, [], good=3)
    with (
        DecodePool(16, DecodeLimits(), workers=2) as pool,
        pytest.raises(EmbedSearchError, match=r"does not start.*numpy"),
    ):
        gather(pool.run(jobs(folder, names)))


def test_a_slow_start_is_no_fault_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process that starts hangs; the next one does not."""
    hook = f"import os, time\ntry: os.mkdir({str(tmp_path / 'first')!r})\n"
    (tmp_path / "sitecustomize.py").write_text(hook + "except OSError: pass\nelse: time.sleep(99)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(crew, "_START_S", 4.0)
    folder, names = folder_of(tmp_path, [], good=3)
    with DecodePool(16, DecodeLimits(image_timeout_s=1.0)) as pool:
        assert gather(pool.run(jobs(folder, names))) == (names, {})


def test_the_current_folder_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of photos with a numpy.py in it must not run that."""
    folder, names = folder_of(tmp_path, [], good=2)
    touched = tmp_path / "touched"
    for name in ("numpy.py", "PIL.py", "embedsearch.py"):
        (folder / name).write_text(f"open({str(touched)!r}, 'w')")
    monkeypatch.chdir(folder)
    with DecodePool(16, DecodeLimits(), workers=1) as pool:
        good, _ = gather(pool.run(jobs(folder, names)))
    assert good == names and not touched.exists()


def test_files_that_change_vanish_or_are_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    path = paint(folder / "changed.png", 1)
    stat = path.stat()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "link.jpg").symlink_to(path)
    (folder / "big.jpg").write_bytes(b"")
    os.truncate(folder / "big.jpg", 1 << 40)
    refs = [
        ImageRef(0, "changed.png", stat.st_size, stat.st_mtime_ns - 1),
        ImageRef(0, "gone.png", 1, 1),
        ImageRef(0, "fifo.jpg", -1, -1),
        ImageRef(0, "link.jpg", -1, -1),
        ImageRef(0, "big.jpg", -1, -1),
    ]
    with DecodePool(16, DecodeLimits(), workers=1) as pool:
        good, failed = gather(pool.run(decode_job(ref, str(folder)) for ref in refs))
    assert not good
    assert {name: f.reason for name, f in failed.items()} == {
        "changed.png": Reason.CHANGED,
        "gone.png": Reason.VANISHED,
        "fifo.jpg": Reason.NOT_REGULAR,
        "link.jpg": Reason.NOT_REGULAR,
        "big.jpg": Reason.TOO_BIG,
    }
