"""What is closed with an object that nobody uses any more; in: both, out: nothing.

Python may drop an object at any moment in any thread, also in one that holds a lock which closing
needs: so closing has a thread of its own.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable

_due: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # its `put` may interrupt itself
_starting = threading.Lock()
_closing: threading.Thread | None = None


def close_with(owner: object, close: Callable[[], None]) -> None:
    """Call `close` once the owner is dropped: soon after, and not when the process ends.

    `close` must not hold the owner. In a process that was forked meanwhile it is not called.
    """
    global _closing
    with _starting:
        if _closing is None or not _closing.is_alive():
            _closing = threading.Thread(target=_close_all, name="embedsearch-closing", daemon=True)
            _closing.start()
    weakref.finalize(owner, _drop, close, os.getpid()).atexit = False


def _forget() -> None:
    """Reset this in a forked process, which must not close what its parent opened."""
    global _due, _starting, _closing
    _due, _starting, _closing = queue.SimpleQueue(), threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _drop(close: Callable[[], None], process: int) -> None:
    if os.getpid() == process:
        _due.put(close)


def _close_all() -> None:
    while True:
        _due.get()()
