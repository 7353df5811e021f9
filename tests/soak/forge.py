"""Children forked from a process that has everything imported: a first run in a hundredth second.

In: work, as a function; out: how the child ended, what it reported, and what it returned.
"""

from __future__ import annotations

import ctypes
import importlib.resources
import mmap
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# All that a run may need, so that children import nothing: what they open is what the work opens.
import faiss  # noqa: F401
import numpy.ma  # noqa: F401
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from embedsearch.core.errors import EmbedSearchError

TIME_LIMIT_S = 60.0
_PR_SET_PDEATHSIG = 1  # no child outlives a harness that ends early
Report = Callable[[Any], None]

pa.array([1])  # which imports pandas where that is installed
tempfile.gettempdir()
importlib.resources.files("embedsearch")  # whose reader is imported when it is asked for

# What a child says, it says in shared memory: that takes no system call that could be made to fail.
_SAID_BYTES = 64 << 20
_LENGTH_BYTES = 8


@dataclass
class Ended:
    """How a child ended: `signal` or else `error` or else `value`; `reports` came before.

    One that took too long is_late, and was killed.
    """

    signal: int = 0
    is_late: bool = False
    error: Exception | None = None
    trace: str = ""
    value: Any = None
    reports: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def words(self) -> str:
        """Return the end in words."""
        if self.is_late:
            return f"not done after {self.seconds:.0f} s"
        if self.signal:
            return f"ended by {signal.Signals(self.signal).name}"
        return f"{type(self.error).__name__}: {self.error}" if self.error else "done"

    @property
    def has_failed(self) -> bool:
        """Return whether it did not get to its end."""
        return self.error is not None or self.signal != 0

    def result(self) -> Any:
        """Return what the work returned. Raises RuntimeError where it did not get to its end."""
        if self.has_failed:
            raise RuntimeError(self.trace or self.words)
        return self.value

    @property
    def is_expected(self) -> bool:
        """Return whether it was done, or failed in a way that is ours."""
        return not self.signal and (self.error is None or isinstance(self.error, EmbedSearchError))


class Child:
    """Work under way in a process of its own."""

    def __init__(self, work: Callable[[Report], Any], *, traced: bool = False) -> None:
        """Start; a `traced` child does not begin before a tracer has taken hold of it."""
        self._started = time.monotonic()
        self._said = mmap.mmap(-1, _SAID_BYTES)
        self._may_begin = mmap.mmap(-1, 1)
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            while traced and not self._may_begin[0]:
                time.sleep(0.001)
            _work(work, self._said)

    def begin(self) -> None:
        """Let a traced child begin, once its tracer has taken hold of it."""
        status = Path(f"/proc/{self.pid}/status")
        for _ in range(2000):
            if "TracerPid:\t0\n" not in status.read_text():
                time.sleep(0.01)  # it attaches first and injects a moment later
                self._may_begin[0] = 1
                return
            time.sleep(0.005)
        raise RuntimeError("no tracer came")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def join(self, limit_s: float = TIME_LIMIT_S) -> Ended:
        """Wait for the end, which is death for a child that takes longer than the limit."""
        deadline = time.monotonic() + limit_s
        is_late = False
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if not is_late and time.monotonic() > deadline:
                is_late = True
                self.kill()
            time.sleep(0.002)
        ended = Ended(seconds=time.monotonic() - self._started)
        size = int.from_bytes(self._said[:_LENGTH_BYTES], "little")
        _read_reports(self._said[_LENGTH_BYTES : _LENGTH_BYTES + size], ended)
        self._said.close()
        self._may_begin.close()
        if os.WIFSIGNALED(status):
            ended.signal = os.WTERMSIG(status)
        ended.is_late = is_late
        return ended


def forked(work: Callable[[Report], Any], limit_s: float = TIME_LIMIT_S) -> Ended:
    """Do work in a child and wait for its end."""
    return Child(work).join(limit_s)


def _work(work: Callable[[Report], Any], said: mmap.mmap) -> None:
    """In the child: work, and say how it ended. Does not return."""
    code = 0

    def say(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        data = len(data).to_bytes(4, "little") + data
        size = int.from_bytes(said[:_LENGTH_BYTES], "little")
        start = _LENGTH_BYTES + size
        said[start : start + len(data)] = data
        said[:_LENGTH_BYTES] = (size + len(data)).to_bytes(_LENGTH_BYTES, "little")

    try:
        say("value", work(lambda value: say("report", value)))
    except BaseException as error:
        code = 1
        trace = traceback.format_exc()
        kept = error if isinstance(error, Exception) else RuntimeError(repr(error))
        try:
            say("error", (_plain(kept), trace))
        except BaseException:
            code = 2
    finally:
        os._exit(code)


def _plain(error: Exception) -> Exception:
    """Return an error that another process can read."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _read_reports(data: bytes, ended: Ended) -> None:
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "little")
        kind, value = pickle.loads(data[4 : 4 + size])
        data = data[4 + size :]
        if kind == "report":
            ended.reports.append(value)
        elif kind == "value":
            ended.value = value
        else:
            ended.error, ended.trace = value
