"""Processes that answer conditions; in: questions, out: answers, within a time.

A process that takes too long, or whose asker has gone, is ended: nothing else stops DuckDB while
it works out a constant. The next condition gets another.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any

from embedsearch.core.errors import MissingLibrary, StorageError
from embedsearch.core.install import install_command
from embedsearch.core.messages import receive, send
from embedsearch.core.system import child_environment, python_command

if TYPE_CHECKING:  # this is loaded before anything large, to start a process early
    from embedsearch.searching.filters.windows import Window

AT_ONCE = 4  # as many conditions are worked on, by as many processes
_KEPT = 2  # processes that wait for the next condition
_TICK_S = 0.05
_START_S = 60.0
_SEND_S = 10.0
# Threads and pyarrow's own allocator reserve memory that the limit would count. UTC: a condition
# can ask what time it is, but not where this machine is.
_ENVIRONMENT = {
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
    "TZ": "UTC",
}


class WorkerLost(Exception):
    """A process has died, or is `spent`: out of memory. `used`: it had answered others before."""

    def __init__(self, *, used: bool, spent: bool = False) -> None:
        super().__init__()
        self.used = used
        self.spent = spent


class Overdue(Exception):
    """A question took longer than it may."""


def _folder() -> str | None:
    """Return where a process starts: here, unless this folder has been removed."""
    try:
        os.getcwd()
    except OSError:
        return "/"
    return None


class Worker:
    """One process. It has no file of this one open but its socket."""

    def __init__(self) -> None:
        """Start it; it is ready later. Raises MissingLibrary, StorageError."""
        command = python_command("embedsearch.searching.filters.worker")
        self._connection, theirs = socket.socketpair()
        # A process group of its own: Ctrl-C in the terminal is the parent's to handle.
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(**_ENVIRONMENT),
                pass_fds=(theirs.fileno(),),
                process_group=0,
                cwd=_folder(),
            )
        except OSError as error:
            self._connection.close()
            message = f"a filter needs a process of its own, which does not start: {error.strerror}"
            raise StorageError(message) from error
        finally:
            theirs.close()
        _workers.add(self)
        self._is_ready = False
        self._is_used = False
        self._held: set[int] = set()  # windows that it has mapped
        self.lasts = True  # whether it can be asked again

    def ask(
        self,
        question: dict[str, Any],
        limit_s: float,
        check: Callable[[], None],
        window: Window | None = None,
        kept: Set[int] = frozenset(),
    ) -> dict[str, Any]:
        """Return its answer about a window. Raises WorkerLost, Overdue, and what `check` raises.

        Of the windows that it was given before it keeps those in `kept`.
        """
        self.lasts = False
        if not self._is_ready:
            ready = self._received(time.monotonic() + _START_S, check)
            if "missing" in ready:
                raise missing(ready["missing"])
            self._is_ready = True
        number = None if window is None else window.number
        descriptor = None if window is None or number in self._held else window.descriptor
        dropped = self._held - kept - {number}
        message = {**question, "limit_s": limit_s, "window": number, "dropped": sorted(dropped)}
        self._connection.settimeout(_SEND_S)
        try:
            send(self._connection, message, descriptor)
        except OSError as error:
            raise WorkerLost(used=self._is_used) from error
        answer = self._received(time.monotonic() + limit_s, check)
        if "spent" in answer:
            raise WorkerLost(used=self._is_used, spent=True)
        self._held -= dropped
        if number is not None:
            self._held.add(number)
        self.lasts = True
        return answer

    def served(self) -> None:
        """Note that it has answered a whole condition."""
        self._is_used = True

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process at once."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Leave the process to the parent of this one, which was forked from it."""
        self._connection.close()
        self._process.returncode = 0  # it is no child of this one: nothing to wait for

    def _received(self, until: float, check: Callable[[], None]) -> dict[str, Any]:
        def waiting() -> None:
            check()
            if time.monotonic() > until:
                raise Overdue

        self._connection.settimeout(_TICK_S)
        try:
            received = receive(self._connection, waiting)
        except OSError as error:
            raise WorkerLost(used=self._is_used) from error
        if received is None:
            raise WorkerLost(used=self._is_used)
        return received[0]


class Pool:
    """The processes of one open generation; they are started when a condition comes."""

    def __init__(self) -> None:
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._idle: list[Worker] = []
        self._is_open = True
        self._changing = threading.Lock()  # held for a moment only
        self._turns = threading.Semaphore(AT_ONCE)

    @contextlib.contextmanager
    def worker(self, check: Callable[[], None], *, fresh: bool = False) -> Iterator[Worker]:
        """Lend a process to this thread alone: one that waits, or a new one."""
        while not self._turns.acquire(timeout=_TICK_S):
            check()
        worker: Worker | None = None
        try:
            worker = (None if fresh else self._waiting()) or started()
            yield worker
        finally:
            if worker is not None:
                self._take_back(worker)
            self._turns.release()

    def prepare(self) -> None:
        """Start a process that will soon be needed, if none waits."""
        worker = self._waiting() or started()
        self._take_back(worker)

    def close(self) -> None:
        """End the processes that wait; those at work end with their conditions."""
        with self._changing:
            idle, self._idle, self._is_open = self._idle, [], False
        for worker in idle:
            worker.close()

    def _waiting(self) -> Worker | None:
        while True:
            with self._changing:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.close()

    def _take_back(self, worker: Worker) -> None:
        with self._changing:
            if is_kept := worker.lasts and self._is_open and len(self._idle) < _KEPT:
                self._idle.append(worker)
        if not is_kept:
            worker.close()

    def after_fork(self) -> None:
        """Begin again in a forked process: the workers and the locks are the parent's."""
        self._begin()


_ahead: list[Worker] = []


@contextlib.contextmanager
def started_ahead(where: str | None) -> Iterator[None]:
    """Start a process for the first condition, if there is one, while a store is opened.

    Raises MissingLibrary.
    """
    if where is not None:
        _ahead.append(_new())
    try:
        yield
    finally:
        while _ahead:  # something failed before the condition was asked
            _ahead.pop().close()


def started() -> Worker:
    """Return a new process: the one started ahead if there is one. Raises MissingLibrary."""
    try:
        return _ahead.pop()
    except IndexError:
        return _new()


def _new() -> Worker:
    if importlib.util.find_spec("duckdb") is None:
        raise missing("it is not installed")
    return Worker()


def missing(why: str) -> MissingLibrary:
    """Return the error of a filter without DuckDB."""
    return MissingLibrary(f"where needs DuckDB ({why}): {install_command('duckdb')}", "where")


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _after_fork() -> None:
    _ahead.clear()
    for worker in list(_workers):
        worker.forget()
    for pool in list(_pools):
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)
