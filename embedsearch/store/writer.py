"""The one writer of a store: create it, commit the next generation, sweep, restore CURRENT.

Files are added, never changed; only CURRENT is replaced, as the last step.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from embedsearch.core.errors import (
    IncompatibleStore,
    PlanOpen,
    StorageError,
    StoreNotFound,
    UsageError,
)
from embedsearch.core.paths import printable
from embedsearch.core.session import Session
from embedsearch.store import files
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import (
    CURRENT_NAME,
    FOLDERS,
    FORMAT_NAME,
    FORMAT_TEXT,
    LOCK_NAME,
    TMP_NAME,
    FileRecord,
    is_own_name,
    listed,
    replace as replace_file,
    storage_error,
    sync_folder,
    write_new,
)
from embedsearch.store.lock import WriterLock, check_lockable
from embedsearch.store.manifest import MAX_BYTES, ExactRecord, Manifest, Segment, ShardRecord
from embedsearch.store.units import drop, has_plan

_TMP_FILE = re.compile(r"[0-9]+-[0-9a-f]{16}")

T = TypeVar("T")


class StoreWriter:
    """The one writer of a store, from lock to release; use as a context manager."""

    def __init__(
        self,
        store: Path,
        wait_s: float = 0.0,
        session: Session | None = None,
        *,
        for_units: bool = False,
    ) -> None:
        """Take the lock, as WriterLock does, and remove what a killed run left behind.

        Raises PlanOpen while a plan of units is open, unless this is `for_units`: the plan adds
        to the current generation.
        """
        self.store = store
        create_store(store)
        session = session or Session()
        self._lock = WriterLock(store, wait_s, session.check, session.notice)
        try:
            if has_plan(store) and not for_units:
                raise PlanOpen(
                    f"{store} has an open plan of units: finish it with embedsearch commit, or "
                    "discard it with embedsearch commit --drop"
                )
            sweep_tmp(store)
            if not has_plan(store):  # left of a plan that was not written completely
                drop(store)
            try:
                self.manifest: Manifest | None = read_current(store)
            except StoreNotFound:
                self.manifest = None
            self._base = self.manifest
            sweep(store, generations(store, self.manifest))
        except BaseException:
            self._lock.release()
            raise
        self._thread = ThreadPoolExecutor(1, "store-writer")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)  # nothing may be written without the lock
        self._lock.release()

    @property
    def next_generation(self) -> int:
        """Return the number of the next commit."""
        return 1 if self.manifest is None else self.manifest.generation + 1

    def beside(self, work: Callable[[], T]) -> Future[T]:
        """Write a file in the background, one after another."""
        return self._thread.submit(work)

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the current generation; when this returns, it survives a power cut.

        The files that it names must be on the disk already. On StorageError, the former
        generation stays current.
        """
        manifest = replace(
            manifest,
            generation=self.next_generation,
            parent=0 if self.manifest is None else self.manifest.generation,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        record = write_new(self.store, "m", manifest.generation, "json", [manifest.to_bytes()])
        point(self.store, manifest.generation, record)
        self.manifest = manifest
        self._lock.touch()
        # The generation before this run stays for rollback and for readers that are opening it.
        sweep(self.store, [manifest, *([] if self._base is None else [self._base])])


def sweep_tmp(store: Path) -> None:
    """Remove what a killed writer left unfinished; the caller holds the writer's lock."""
    with contextlib.suppress(OSError):  # leftovers only cost space; the next run tries again
        for path in (store / TMP_NAME).iterdir():
            path.unlink()


def sweep(store: Path, kept: list[Manifest]) -> int:
    """Remove the store's files that none of these generations need; return how many."""
    needed = {record.relative for manifest in kept for record in manifest.files()}
    needed |= {f"manifests/m-{manifest.generation:08d}.json" for manifest in kept}
    removed = 0
    for folder in sorted(set(FOLDERS.values())):
        with contextlib.suppress(StorageError):  # as above
            for name in listed(store, folder):
                if f"{folder}/{name}" not in needed and is_own_name(name):
                    with contextlib.suppress(OSError):
                        (store / folder / name).unlink()
                        removed += 1
    return removed


def generations(store: Path, current: Manifest | None) -> list[Manifest]:
    """Return the current generation and those before it that are on the disk, the newest first.

    Later ones were never committed, or were undone by `repair`. Raises StorageError for one that
    cannot be read now: it must not be swept.
    """
    if current is None:
        return []
    found = []
    for path in manifests_of(store):
        try:
            manifest = Manifest.from_bytes(read_manifest(path))
        except StorageError:
            if os.path.lexists(path):
                raise
        except (ValueError, IncompatibleStore):  # useless to readers
            continue
        else:
            if manifest.generation < current.generation:
                found.append(manifest)
    return [current, *sorted(found, key=lambda manifest: -manifest.generation)]


def manifests_of(store: Path) -> list[Path]:
    """Return the manifests on the disk, the oldest first. Raises StorageError."""
    names = [name for name in listed(store, FOLDERS["m"]) if is_own_name(name)]
    return [store / FOLDERS["m"] / name for name in names]


def read_manifest(path: Path) -> bytes:
    """Return the content of a manifest, at most MAX_BYTES + 1. Raises StorageError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise storage_error(path, error) from error


def point(store: Path, generation: int, record: FileRecord) -> None:
    """Replace CURRENT: from here on, `generation` is current."""
    pointer = {
        "generation": generation,
        "manifest": record.name,
        "bytes": record.bytes,
        "sha256": record.sha256,
    }
    replace_file(store, CURRENT_NAME, json.dumps(pointer, sort_keys=True).encode() + b"\n")


def check_creatable(store: Path) -> None:
    """Raise UsageError unless `store` is a store, an empty folder, or not there yet."""
    try:
        if not store.exists() and not store.is_symlink():
            return
        if not store.is_dir():
            raise UsageError(f"store {store} is a file, not a folder", "store")
        names = set(os.listdir(store))
        if FORMAT_NAME not in names and not _is_unfinished(store, names):
            held = sorted(name for name in names if not files.is_of_the_system(name))
            more = f" and {len(held) - 1} more" if len(held) > 1 else ""
            raise UsageError(
                f"{store} is a folder of something else; nothing was done: it holds "
                f"{printable(held[0])}{more}, so name an empty folder or a new one",
                "store",
            )
    except OSError as error:
        raise storage_error(store, error) from error


def create_store(store: Path) -> None:
    """Create an empty store, or accept an existing one. Raises what `check_creatable` raises."""
    check_creatable(store)
    try:
        is_new, made = not store.exists(), [f for f in store.parents if not f.exists()]
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (store / CURRENT_NAME).exists():  # a commit must not be lost with its store's name
            for folder in (store, *made):
                with contextlib.suppress(PermissionError):  # it cannot be listed: go on without
                    sync_folder(folder.parent)
        if not (store / FORMAT_NAME).exists():
            (store / TMP_NAME).mkdir(mode=0o700, exist_ok=True)
            try:
                check_lockable(store)
            except StorageError:
                for folder in (store / TMP_NAME, *([store, *made] if is_new else ())):
                    with contextlib.suppress(OSError):  # others have put something there
                        folder.rmdir()
                raise
            try:
                replace_file(store, FORMAT_NAME, FORMAT_TEXT)
            except StorageError:  # the first writer may have swept the new file from under this one
                if not (store / FORMAT_NAME).exists():
                    raise
        check_format(store)
        missing = [n for n in sorted({TMP_NAME, *FOLDERS.values()}) if not (store / n).is_dir()]
        for name in missing:
            (store / name).mkdir(mode=0o700, exist_ok=True)
        if missing:
            sync_folder(store)
    except StoreNotFound as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise storage_error(store, error) from error


def _is_unfinished(store: Path, names: set[str]) -> bool:
    """Return whether a folder is empty, or was left by a run that was killed in `create_store`.

    What file systems and desktops put into every folder does not count.
    """
    names = {name for name in names if not files.is_of_the_system(name)}
    debris = os.listdir(store / TMP_NAME) if TMP_NAME in names else []
    return names <= {TMP_NAME, LOCK_NAME} and all(_TMP_FILE.fullmatch(name) for name in debris)


def segments_of(shards: Iterable[ShardRecord]) -> tuple[Segment, ...]:
    """Return the segments of a FAISS file over these shards, in their order."""
    return tuple(Segment(shard.name, shard.rows) for shard in shards)


def write_exact(
    store: Path, generation: int, shards: Iterable[ShardRecord], data: Iterable[bytes]
) -> ExactRecord:
    """Write a flat FAISS file over `shards`."""
    record = write_new(store, "e", generation, "faiss", data)
    return ExactRecord(record.name, record.bytes, record.sha256, segments_of(shards))
