"""Stores at URLs as folders in the user's cache; in: a URL, out: a folder that is that store.

Each URL has a folder and a lock file; users of the folder hold a shared lock on that file. The
total size of all folders is bounded: the least recently used are removed, except those in use. (An
open file stays readable after its removal, so readers lose nothing even on network file systems
that do not support these locks.)
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
from embedsearch.core.system import STORES_NAME, store_cache_bytes, writable_cache_folder
from embedsearch.store import fetch
from embedsearch.store.current import current_pointer
from embedsearch.store.files import storage_error
from embedsearch.store.lock import WriterLock, no_locks
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import create_store

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_WAIT_S = 3600.0  # for another process that fetches the same store
_BRIEF_WAIT_S = 2.0  # if an older generation is here to answer from
_REMOVAL_WAIT_S = 60.0  # for another process that is removing it
_AGAIN_S = 600.0  # before damaged files are fetched again, with `follow`
_STORE, _LOCK, _GONE = ".es", ".lock", ".gone"


class Mirror:
    """The folder of a store at a URL, in use until `close`; or use it as a context manager."""

    def __init__(self, url: str, session: Session) -> None:
        """Claim the folder; nothing is fetched yet. Raises UsageError and StorageError."""
        upstream = fetch.Upstream(url)
        self.url = upstream.url
        self._session = session
        self._damaged: tuple[bytes, float, str] | None = None  # CURRENT, time, message
        self._base = writable_cache_folder() / STORES_NAME
        name = hashlib.sha256(upstream.remote.identity.encode()).hexdigest()[:32]
        self.folder = self._base / f"{name}{_STORE}"
        try:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._base / f"{name}{_LOCK}", _LOCK_FLAGS, 0o600)
        except OSError as error:
            message = f"{self._base}: {error.strerror}; EMBEDSEARCH_CACHE sets another folder"
            raise StorageError(message) from error
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
        """Release the folder; it may be removed from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def open(self) -> None:
        """Bring the folder up to date; if that fails, use an older generation if there is one.

        Raises StoreNotFound, DamagedStore, StorageError.
        """
        here = self._here()
        try:
            self._update(hasty=here is not None)
        except (StorageError, StoreLocked) as error:
            if here is None or isinstance(error, Refused):
                raise
            fallback = f"answering from generation {here.generation}, which was fetched before"
            self._session.notice(f"{error}; {fallback}")

    def update(self) -> None:
        """Bring the folder up to date. Raises StoreNotFound, DamagedStore, StorageError."""
        self._update(hasty=False)

    def _here(self) -> Manifest | None:
        manifest = fetch.generation_here(self.folder)
        return manifest if manifest is not None and fetch.is_whole(self.folder, manifest) else None

    def _update(self, *, hasty: bool) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk is reported elsewhere
            os.utime(self._descriptor)
        pointer = fetch.Upstream(self.url, hasty=hasty).pointer()
        if pointer == current_pointer(self.folder) and self._here() is not None:
            return
        if self._damaged is not None:
            before, when, message = self._damaged
            if before == pointer and time.monotonic() - when < _AGAIN_S:
                raise DamagedStore(message)
        create_store(self.folder)

        def notice(_: str) -> None:
            self._session.notice(f"another process is fetching {self.url}: waiting for it")

        wait_s = _BRIEF_WAIT_S if hasty else _WAIT_S
        lock = WriterLock(self.folder, wait_s, self._session.check, notice)
        try:
            watch = fetch.FetchMonitor(self._session, self._make_room)
            fetch.take(fetch.Upstream(self.url), self.folder, watch, keep_former=False)
        except DamagedStore as error:
            self._damaged = pointer, time.monotonic(), str(error)
            raise
        finally:
            lock.release()

    def _make_room(self, plan: fetch.FetchPlan) -> None:
        """Remove other stores if this one needs their space. Raises StorageError."""
        limit = store_cache_bytes()
        most = fetch.megabytes(limit)
        if (size := plan.whole_bytes) > limit:
            raise StorageError(
                f"{self.url} takes up {fetch.megabytes(size)}, and stores at URLs may take up "
                f"{most}: set EMBEDSEARCH_STORE_CACHE_BYTES, or copy it to a store of "
                f"your own: embedsearch pull {self.url}"
            )
        # Noted before the fetch, so that two fetching processes do not both use the free space.
        note = json.dumps({"url": self.url, "bytes": size}).encode()
        try:
            os.pwrite(self._descriptor, note, 0)
            os.ftruncate(self._descriptor, len(note))
        except OSError as error:
            raise storage_error(self._base, error) from error
        if (left := _evict(self._base, self.folder, limit - size)) > limit - size:
            raise StorageError(
                f"{self.url} takes up {fetch.megabytes(size)}, and of the {most} that stores at "
                f"URLs may take up {fetch.megabytes(left)} are in use by running programs: "
                "set EMBEDSEARCH_STORE_CACHE_BYTES"
            )
        if plan.missing:
            count = f"{len(plan.missing)} file{'s' if len(plan.missing) > 1 else ''}"
            self._session.notice(f"fetching {count}, {fetch.megabytes(plan.bytes)}, of {self.url}")


def _lock_shared(descriptor: int, folder: Path) -> None:
    """Claim a folder. Raises StorageError if its removal takes too long."""
    deadline = time.monotonic() + _REMOVAL_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StorageError(f"the removal of {folder} takes too long") from error
            time.sleep(0.05)
        except OSError as error:
            raise no_locks(folder, error, "EMBEDSEARCH_CACHE moves the cache folder") from error


def _evict(base: Path, own: Path, limit: int) -> int:
    """Remove the least recently used stores, except `own`, until the rest fit into `limit` bytes.

    Returns the bytes that the rest take up.
    """
    for debris in base.glob(f"*{_GONE}-*"):
        shutil.rmtree(debris, ignore_errors=True)
    found = []
    for lock in base.glob(f"*{_LOCK}"):
        folder = lock.with_suffix(_STORE)
        if folder != own and folder.is_dir():
            with contextlib.suppress(OSError):
                found.append((lock.stat().st_mtime_ns, lock, folder))
    sizes = {folder: _size(lock, folder) for _, lock, folder in found}
    left = sum(sizes.values())
    for _, lock, folder in sorted(found):
        if left <= limit:
            break
        if _remove(lock, folder):
            left -= sizes[folder]
    return left


def _size(lock: Path, folder: Path) -> int:
    """Return the bytes that a store takes up, or will take up when it is fetched."""
    planned = 0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        planned = int(json.loads(lock.read_bytes()[:4096])["bytes"])
    return max(planned, sum(_file_sizes(folder)))


def _file_sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(parent, name)).st_size


def _remove(lock: Path, folder: Path) -> bool:
    """Remove a store that is not in use; return whether it is gone."""
    try:
        descriptor = os.open(lock, _LOCK_FLAGS, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Rename first: a half-removed folder must not look like a store.
        gone = folder.with_name(f"{folder.stem}{_GONE}-{secrets.token_hex(4)}")
        folder.rename(gone)
        os.ftruncate(descriptor, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(gone, ignore_errors=True)
    return True
