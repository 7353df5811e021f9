"""Folders to a store on a Ray cluster; in: folders and a store that all its machines see.

plan → the driver (ray_driver.py), watched from here → commit. A job that fails or stalls ends
with a one-line error, and the same call continues from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import Interrupted, MissingLibrary, StorageError
from embedsearch.core.install import install_command
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.core.system import child_environment, python_command
from embedsearch.indexing.distributed.commit import CommitReport, commit
from embedsearch.indexing.distributed.parts import chunks_left, pack
from embedsearch.indexing.distributed.run import check_same, open_or_make_plan

START_S = 60.0  # until Ray answers
STALL_S = 240.0  # without a finished chunk, before the job is canceled
_POLL_S = 0.2
_END_S = 15.0  # for a driver that was told to end
_GOES_ON = "the same command goes on from there"

_Rows = queue.SimpleQueue[dict[str, Any] | None]


@checked
def index_on_ray(
    folders: list[str],
    *,
    store: Path,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stall_s: float = STALL_S,
) -> CommitReport | None:
    """Index folders on the cluster that RAY_ADDRESS names, or on Ray on this machine; commit.

    Returns None if nothing had to be embedded. Raises what `plan` and `commit` raise, Interrupted,
    MissingLibrary, and StorageError for a cluster that fails or is silent for `stall_s` seconds.
    """
    if find_spec("ray") is None:
        raise MissingLibrary(f"engine ray needs Ray: {install_command('ray')}", "engine")
    config, session = config or IndexConfig(), session or Session()
    if (opened := open_or_make_plan(store, folders, 1, config, session)) is None:
        return None
    check_same(opened, config, session)
    if chunks := chunks_left(store, opened):
        total = sum(chunk.images for chunk in chunks)
        with _driver(store, config) as rows:
            _follow(rows, total, session, on_progress, stall_s)
    for unit in opened.units:
        pack(store, opened, unit)  # what a lost machine left undone
    return commit(store, wait_s=config.wait_s, session=session)


def _follow(
    rows: _Rows,
    total: int,
    session: Session,
    on_progress: Callable[[Progress], None] | None,
    stall_s: float,
) -> None:
    """Read the driver's lines until it is done. Raises Interrupted and StorageError."""
    session.keep()
    started = heard = time.monotonic()
    done = failed = 0
    is_up = False
    while True:
        if number := session.stop():
            raise Interrupted(f"interrupted; {_GOES_ON}", number)
        try:
            row = rows.get(timeout=_POLL_S)
        except queue.Empty:
            if not is_up and time.monotonic() - started > START_S:
                where = os.environ.get("RAY_ADDRESS", "this machine")
                raise StorageError(f"no Ray cluster answers at {where}; {_GOES_ON}") from None
            if time.monotonic() - heard > stall_s:
                raise StorageError(
                    f"the cluster was silent for {stall_s:.0f} s: does it have a free CPU or "
                    f"GPU, and are all its nodes up? {_GOES_ON}"
                ) from None
            continue
        if row is None:
            raise StorageError(f"the driver of the job ended before it was done; {_GOES_ON}")
        if "error" in row:
            raise StorageError(f"{row['error']}; {_GOES_ON}")
        if "done" in row:
            return
        heard = time.monotonic()
        if "started" in row:
            is_up = True
            continue
        done += row["images"]
        failed += row["failed"]
        if on_progress is not None:
            on_progress(Progress(done, total, failed, heard - started))


@contextmanager
def _driver(store: Path, config: IndexConfig) -> Iterator[_Rows]:
    """Run the driver for as long as the block lasts, and yield the lines that it writes."""
    spec = {
        "store": str(store.resolve()),
        "limits": asdict(config.limits),
        "device": config.device,
        "precision": config.precision,
        "workers": config.workers,
    }
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines:
        process = subprocess.Popen(
            [
                *python_command("embedsearch.indexing.distributed.ray_driver"),
                str(writing),
                json.dumps(spec),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing],
            env=child_environment(RAY_USAGE_STATS_ENABLED="0"),  # else it reports to Ray's makers
            start_new_session=True,  # Ctrl-C in the terminal must reach only this process
        )
        os.close(writing)
        rows: _Rows = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(lines, rows), daemon=True)
        reader.start()
        try:
            yield rows
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            process.wait()
            reader.join()


def _read(lines: IO[str], rows: _Rows) -> None:
    for line in lines:
        rows.put(json.loads(line))
    rows.put(None)
