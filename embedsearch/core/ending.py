"""The end of a process after a signal; in: the signal, out: an end in time.

A thread that waits for a file system, a network or a library cannot be interrupted, and Python
waits for it. Nor does Python call a handler before the main thread is back from a library.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SOON_S = 0.2  # for a handler to end the process itself
_signal = 0
_is_kept = threading.Event()
_temporary: set[str] = set()  # folders


def remove_at_end(folder: str) -> None:
    """Let a temporary folder be removed if the process is ended here."""
    _temporary.add(folder)


def ending_signal() -> int:
    """Return the signal that has come, else 0: what waits for a server gives up."""
    return _signal


def keep_results() -> None:
    """Let the first signal wait from now on for what the process has to commit."""
    _is_kept.set()


def end_within(seconds: float, number: int) -> None:
    """End this process as if by a signal in that time at the latest."""
    timer = threading.Timer(seconds, os._exit, [128 + number])
    timer.daemon = True
    timer.start()


def guard_signals(seconds: float) -> None:
    """End this process so many seconds after a signal at the latest, and at once after a second.

    Only signals with a handler are noticed; others end a process anyway.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, seconds), daemon=True).start()


def _watch(reader: int, seconds: float) -> None:
    global _signal
    while True:
        number = os.read(reader, 1)[0]
        if number not in _ENDING:
            continue
        if _signal:
            time.sleep(_SOON_S)
            os._exit(128 + number)
        _signal = number
        threading.Thread(target=_end, args=(seconds, number), daemon=True).start()


def _end(seconds: float, number: int) -> None:
    time.sleep(seconds)
    if not _is_kept.is_set():
        for folder in _temporary:
            shutil.rmtree(folder, ignore_errors=True)
        os.write(2, b"embedsearch: interrupted; what was committed stays\n")
        os._exit(128 + number)
