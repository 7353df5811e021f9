"""A store fetched from a server; in: its URL and a folder, out: the same store in that folder.

CURRENT names the manifest, and the manifest names all files, so nothing is listed. A file is
stored once it matches its record; CURRENT is written last. If the fetch is killed at any point,
the folder still holds its previous generation, and finished files are not fetched again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.errors import DamagedStore, EmbedSearchError, StorageError, StoreNotFound
from embedsearch.core.remote import NotThere, Remote, RemoteFile, normal_url
from embedsearch.core.session import Session
from embedsearch.store import current
from embedsearch.store.files import (
    CURRENT_NAME,
    FORMAT_NAME,
    PULLED_NAME,
    FileRecord,
    check_content,
    is_here,
    open_verified,
    read_verified,
    replace,
    verify,
    write_copy,
)
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import sweep, sweep_tmp

# Bytes per request, and parallel requests: their product bounds the memory.
PART_BYTES, PARTS = 8 << 20, 8
_SPARE_BYTES = 64 << 20  # that stay free on the disk
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FetchPlan:
    """The files of a generation that must be fetched, because they are not here."""

    record: FileRecord  # of the manifest
    manifest: Manifest
    missing: Sequence[FileRecord]

    @property
    def bytes(self) -> int:
        """Return the bytes to fetch."""
        return sum(record.bytes for record in self.missing)

    @property
    def whole_bytes(self) -> int:
        """Return the size of the whole generation."""
        return self.record.bytes + sum(record.bytes for record in self.manifest.files())


@dataclass(frozen=True)
class Fetched:
    """The result of a fetch: the generation that the folder holds, and what was done."""

    manifest: Manifest
    files: int = 0  # fetched, without manifest and CURRENT
    bytes: int = 0
    removed: int = 0


@dataclass(frozen=True)
class FetchMonitor:
    """Callbacks of a fetch; `planned` is called before the first byte, and may raise."""

    session: Session
    planned: Callable[[FetchPlan], None] = lambda plan: None
    on_progress: Callable[[int, int], None] = lambda done, total: None


class Upstream:
    """A store at a URL."""

    def __init__(self, url: str, *, hasty: bool = False) -> None:
        """Nothing is sent yet. Raises UsageError and MissingLibrary."""
        self.url = normal_url(url)
        self.remote = Remote(self.url, hasty=hasty)

    def pointer(self) -> bytes:
        """Return the content of CURRENT. Raises StoreNotFound and StorageError."""
        try:
            return self._small(CURRENT_NAME, current.MAX_POINTER_BYTES)
        except NotThere as error:
            problem = "there is no store: it has no CURRENT"
            with suppress(StorageError):  # some users may read a bucket but not query its existence
                if not self.remote.has_bucket():
                    problem = "there is no such bucket"
            raise StoreNotFound(f"{self.url}: {problem}") from error

    def record(self, pointer: bytes) -> FileRecord:
        """Return the manifest that a CURRENT names. Raises DamagedStore."""
        try:
            return current.pointed_at(pointer)
        except ValueError as error:
            raise self._damaged(CURRENT_NAME, f"cannot be parsed ({error})") from error

    def manifest(self, record: FileRecord, data: bytes | None) -> tuple[bytes, Manifest]:
        """Return a checked manifest, from `data` if it is already here.

        Raises DamagedStore, IncompatibleStore and StorageError.
        """
        if data is None:
            data = self._small(record.relative, record.bytes)
            origin = f"{self.url}/{record.relative}"
            check_content(record, len(data), hashlib.sha256(data).hexdigest(), origin)
        try:
            manifest = Manifest.from_bytes(data)
            if record.name != f"m-{manifest.generation:08d}.json":
                raise ValueError(f"it is of generation {manifest.generation}")
            _check_records([record, *manifest.files()])
        except ValueError as error:
            raise self._damaged(record.relative, f"is malformed ({error})") from error
        return data, manifest

    def check_format(self) -> None:
        """Raise StoreNotFound or IncompatibleStore unless this version reads it."""
        try:
            current.check_format_text(self.url, self._small(FORMAT_NAME, current.MAX_FORMAT_BYTES))
        except NotThere as error:
            raise StoreNotFound(
                f"there is no store at {self.url}: it has no file FORMAT"
            ) from error

    def _small(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a small file, at most `max_bytes` + 1 of it."""
        file = RemoteFile(self.remote, name, max_bytes, max_bytes + 1)
        try:
            return file.part(0)
        finally:
            with self.remote.told(name):
                file.close()

    def _damaged(self, name: str, why: str) -> DamagedStore:
        return DamagedStore(f"{self.url}/{name} {why}; copy the store there again, CURRENT last")


def take(upstream: Upstream, store: Path, watch: FetchMonitor, *, keep_former: bool) -> Fetched:
    """Fetch the newest generation at the URL into the folder; the former one may stay.

    The caller holds the writer's lock of the folder, which `create_store` made. Raises
    DamagedStore if a file at the URL does not match its record, and StorageError if it cannot be
    fetched; the folder is then unchanged.
    """
    sweep_tmp(store)
    for _ in range(current.OPEN_TRIES):
        pointer = upstream.pointer()
        try:
            return _take(upstream, pointer, store, watch, keep_former=keep_former)
        except (NotThere, DamagedStore) as error:
            if upstream.pointer() != pointer:
                continue  # a newer commit swept the requested files
            if isinstance(error, DamagedStore):
                raise
            message = f"{error}; copy the store there again, CURRENT last"
            raise DamagedStore(message) from error
    raise StorageError(f"{upstream.url} is being written faster than it can be fetched: try again")


