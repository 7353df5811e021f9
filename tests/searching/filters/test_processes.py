"""What answers filters: bounds of memory and time, nobody held up, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch.core.cancelling import cancelled_by
from embedsearch.core.errors import FilterTooSlow, Interrupted, UsageError
from embedsearch.core.session import Session
from embedsearch.searching.filters import where
from embedsearch.searching.filters.where import Filters
from tests.support.filters import (
    MANY,
    NO_END,
    ROWS,
    answer,
    filters_on,
    is_alive,
    no_end_of_constants,
    peak_mb,
    workers,
)
from tests.support.library import REPOSITORY
from tests.support.stores import imported

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")


@pytest.fixture
def filters() -> Iterator[Filters]:
    with filters_on(MANY) as made:
        yield made


def nested(form: str, depth: int) -> str:
    text = "path"
    for _ in range(depth):
        text = form.replace("@", text)
    return text


BOMBS = {
    "replace": nested("replace(@, 'a', 'aaaaaaaa')", 60) + " = 'x'",
    "concat": "length(" + nested("concat(@, @)", 9) + ") < 5",
    "many": "length(concat(" + ",".join(["path"] * 1_900) + ")) < 5",
    "reverse": "reverse(" + nested("(@ || @)", 9) + ") = 'x'",
    "lists": "len([" + ",".join(["tags"] * 1_900) + "]) < 1",
    "distinct": "len(list_distinct(" + "||".join(["tags"] * 150) + ")) < 1",
    "formats": "length(strftime(date '2024-01-01' + row::int, '" + "%A%B%c" * 1_500 + "')) < 5",
    "cast": "('['||replace(path, 'a', '" + "1," * 2_000 + "')||']')::varchar[] is null",
    "like": nested("replace(@, 'a', 'aaa')", 4) + " like '" + "%a" * 100 + "%b'",
    "json": "json_type(" + nested("concat(@, @)", 8).replace("path", "'[[['") + ", '$[0]') = 'x'",
    "regex": "regexp_matches(path, '((a{1,100}){1,10}){1,10}b')",
    "regexes": " or ".join(f"regexp_matches(path, '(x{{1,{900 + n}}}){n}')" for n in range(190)),
    "ends": NO_END,
    "constants": no_end_of_constants(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_filter_takes_memory_or_time_without_end(
    filters: Filters, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "TIME_LIMIT_S", 3.0)
    before = peak_mb(os.getpid())
    peaks = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            for worker in workers():
                try:
                    peaks.append(peak_mb(worker))
                except (OSError, ValueError):  # it has ended
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said = f"where: {len(answer(filters, BOMBS[name]))} rows"
    except UsageError as error:
        said = str(error)
    finally:
        over.set()
        watcher.join()
    assert said.startswith("where: "), said
    assert 0 < max(peaks) < 500 and peak_mb(os.getpid()) - before < 100
    assert sum(answer(filters, "row < 10 and path like 'trips/1/%'")) == 1


@pytest.mark.parametrize("text", [NO_END, no_end_of_constants()], ids=["rows", "constants"])
def test_a_filter_that_takes_for_ever_is_stopped(
    filters: Filters, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(filters, "row = 1")
    monkeypatch.setattr(where, "TIME_LIMIT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(FilterTooSlow, match=r"took more than"):
        answer(filters, text)
    assert time.monotonic() - started < 10
    monkeypatch.undo()
    assert sum(answer(filters, "row = 2")) == 1


def test_a_slow_filter_holds_nobody(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        searcher.images(1, where="row = 0")
        vector = np.eye(1, searcher.manifest.model.dim, dtype=np.float32)[0]
        gone = threading.Event()
        said: list[Exception] = []

        def slow() -> None:
            try:
                with cancelled_by(gone):
                    searcher.query(vector, 1, where=no_end_of_constants())
            except Exception as error:
                said.append(error)

        asking = [threading.Thread(target=slow) for _ in range(3)]
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert searcher.query(embedsearch.Key("a/01.png"), 1)
        assert searcher.query(embedsearch.Key("a/01.png"), 1, where="row >= 0")
        assert searcher.images(3, where="width > 0").total
        assert searcher.get("a/01.png")
        assert time.monotonic() - started < 5
        assert not said and all(thread.is_alive() for thread in asking)
        gone.set()
        for thread in asking:
            thread.join(5)
        assert not any(thread.is_alive() for thread in asking)
        assert [type(error) for error in said] == [Interrupted] * 3
    assert not workers()


def test_a_signal_stops_a_filter(filters: Filters) -> None:
    began = time.monotonic()
    session = Session(stop=lambda: signal.SIGINT if time.monotonic() - began > 0.3 else 0)
    with pytest.raises(Interrupted):
        filters.mask(no_end_of_constants(), session)
    assert time.monotonic() - began < 5
    assert not workers()


def test_a_process_that_was_killed_is_replaced(filters: Filters) -> None:
    for number in range(3):
        assert sum(answer(filters, f"row = {number}")) == 1
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        if number == 1:  # also one that nobody has noticed yet
            time.sleep(0.2)
    assert sum(answer(filters, "row = 9")) == 1
    assert len(workers()) == 1


def test_at_most_four_filters_at_once_and_few_processes_wait(filters: Filters) -> None:
    texts = [f"path like '%a%' and row = {number}" for number in range(24)]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda text=text: found.append(sum(answer(filters, text))))
        for text in texts
    ]
    most = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(workers()))
    assert found == [1] * 24 and most <= 6  # those that end are still seen for a moment
    assert 1 <= len(workers()) <= 2


def test_searchers_opened_and_closed_leave_no_process(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    open_files = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with embedsearch.open_store(store) as searcher:
            assert searcher.images(9, where="row = 1").total == 1
            assert len(workers()) == 1
        assert not workers()
    embedsearch.export(store, tmp_path / "out.parquet", where="row = 1")
    assert not workers()
    assert len(os.listdir("/proc/self/fd")) <= open_files + 1


PARENT = """
import os, sys, threading, time
from embedsearch.searching.filters import where
from tests.support.filters import *
where.TIME_LIMIT_S = 60.0 if sys.argv[1] == "rows" else 1.0
with filters_on(MANY) as filters:
    answer(filters, "row = 1")
    print(*workers(), flush=True)
    text = NO_END if sys.argv[1] == "rows" else no_end_of_constants()
    if sys.argv[1] != "idle":
        threading.Thread(target=answer, args=[filters, text], daemon=True).start()
    time.sleep(600)
