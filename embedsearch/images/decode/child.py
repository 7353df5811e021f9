"""Decoding processes as the system sees them; in: nothing yet, out: one that waits to be told.

Nothing large is loaded here, so that a process can be started first of all: what it decodes, and
where to, it learns later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

from embedsearch.core.messages import send
from embedsearch.core.system import anonymous_file, child_environment, python_command


class Child:
    """A process with a socket for its jobs, a pipe for its results and a file for its errors."""

    def __init__(self) -> None:
        """Start it. Raises OSError."""
        command = python_command("embedsearch.images.decode.worker")
        self.program = command[0]
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as theirs:
            self.errors = failed.enter_context(os.fdopen(anonymous_file(), "w+b"))
            self.jobs, jobs = socket.socketpair()
            failed.callback(self.jobs.close)
            theirs.callback(jobs.close)
            self.results, results = os.pipe()
            failed.callback(os.close, self.results)
            theirs.callback(os.close, results)
            os.set_blocking(self.results, False)
            # One thread: each more of a numerical library would reserve address space. A process
            # group of its own: Ctrl-C in the terminal is the parent's to handle.
            self.process = subprocess.Popen(
                [*command, str(jobs.fileno()), str(results)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.errors,
                env=child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                pass_fds=(jobs.fileno(), results),
                process_group=0,
            )
            failed.pop_all()  # it has started

    def tell(self, spec: dict[str, Any], ring: int) -> None:
        """Say what to decode, and the descriptor of the shared ring."""
        with contextlib.suppress(ConnectionError):  # its end is noticed at the pipe of results
            send(self.jobs, spec, ring)

    def close(self) -> None:
        """End the process at once and release what is open."""
        self.process.kill()
        self.process.wait()
        self.jobs.close()
        os.close(self.results)
        self.errors.close()


_ahead: list[Child] = []


@contextlib.contextmanager
def started_ahead(is_needed: bool) -> Iterator[None]:
    """Start a process, if it is needed, which the first pool of this block will use."""
    if is_needed:
        with contextlib.suppress(OSError):  # the pool says what the system refuses
            _ahead.append(Child())
    try:
        yield
    finally:
        while _ahead:  # something failed before an image was decoded
            _ahead.pop().close()


def started() -> Child:
    """Return a process: the one started ahead if there is one. Raises OSError."""
    try:
        return _ahead.pop()
    except IndexError:
        return Child()


os.register_at_fork(after_in_child=_ahead.clear)
