"""One writer at a time: who is told, who waits, and what a note of another host is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedsearch.core.errors import (
    StoreLocked,
)
from embedsearch.store import lock
from embedsearch.store.lock import WriterLock
from embedsearch.store.writer import create_store
from tests.support.library import REPOSITORY, run_cli

HOLD = """
import sys, time
from pathlib import Path
from embedsearch.store import lock
from embedsearch.store.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    store = tmp_path / "locked.es"
    create_store(store)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield store, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_told_who_holds_the_lock(
    holder: tuple[Path, subprocess.Popen[str]], photos: Path
) -> None:
    store, process = holder
    done = run_cli("index", photos, "--store", store, "--model", "packaged")
    assert done.returncode == 3
    assert f"process {process.pid} on" in done.stderr and "--wait" in done.stderr
    os.kill(process.pid, 19)  # SIGSTOP: a stopped holder still excludes
    with pytest.raises(StoreLocked):
        WriterLock(store)
    process.kill()
    process.wait()
    WriterLock(store, wait_s=5.0).release()  # the kernel freed it, whatever the file says


def test_waiting_for_the_lock(holder: tuple[Path, subprocess.Popen[str]]) -> None:
    store, _ = holder
    started = time.monotonic()
    with pytest.raises(StoreLocked):
        WriterLock(store, wait_s=0.5)
    assert 0.4 < time.monotonic() - started < 3


def test_a_young_note_of_another_host_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "is_on_local_disk", lambda folder: False)
    create_store(tmp_path)
    note = {"pid": 1, "host": "elsewhere", "time": time.time() - 60}
    (tmp_path / "writer.lock").write_text(json.dumps(note))
    with pytest.raises(StoreLocked, match="elsewhere"):
        WriterLock(tmp_path)
    note["time"] = time.time() - 3600
    (tmp_path / "writer.lock").write_text(json.dumps(note))
    WriterLock(tmp_path).release()
    assert (tmp_path / "writer.lock").read_text() == ""