def is_whole(store: Path, manifest: Manifest) -> bool:
    """Return whether all files of a generation are here with the right length."""
    return all(is_here(store, record) for record in manifest.files())


def generation_here(store: Path) -> Manifest | None:
    """Return the generation that the folder holds, None if it holds none that can be read."""
    with suppress(EmbedSearchError):
        return current.read_current(store)
    return None


def _take(
    upstream: Upstream, pointer: bytes, store: Path, watch: FetchMonitor, *, keep_former: bool
) -> Fetched:
    record = upstream.record(pointer)
    former, known = generation_here(store), _record_here(store)
    if former is None:
        upstream.check_format()
    data = read_verified(store, record) if known == record and former is not None else None
    data, manifest = upstream.manifest(record, data)
    trusted = {_identity(item) for item in former.files()} if former is not None else set()
    missing = [item for item in manifest.files() if not _has(store, item, trusted)]
    plan = FetchPlan(record, manifest, missing)
    watch.planned(plan)
    _check_space(store, plan)
    _fetch(upstream, store, plan, watch)
    if known != record or former is None:
        write_copy(store, record, [data], f"{upstream.url}/{record.relative}")
    if current.current_pointer(store) != pointer:
        # Both manifests: if killed between these two writes, the folder still counts as a copy.
        manifests = [record.sha256, *([] if known is None else [known.sha256])]
        note = {"url": upstream.url, "manifests": manifests}
        replace(store, PULLED_NAME, json.dumps(note).encode() + b"\n")
        replace(store, CURRENT_NAME, pointer)
    kept = [former] if keep_former and former is not None else []
    return Fetched(manifest, len(missing), plan.bytes, sweep(store, [manifest, *kept]))


def _check_records(records: Sequence[FileRecord]) -> None:
    """Raise ValueError for malformed lengths and checksums, and for duplicate names."""
    for record in records:
        if type(record.bytes) is not int or record.bytes < 0:
            raise ValueError(f"{record.name} has {record.bytes!r} bytes")
        if not isinstance(record.sha256, str) or not _SHA256.fullmatch(record.sha256):
            raise ValueError(f"{record.name} has no sha256")
    if len({record.name for record in records}) != len(records):
        raise ValueError("a file is named twice")


def _record_here(store: Path) -> FileRecord | None:
    pointer = current.current_pointer(store)
    with suppress(ValueError):
        return None if pointer is None else current.pointed_at(pointer)
    return None


def _identity(record: FileRecord) -> tuple[str, int, str]:
    return record.name, record.bytes, record.sha256


def _has(store: Path, record: FileRecord, trusted: set[tuple[str, int, str]]) -> bool:
    """Return whether a file is here; untrusted files are compared with their sha256."""
    if _identity(record) in trusted:
        return is_here(store, record)
    with suppress(DamagedStore), open(open_verified(store, record), "rb") as file:
        verify(store, record, file.fileno())
        return True
    return False


def _check_space(store: Path, plan: FetchPlan) -> None:
    if plan.missing and plan.bytes + _SPARE_BYTES > (free := shutil.disk_usage(store).free):
        raise StorageError(
            f"{store}: {megabytes(plan.bytes)} must be fetched, but {megabytes(free)} are free "
            "on that disk: free some space"
        )


def megabytes(size: int) -> str:
    """Return a number of bytes as text in MB."""
    return f"{size / 1e6:,.1f} MB"


def _fetch(upstream: Upstream, store: Path, plan: FetchPlan, watch: FetchMonitor) -> None:
    """Fetch several parts at a time, of one or several files, and write the files in order."""
    files = [
        RemoteFile(upstream.remote, record.relative, record.bytes, PART_BYTES)
        for record in plan.missing
    ]
    done = 0
    parts = _ahead(files)
    try:
        for record, file in zip(plan.missing, files, strict=True):

            def of_this_file(file: RemoteFile = file) -> Iterator[bytes]:
                nonlocal done
                for part in itertools.islice(parts, file.parts):
                    watch.session.check()
                    done += len(part)
                    watch.on_progress(done, plan.bytes)
                    yield part

            write_copy(store, record, of_this_file(), f"{upstream.url}/{record.relative}")
            with upstream.remote.told(record.relative):
                file.close()
    finally:
        parts.close()


def _ahead(files: Sequence[RemoteFile]) -> Generator[bytes, None, None]:
    """Yield the parts of all files in order; the next parts are fetched in advance."""
    waiting: deque[Future[bytes]] = deque()
    rest = ((file, number) for file in files for number in range(file.parts))
    with ThreadPoolExecutor(PARTS, "fetch") as pool:
        try:
            while True:
                for file, number in itertools.islice(rest, PARTS - len(waiting)):
                    waiting.append(pool.submit(file.part, number))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