"""


@pytest.mark.parametrize("work", ["idle", "rows", "constants"])
def test_a_process_ends_with_its_parent(work: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, work], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    (worker,) = map(int, parent.stdout.readline().split())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < until, "it outlives its parent"
        time.sleep(0.05)


FORK = """
import os, threading, time
from tests.support.filters import *
with filters_on(MANY) as filters:
    assert sum(answer(filters, "row = 1")) == 1
    ours = workers()
    def slow():
        try:
            answer(filters, no_end_of_constants())
        except Exception:
            pass
    threading.Thread(target=slow, daemon=True).start()
    time.sleep(0.3)
    if not (child := os.fork()):
        assert not workers()
        assert sum(answer(filters, "row = 2")) == 1 and len(workers()) == 1
        filters.close()
        numbers = [each for each in range(1_000) if os.path.exists(f"/proc/self/fd/{each}")]
        links = [os.readlink(f"/proc/self/fd/{each}") for each in numbers]
        os._exit(bool(workers()) or any(link.startswith("socket:") for link in links))
    assert os.waitpid(child, 0)[1] == 0
    assert sum(answer(filters, "row = 3")) == 1 and set(ours) < set(workers())
"""


def test_a_forked_process_has_workers_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_process_has_no_file_of_ours_but_its_socket(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock, filters_on(ROWS) as filters:
        os.set_inheritable(lock.fileno(), True)
        answer(filters, "row = 1")
        (worker,) = workers()
        links = [str(each.readlink()) for each in Path(f"/proc/{worker}/fd").iterdir()]
        assert not [link for link in links if "lock" in link]
        assert len([link for link in links if link.startswith("socket:")]) == 1


def test_a_folder_that_is_gone_holds_up_no_filter(tmp_path: Path) -> None:
    """A service whose folder was replaced under it."""
    store = imported(tmp_path, np.eye(3, dtype=np.float32), ["a.jpg", "b.jpg", "c.jpg"])
    program = (
        "import os, sys, embedsearch\n"
        "os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])\n"
        "with embedsearch.open_store(sys.argv[1]) as s:\n"
        "    os.rmdir(sys.argv[2])\n"
        "    print(s.images(where='row > 0').total)"
    )
    command = [sys.executable, "-c", program, str(store), str(tmp_path / "gone")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "2\n", done.stderr
