"""The end of a process after a signal; in: the signal, out: an end in time.

A thread that waits for a file system, a network or a library cannot be interrupted, and Python
waits for it.
"""

from __future__ import annotations

import os
import threading

_ending = threading.Event()


def is_ending() -> bool:
    """Return whether a signal has come: what waits for a server gives up."""
    return _ending.is_set()


def set_ending() -> None:
    """Note that a signal has come."""
    _ending.set()


def end_within(seconds: float, signal: int) -> threading.Timer:
    """End this process as if by `signal` in that time at the latest, unless that is canceled."""
    timer = threading.Timer(seconds, os._exit, [128 + signal])
    timer.daemon = True
    timer.start()
    return timer
