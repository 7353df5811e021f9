"""One writer per store: an flock that the kernel releases when the process dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from embedsearch.core.errors import StorageError, StoreLocked
from embedsearch.store.files import LOCK_NAME, storage_error

# On some network file systems only one host sees an flock; there, a note this young counts.
FOREIGN_NOTE_S = 30 * 60
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")  # of a space or a tab in a mount point
# File systems of one kernel: its flock is the whole truth, and a note is only for people.
_LOCAL = frozenset(
    b"apfs bcachefs btrfs exfat ext2 ext3 ext4 f2fs fuseblk hfsplus jfs msdos nilfs2 ntfs ntfs3 "
    b"overlay ramfs reiserfs tmpfs ubifs udf vfat xfs zfs".split()
)


class WriterLock:
    """Held from construction to `release`. Raises StoreLocked with pid, host and start time."""

    def __init__(
        self,
        store: Path,
        wait_s: float = 0.0,
        check: Callable[[], None] = lambda: None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the lock within `wait_s`.

        Meanwhile `check` is called, which may raise, and once `notice` with why it waits.
        """
        self._store = store
        self._descriptor = _opened(store)
        try:
            self._acquire(time.monotonic() + wait_s, check, notice)
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

    def _acquire(
        self, deadline: float, check: Callable[[], None], notice: Callable[[str], None]
    ) -> None:
        is_told = False
        while True:
            if not _try_lock(self._store, self._descriptor):
                message = self._held_by(self._note())
            elif self._is_replaced():
                os.close(self._descriptor)
                self._descriptor = _opened(self._store)
                continue
            elif not self._is_foreign(note := self._note()):
                return
            else:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                message = f"{self._held_by(note)}; if that has ended, delete {self._path()}"
            if time.monotonic() >= deadline:
                raise StoreLocked(f"{message}; wait for it with wait_s=SECONDS", "wait_s")
            if not is_told:
                notice(f"waiting: {message}")
                is_told = True
            check()
            time.sleep(0.1)

    def _path(self) -> Path:
        return self._store / LOCK_NAME

    def _is_replaced(self) -> bool:
        """Return whether someone deleted the file since it was opened: then others lock another."""
        try:
            now = os.stat(self._path(), follow_symlinks=False)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise storage_error(self._store, error) from error
        return not os.path.samestat(now, os.fstat(self._descriptor))

    def _note(self) -> dict[str, object]:
        try:
            note = json.loads(os.pread(self._descriptor, 4096, 0))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def _is_foreign(self, note: dict[str, object]) -> bool:
        """Return whether a writer on another host may be alive although the lock was given."""
        written = note.get("time")
        is_young = isinstance(written, float) and abs(time.time() - written) < FOREIGN_NOTE_S
        is_elsewhere = is_young and note.get("host") != socket.gethostname()
        return is_elsewhere and not is_on_local_disk(self._store)

    def _held_by(self, note: dict[str, object]) -> str:
        written = note.get("time")
        try:
            stamp = time.localtime(written if isinstance(written, float) else None)
            since = time.strftime("%Y-%m-%d %H:%M:%S", stamp)
        except (ValueError, OverflowError, OSError):  # a time of no year
            since = "at an unknown time"
        return (
            f"{self._store} is being written by process {note.get('pid', '?')} on "
            f"{note.get('host', '?')}, last seen {since}"
        )


def check_lockable(store: Path) -> None:
    """Raise StorageError unless the file system of a new store has locks."""
    descriptor = _opened(store)
    try:
        _try_lock(store, descriptor)
    except StorageError:
        with contextlib.suppress(OSError):
            os.unlink(store / LOCK_NAME)
        raise
    finally:
        os.close(descriptor)


def is_on_local_disk(folder: Path) -> bool:
    """Return whether only processes of this machine see a folder; False where nobody knows."""
    return file_system(folder) in _LOCAL


def file_system(folder: Path) -> bytes:
    """Return the type of the file system that a folder is on, as mounts name it; "" if unknown."""
    try:
        device = os.stat(folder).st_dev
        mounts = [line.split() for line in _MOUNTS.read_bytes().splitlines()]
    except OSError:
        return b""
    name = f"{os.major(device)}:{os.minor(device)}".encode()
    path = os.fsencode(os.path.realpath(folder))
    kinds = {}
    for fields in mounts:
        if b"-" not in fields[:-1]:
            continue
        at = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), fields[4]).rstrip(b"/")
        # Subvolumes have devices that are no mount's: there the innermost mount counts.
        if fields[2] == name or path == at or path.startswith(at + b"/"):
            kinds[fields[2] == name, len(at)] = fields[fields.index(b"-") + 1]
    return kinds[max(kinds)] if kinds else b""


def _opened(store: Path) -> int:
    try:
        return os.open(store / LOCK_NAME, _LOCK_FLAGS, 0o600)
    except OSError as error:
        raise storage_error(store, error) from error


def _try_lock(store: Path, descriptor: int) -> bool:
    """Return whether the lock was free; it is held then. Raises StorageError without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise no_locks(
            store, error, "put it on another disk, or mount this one with locks"
        ) from error
    return True


def no_locks(folder: Path, error: OSError, remedy: str) -> StorageError:
    """Return the error for a file system that gives no locks."""
    why = error.strerror or error
    return StorageError(
        f"{folder}: its file system gives no locks ({why}), without which two writers would "
        f"damage a store; {remedy}"
    )
