"""`index --watch`: real events on real folders, one commit a quiet period."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.indexing.watch import watch
from embedsearch.store.current import read_current
from tests.support.library import REPOSITORY, paint, run_cli, wait_for

pytest.importorskip("watchfiles", reason="needs the extra `watch`")
QUIET = 0.6


class Watched:
    """A running `index --watch`."""

    def __init__(self, process: subprocess.Popen[str], store: Path) -> None:
        self.process = process
        self.store = store

    @property
    def generation(self) -> int:
        return read_current(self.store).generation

    def keys(self) -> set[str]:
        with embedsearch.open_store(self.store) as searcher:
            return {image.key for image in searcher.images(1000).images}

    def settled(self) -> int:
        """Return the generation once nothing follows it: a run may commit once more, to tidy."""
        while True:
            before = self.generation
            time.sleep(4 * QUIET)
            if self.generation == before:
                return before

    def until(self, keys: set[str]) -> None:
        wait_for(lambda: self.keys() == keys, 20)

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[list[dict[str, Any]], str]:
        """End it, and return its reports and what it said."""
        started = time.monotonic()
        self.process.send_signal(number)
        out, said = self.process.communicate(timeout=10)
        assert time.monotonic() - started < 1.5
        assert self.process.returncode == 128 + number
        return [json.loads(line) for line in out.splitlines()], said


@contextmanager
def watched(folders: list[Path], store: Path, *options: str) -> Iterator[Watched]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "embedsearch", "index", *map(str, folders)),
            *("--store", str(store), "--watch", "--quiet", str(QUIET), "--json", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        wait_for(lambda: (store / "CURRENT").exists() or process.poll() is not None, 30)
        time.sleep(1.0)  # until it listens
        yield Watched(process, store)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(3):
        paint(tmp_path / "photos" / f"{seed}.png", seed)
    embedsearch.index(tmp_path / "photos", store=tmp_path / "warm.es", model="packaged")
    return tmp_path / "photos"


def test_it_follows_what_happens(photos: Path, tmp_path: Path) -> None:
    with watched([photos], tmp_path / "s.es", "--model", "packaged") as running:
        running.until({"0.png", "1.png", "2.png"})
        paint(photos / "new" / "3.png", 3)
        running.until({"0.png", "1.png", "2.png", "new/3.png"})
        (photos / "0.png").rename(photos / "moved.png")
        (photos / "1.png").unlink()
        running.until({"moved.png", "2.png", "new/3.png"})
        paint(photos / "2.png", 20)
        shutil.rmtree(photos / "new")
        running.until({"moved.png", "2.png"})
        before = running.settled()
        (photos / "notes.txt").write_text("no image")
        (photos / ".hidden.png").write_bytes((photos / "2.png").read_bytes())
        time.sleep(4 * QUIET)
        assert running.generation == before
        reports, said = running.end()
    assert said.splitlines()[-1] == "embedsearch: no longer watching"
    assert [report["added"] for report in reports][:2] == [3, 1]
    assert sum(report["moved"] for report in reports) == 1
    assert sum(report["deleted"] for report in reports) == 2
    assert sum(report["changed"] for report in reports) == 1


def test_a_burst_is_one_commit(photos: Path, tmp_path: Path) -> None:
    with watched([photos], tmp_path / "s.es", "--model", "packaged") as running:
        before = running.generation
        data = (photos / "0.png").read_bytes()
        for number in range(40):
            (photos / f"burst_{number:02d}.png").write_bytes(data + bytes([number]))
            time.sleep(0.03)
        wait_for(lambda: len(running.keys()) == 43, 20)
        time.sleep(3 * QUIET)
        reports, _ = running.end(signal.SIGTERM)
    assert [report["added"] for report in reports] == [3, 40]
    assert running.generation - before <= 2  # of a run: its commit, and the one that sums up


def test_a_file_that_is_still_being_written(photos: Path, tmp_path: Path) -> None:
    data = (photos / "0.png").read_bytes()
    with watched([photos], tmp_path / "s.es", "--model", "packaged") as running:
        with (photos / "slow.png").open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(3 * QUIET)
            file.write(data[len(data) // 2 :])
        running.until({"0.png", "1.png", "2.png", "slow.png"})
        running.end()


def test_a_store_inside_its_folder(photos: Path) -> None:
    with watched([photos], photos / "inside.es", "--model", "packaged") as running:
        time.sleep(4 * QUIET)
        before = running.generation
        paint(photos / "3.png", 3)
        running.until({f"{n}.png" for n in range(4)})
        time.sleep(2 * QUIET)  # the run that added it may commit once more
        after = running.generation
        assert after - before <= 2
        time.sleep(5 * QUIET)
        assert running.generation == after
        running.end()


def test_a_folder_that_vanishes_is_waited_for(photos: Path, tmp_path: Path) -> None:
    with watched([photos], tmp_path / "s.es", "--model", "packaged") as running:
        photos.rename(tmp_path / "unplugged")
        time.sleep(4 * QUIET)
        assert len(running.keys()) == 3
        photos.mkdir()  # the mount point, empty
        time.sleep(4 * QUIET)
        assert len(running.keys()) == 3
        photos.rmdir()
        (tmp_path / "unplugged").rename(photos)
        paint(photos / "3.png", 3)
        running.until({f"{n}.png" for n in range(4)})
        _, said = running.end()
    assert "photos has vanished" in said and "was left unchanged" in said


def test_another_writer_is_waited_for(photos: Path, tmp_path: Path) -> None:
    from embedsearch.store.lock import WriterLock

    with watched([photos], tmp_path / "s.es", "--model", "packaged") as running:
        lock = WriterLock(tmp_path / "s.es")
        paint(photos / "3.png", 3)
        time.sleep(4 * QUIET)
        assert len(running.keys()) == 3
        lock.release()
        running.until({f"{n}.png" for n in range(4)})
        _, said = running.end()
    assert said.count("waiting: ") == 1


def test_columns_are_followed_too(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    def said(column: str) -> set[Any]:
        with embedsearch.open_store(tmp_path / "s.es") as searcher:
            return {image.metadata.get(column) for image in searcher.images(10).images}

    table = tmp_path / "labels.csv"
    table.write_text("name,label\n0.png,old\n")
    options = ("--model", "packaged")
    with watched([photos], tmp_path / "s.es", *options, "--metadata=~/labels.csv") as running:
        wait_for(lambda: "old" in said("label"), 20)
        table.write_text("name,label\n0.png,new one\n")
        wait_for(lambda: "new one" in said("label"), 20)
        running.end()
    with watched([photos], tmp_path / "s.es", *options, "--sidecars") as running:
        (photos / "0.png.txt").write_text("a caption")
        wait_for(lambda: "a caption" in said("caption"), 20)
        running.end()


def test_what_cannot_be_watched(photos: Path, tmp_path: Path) -> None:
    for arguments, code, words in (
        ((photos, "--dry-run"), 2, "watching excludes"),
        ((photos, "--rebuild"), 2, "watching excludes"),
        ((photos, "--quiet", "0"), 2, "above 0"),
        ((tmp_path / "none",), 2, "none"),
        (("s3://bucket/photos",), 2, "only folders of this machine"),
    ):
        done = run_cli("index", *arguments, "--store", tmp_path / "t.es", "--watch")
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    with pytest.raises(UsageError, match="above 0"):
        watch([photos], store=tmp_path / "t.es", quiet_s=-1)


def test_without_watches_it_polls(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a kernel without any watches left, which a test must not bring about."""
    import watchfiles

    from embedsearch.core.session import Session

    real = watchfiles.watch
    asked: list[Any] = []
    said: list[str] = []

    def refusing(*paths: str, force_polling: bool | None = None, **options: Any) -> Any:
        asked.append(force_polling)
        if not force_polling:
            raise OSError("OS file watch limit reached")
        return real(*paths, force_polling=True, **options)

    monkeypatch.setattr(watchfiles, "watch", refusing)
    reports: list[Any] = []
    started = time.monotonic()

    def stop() -> int:
        if asked == [None, True] and not (photos / "3.png").exists():
            time.sleep(0.5)
            paint(photos / "3.png", 3)
        return 15 if len(reports) == 2 or time.monotonic() - started > 30 else 0

    with pytest.raises(embedsearch.Interrupted):
        watch(
            [photos],
            store=tmp_path / "s.es",
            config=embedsearch.IndexConfig(model="packaged"),
            quiet_s=QUIET,
            session=Session(notice=said.append, stop=stop),
            on_report=reports.append,
        )
    assert asked == [None, True] and [report.added for report in reports] == [3, 1]
    assert any("limit reached" in words for words in said)
    assert os.path.exists(photos / "3.png")


