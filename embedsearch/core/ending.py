"""The end of a process after a signal; in: the signal, out: an end in time.

A thread that waits for a file system, a network or a library cannot be interrupted, and Python
waits for it.
"""

from __future__ import annotations

import os
import threading


def end_within(seconds: float, signal: int) -> None:
    """End this process as if by `signal` in that time at the latest."""
    timer = threading.Timer(seconds, os._exit, [128 + signal])
    timer.daemon = True
    timer.start()
