"""Stores at URLs as folders in the user's cache; in: a URL, out: a folder that is that store.

Each URL has a folder, and beside it a file that whoever uses the folder holds a shared lock on. All
folders together are bounded: those not used for longest go, but none that is in use. (What was
opened stays readable without its name, so that a reader loses nothing even where a lock is not
seen, as on some network file systems.)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from embedsearch.core.errors import DamagedStore, StorageError, StoreLocked
from embedsearch.core.remote import Refused
from embedsearch.core.session import Session
from embedsearch.core.system import store_cache_bytes, store_cache_folder
from embedsearch.store.current import current_pointer
from embedsearch.store.fetch import (
    FetchMonitor,
    FetchPlan,
    Upstream,
    generation_here,
    is_whole,
    megabytes,
    take,
)
from embedsearch.store.files import storage_error
from embedsearch.store.lock import WriterLock
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import create_store

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_WAIT_S = 3600.0  # for another process that fetches the same store
_BRIEF_WAIT_S = 2.0  # where an older generation is here to answer with
_REMOVAL_WAIT_S = 60.0  # for one that is just removing it
_AGAIN_S = 600.0  # before what was damaged there is fetched once more, for who follows it
_STORE, _LOCK, _GONE = ".es", ".lock", ".gone"


class Mirror:
    """The folder of a store at a URL, in use until `close`; or use it as a context manager."""

    def __init__(self, url: str, session: Session) -> None:
        """Claim the folder; nothing is fetched yet. Raises UsageError and StorageError."""
        upstream = Upstream(url)
        self.url = upstream.url
        self._session = session
        self._damaged: tuple[bytes, float, str] | None = None  # CURRENT, when, what was said
        self._base = store_cache_folder()
        name = hashlib.sha256(upstream.remote.identity.encode()).hexdigest()[:32]
        self.folder = self._base / f"{name}{_STORE}"
        try:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._base / f"{name}{_LOCK}", _LOCK_FLAGS, 0o600)
        except OSError as error:
            words = f"{self._base}: {error.strerror}; EMBEDSEARCH_CACHE names another folder"
            raise StorageError(words) from error
        try:
            _lock_shared(self._descriptor, self.folder)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go, which may be removed from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def open(self) -> None:
        """Bring the folder up to date; where that fails now, an older generation has to do.

        Raises StoreNotFound, DamagedStore, StorageError.
        """
        here = self._here()
        try:
            self._update(hasty=here is not None)
        except (StorageError, StoreLocked) as error:
            if here is None or isinstance(error, Refused):
                raise
            words = f"answering from generation {here.generation}, which was fetched before"
            self._session.notice(f"{error}; {words}")

    def update(self) -> None:
        """Bring the folder up to date. Raises StoreNotFound, DamagedStore, StorageError."""
        self._update(hasty=False)

    def _here(self) -> Manifest | None:
        manifest = generation_here(self.folder)
        return manifest if manifest is not None and is_whole(self.folder, manifest) else None

    def _update(self, *, hasty: bool) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk has other ways to say so
            os.utime(self._descriptor)
        pointer = Upstream(self.url, hasty=hasty).pointer()
        if pointer == current_pointer(self.folder) and self._here() is not None:
            return
        if self._damaged is not None:
            before, when, words = self._damaged
            if before == pointer and time.monotonic() - when < _AGAIN_S:
                raise DamagedStore(words)
        create_store(self.folder)
        wait_s = _BRIEF_WAIT_S if hasty else _WAIT_S
        lock = WriterLock(self.folder, wait_s, _Waiting(self.url, self._session))
        try:
            watch = FetchMonitor(self._session, self._make_room)
            take(Upstream(self.url), self.folder, watch, keep_former=False)
        except DamagedStore as error:
            self._damaged = pointer, time.monotonic(), str(error)
            raise
        finally:
            lock.release()

    def _make_room(self, plan: FetchPlan) -> None:
        """Remove other stores as far as this one needs their room. Raises StorageError."""
        limit = store_cache_bytes()
        size = plan.whole_bytes
        if size > limit:
            raise StorageError(
                f"{self.url} takes up {megabytes(size)}, and stores at URLs may take up "
                f"{megabytes(limit)}: set EMBEDSEARCH_STORE_CACHE_BYTES, or make a store of your "
                f"own of it: embedsearch pull {self.url}"
            )
        # Seen by others before it is true, so that two who fetch do not both take what is free.
        note = json.dumps({"url": self.url, "bytes": size}).encode()
        try:
            os.pwrite(self._descriptor, note, 0)
            os.ftruncate(self._descriptor, len(note))
        except OSError as error:
            raise storage_error(self._base, error) from error
        left = _evict(self._base, self.folder, limit - size)
        if left > limit - size:
            raise StorageError(
                f"{self.url} takes up {megabytes(size)}, and of the {megabytes(limit)} that stores "
                f"at URLs may take up {megabytes(left)} are in use by running programs: "
                "set EMBEDSEARCH_STORE_CACHE_BYTES"
            )
        if plan.missing:
            count = f"{len(plan.missing)} file{'s' if len(plan.missing) > 1 else ''}"
            self._session.notice(f"fetching {count}, {megabytes(plan.bytes)}, of {self.url}")


class _Waiting:
    """Says once that another process is fetching, and looks whether to stop."""

    def __init__(self, url: str, session: Session) -> None:
        self._url = url
        self._session = session
        self._is_said = False

    def __call__(self) -> None:
        self._session.check()
        if not self._is_said:
            self._is_said = True
            self._session.notice(f"another process is fetching {self._url}: waiting for it")


def _lock_shared(descriptor: int, folder: Path) -> None:
    """Claim a folder. Raises StorageError where it is being removed for too long."""
    deadline = time.monotonic() + _REMOVAL_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StorageError(f"{folder} is being removed, for too long") from error
            time.sleep(0.05)
        except OSError as error:
            raise storage_error(folder, error) from error


def _evict(base: Path, mine: Path, room: int) -> int:
    """Remove stores other than `mine`, those not used for longest first, until all fit into `room`.

    Returns how much those take up that are left.
    """
    for debris in base.glob(f"*{_GONE}-*"):
        shutil.rmtree(debris, ignore_errors=True)
    found = []
    for lock in base.glob(f"*{_LOCK}"):
        folder = lock.with_suffix(_STORE)
        if folder != mine and folder.is_dir():
            with contextlib.suppress(OSError):
                found.append((lock.stat().st_mtime_ns, lock, folder))
    sizes = {folder: _size(lock, folder) for _, lock, folder in found}
    left = sum(sizes.values())
    for _, lock, folder in sorted(found):
        if left <= room:
            break
        if _remove(lock, folder):
            left -= sizes[folder]
    return left


def _size(lock: Path, folder: Path) -> int:
    """Return what a store takes up, or will, where it is just being fetched."""
    planned = 0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        planned = int(json.loads(lock.read_bytes()[:4096])["bytes"])
    return max(planned, sum(_file_sizes(folder)))


def _file_sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(place, name)).st_size


def _remove(lock: Path, folder: Path) -> bool:
    """Remove a store that nobody uses; return whether it is gone."""
    try:
        descriptor = os.open(lock, _LOCK_FLAGS, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # In one step: what a killed process leaves of it must not look like a store.
        gone = folder.with_name(f"{folder.stem}{_GONE}-{secrets.token_hex(4)}")
        folder.rename(gone)
        os.ftruncate(descriptor, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(gone, ignore_errors=True)
    return True