def test_names_that_no_watcher_reads_are_scanned(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedsearch.core.session import Session
    from embedsearch.indexing import watch as watching

    monkeypatch.setattr(watching, "_SCAN_S", 1)
    odd = os.path.join(os.fsencode(photos), b"not utf-8 \xff\xfe")
    os.makedirs(odd)
    said: list[str] = []
    reports: list[Any] = []
    started = time.monotonic()

    def stop() -> int:
        for number in range(len(reports)):  # one more after each run
            path = os.path.join(odd, b"\xff%d.png" % number)
            if not os.path.exists(path):
                paint(tmp_path / "new.png", 60 + number).rename(os.fsdecode(path))
        return 15 if len(reports) == 4 or time.monotonic() - started > 40 else 0

    with pytest.raises(embedsearch.Interrupted):
        watch(
            [photos],
            store=tmp_path / "s.es",
            config=embedsearch.IndexConfig(model="packaged"),
            quiet_s=0.2,
            session=Session(notice=said.append, stop=stop),
            on_report=reports.append,
        )
    assert sum(report.added for report in reports) == 3 + 3, said
    assert any("scanning the folders" in words for words in said)


@pytest.mark.parametrize(
    ("kind", "poll_s", "seconds"), [(b"nfs4", None, 5.0), (b"fuse.sshfs", 1.0, 1.0)]
)
def test_where_no_events_come_it_looks_by_itself(
    kind: bytes,
    poll_s: float | None,
    seconds: float,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for a network file system, whose changes by others the kernel does not tell."""
    import watchfiles

    from embedsearch.core.session import Session
    from embedsearch.indexing import watch as watching

    def silent(*_: str, **__: Any) -> Iterator[set[Any]]:
        while True:
            time.sleep(0.1)
            yield set()

    monkeypatch.setattr(watchfiles, "watch", silent)
    monkeypatch.setattr(watching, "file_system", lambda _: kind)
    said: list[str] = []
    times: list[float] = []
    started = time.monotonic()

    def stop() -> int:
        if len(times) == 1 and not (photos / "3.png").exists():
            paint(photos / "3.png", 3)
        return 15 if len(times) == 2 or time.monotonic() - started > 40 else 0

    with pytest.raises(embedsearch.Interrupted):
        watch(
            [photos],
            store=tmp_path / "s.es",
            config=embedsearch.IndexConfig(model="packaged", poll_s=poll_s),
            quiet_s=QUIET,
            session=Session(notice=said.append, stop=stop),
            on_report=lambda _: times.append(time.monotonic()),
        )
    assert len(times) == 2 and seconds <= times[1] - times[0] < seconds + 8
    assert any("does not tell" in words for words in said) == (poll_s is None)


def test_file_systems_that_tell_nothing_of_others() -> None:
    from embedsearch.indexing.watch import _is_blind
    from embedsearch.store.lock import file_system

    for kind in (b"nfs", b"nfs4", b"cifs", b"smb3", b"9p", b"overlay", b"vboxsf", b"fuse.sshfs"):
        assert _is_blind(kind), kind
    for kind in (b"ext4", b"btrfs", b"xfs", b"tmpfs", b"fuseblk", b""):
        assert not _is_blind(kind), kind
    if Path("/proc/self/mountinfo").exists():
        assert file_system(Path("/proc")) == b"proc"
