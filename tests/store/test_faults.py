"""The store is written whole or not at all, whichever call fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import (
    DamagedStore,
    StorageError,
)
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.files import write_new
from embedsearch.store.writer import create_store
from tests.support.library import paint, run_cli
from tests.support.stores import contents, rows_of


class Faults:
    """Make the n-th call of a kind that `files` makes fail, once or from then on."""

    CALLS = ("open", "write", "fsync", "rename", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch, error: int, at: int, lasting: bool) -> None:
        self.count = 0
        self._at, self._error, self._lasting = at, error, lasting
        for name in ("open", "write", "fsync"):
            patch.setattr(os, name, self._wrap(getattr(os, name), name), raising=True)
        patch.setattr(Path, "rename", self._wrap(Path.rename, "rename"))

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or (len(args) > 1 and args[1] & os.O_CREAT)
            if writes and self._is_ours(args):
                self.count += 1
                if self.count == self._at or (self._lasting and self.count >= self._at):
                    raise OSError(self._error, os.strerror(self._error))
            return real(*args, **kwargs)

        return call

    @staticmethod
    def _is_ours(args: tuple[Any, ...]) -> bool:
        """Pipes and terminals of the test run are not ours to break."""
        if isinstance(args[0], int):
            return ".es" in str(Path(f"/proc/self/fd/{args[0]}").readlink())
        return ".es" in os.fspath(args[0])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks descriptors up in /proc")
def test_each_failing_call_leaves_the_old_generation(
    store: Path, photos: Path, extractor: Callable[..., Any], error: int, lasting: bool
) -> None:
    paint(photos / "a" / "new.png", 99)
    before, old_rows = contents(store), rows_of(store)
    points = 0
    while True:
        points += 1
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, error, points, lasting)
            try:
                embedsearch.index(photos, store=store, extractor_factory=extractor)
                failed = False
            except StorageError as caught:
                failed = True
                assert ("disk is full" in str(caught)) == (error == errno.ENOSPC)
            reached = faults.count >= points
        if not reached:
            break
        assert check_store(store, read_data=True)[1] == []
        now = rows_of(store)
        assert {key: now[key] for key in old_rows} == old_rows, "a committed row was lost"
        if failed and read_current(store).generation == json.loads(before["CURRENT"])["generation"]:
            kept = {name: data for name, data in contents(store).items() if name in before}
            assert kept == before, "a failed run changed a file of the committed generation"
        shutil.rmtree(store)
        for name, data in before.items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(data)
        (store / "tmp").mkdir()
    assert points > 15, f"only {points} calls were seen: the injection does not reach the writer"


def test_the_fault_harness_catches_a_writer_in_place(
    store: Path, photos: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: CURRENT overwritten in place is destroyed by a full disk."""

    def in_place(store: Path, name: str, content: bytes) -> None:
        with (store / name).open("wb") as file:
            file.flush()
            raise StorageError("full")

    paint(photos / "a" / "new.png", 99)
    monkeypatch.setattr("embedsearch.store.writer.replace_file", in_place)
    with pytest.raises(StorageError):
        embedsearch.index(photos, store=store, extractor_factory=extractor)
    with pytest.raises(DamagedStore):
        check_store(store, read_data=True)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store(tmp_path / "s.es")
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, bytes(data)[:7]))
    record = write_new(tmp_path / "s.es", "s", 1, "parquet", [b"0123456789" * 10, b"end"])
    assert (tmp_path / "s.es" / record.relative).read_bytes() == b"0123456789" * 10 + b"end"
    assert record.bytes == 103


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_really_full_disk(photos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = run_cli("index", photos, "--store", disk / "s.es", "--model", "packaged")
        assert done.returncode == 4, done.stdout + done.stderr
        assert "disk is full" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert run_cli("query", photos / "a/01.png", "--store", disk / "s.es").returncode in {0, 7}
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        done = run_cli("index", photos, "--store", disk / "s.es", "--model", "packaged")
        assert done.returncode == 0, done.stderr
        assert run_cli("check", "--store", disk / "s.es").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
