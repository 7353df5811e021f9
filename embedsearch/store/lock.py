"""One writer per store: an flock that the kernel releases when the process dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from embedsearch.core.errors import StoreLocked
from embedsearch.store.files import LOCK_NAME, storage_error

# On some network file systems only one host sees an flock; there, a note this is_young counts.
FOREIGN_NOTE_S = 30 * 60
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class WriterLock:
    """Held from construction to `release`. Raises StoreLocked with pid, host and start time."""

    def __init__(
        self, store: Path, wait_s: float = 0.0, waiting: Callable[[], None] = lambda: None
    ) -> None:
        """Take the lock within `wait_s`; `waiting` is called meanwhile and may raise."""
        self._store = store
        try:
            self._descriptor = os.open(store / LOCK_NAME, _LOCK_FLAGS, 0o600)
        except OSError as error:
            raise storage_error(store, error) from error
        try:
            self._acquire(time.monotonic() + wait_s, waiting)
            self.touch()
        except BaseException:
            os.close(self._descriptor)
            raise

    def touch(self) -> None:
        """Renew the note, which shows other hosts that the writer is alive."""
        note = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
        data = json.dumps(note).encode()
        try:
            os.pwrite(self._descriptor, data, 0)
            os.ftruncate(self._descriptor, len(data))
        except OSError as error:
            raise storage_error(self._store, error) from error

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):  # a full disk must not hide the run's result
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _acquire(self, deadline: float, waiting: Callable[[], None]) -> None:
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._note()
            else:
                if not self._is_foreign(holder := self._note()):
                    return
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            if time.monotonic() >= deadline:
                raise StoreLocked(self._message(holder), "wait_s")
            waiting()
            time.sleep(0.1)

    def _note(self) -> dict[str, object]:
        try:
            note = json.loads(os.pread(self._descriptor, 4096, 0))
        except ValueError:
            return {}
        return note if isinstance(note, dict) else {}

    def _is_foreign(self, note: dict[str, object]) -> bool:
        written = note.get("time")
        is_young = isinstance(written, float) and abs(time.time() - written) < FOREIGN_NOTE_S
        return is_young and note.get("host") != socket.gethostname()

    def _message(self, note: dict[str, object]) -> str:
        written = note.get("time")
        stamp = time.localtime(written) if isinstance(written, float) else time.localtime()
        since = time.strftime("%Y-%m-%d %H:%M:%S", stamp)
        return (
            f"{self._store} is being written by process {note.get('pid', '?')} on "
            f"{note.get('host', '?')}, last seen {since}; wait for it with wait_s=SECONDS"
        )
