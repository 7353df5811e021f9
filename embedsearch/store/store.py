"""A store on disk: open a generation for reading, commit the next one, sweep, check, repair.

Readers take no lock: they open every file of a generation first, after which a sweep by the
writer does them no harm, and start over with the newer generation when one was swept before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.errors import (
    DamagedStore,
    IncompatibleStore,
    StorageError,
    StoreNotFound,
    UsageError,
)
from embedsearch.records import Failure
from embedsearch.store.files import (
    CURRENT_NAME,
    FOLDERS,
    FORMAT_NAME,
    FORMAT_TEXT,
    LOCK_NAME,
    TMP_NAME,
    FileRecord,
    damaged,
    open_verified,
    read_verified,
    storage_error,
    strict_json,
    verify,
    write_new,
)
from embedsearch.store.files import replace as replace_file
from embedsearch.store.lock import WriterLock
from embedsearch.store.manifest import MAX_BYTES, ExactRecord, Manifest, Segment, ShardRecord
from embedsearch.store.shards import Shard, failures_of

_OPEN_TRIES = 5
_TMP_FILE = re.compile(r"[0-9]+-[0-9a-f]{16}")
_OWN_NAMES = {FORMAT_NAME, CURRENT_NAME, LOCK_NAME, TMP_NAME, "meta", *FOLDERS.values()}


class Snapshot:
    """One generation, every file of it open; close it, or use it as a context manager."""

    def __init__(self, store: Path, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.shards: list[Shard] = []
        self.exact: dict[str, int | DamagedStore] = {}  # absent where the file is missing
        try:
            for record in manifest.shards:
                self.shards.append(Shard(store, record, manifest.model.dim))
            for exact in manifest.exact:
                if (store / exact.relative).exists():
                    self.exact[exact.name] = _open_cache(store, exact)
            rows = [record.rows for record in manifest.shards]
            self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
            self.deleted = read_deleted(store, manifest)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all files."""
        for shard in self.shards:
            shard.close()
        self.shards = []
        for descriptor in self.exact.values():
            if isinstance(descriptor, int):
                os.close(descriptor)
        self.exact = {}

    def live_mask(self) -> npt.NDArray[np.bool_]:
        """Return bool (all shard rows,): False for deleted rows. Reads row numbers if any is."""
        mask = np.ones(int(self.starts[-1]), dtype=np.bool_)
        if self.deleted.size:
            for shard, start in zip(self.shards, self.starts, strict=False):
                position = int(start)
                for table in shard.columns(["row"]):
                    rows = table.column("row").to_numpy()
                    dead = np.isin(rows, self.deleted, assume_unique=True)
                    mask[position : position + len(rows)] = ~dead
                    position += len(rows)
        if int(mask.sum()) != self.manifest.live:
            raise damaged(self.store, "manifests", "do not agree with the rows of the shards")
        return mask

    def take(self, ordinals: npt.NDArray[np.int64], names: list[str]) -> pa.Table:
        """Return the named columns of the rows at `ordinals` (shard rows end to end), in order."""
        which = np.searchsorted(self.starts, ordinals, side="right") - 1
        parts, places = [], []
        for number in np.unique(which):
            mine = np.flatnonzero(which == number)
            parts.append(self.shards[number].take(ordinals[mine] - self.starts[number], names))
            places.append(mine)
        order = np.empty(len(ordinals), dtype=np.int64)
        order[np.concatenate(places)] = np.arange(len(ordinals))
        return pa.concat_tables(parts).take(order)


def read_failures(store: Path, manifest: Manifest) -> list[Failure]:
    """Return the files that could not be indexed. Raises DamagedStore."""
    record = manifest.failures
    return [] if record is None else failures_of(_small_table(store, record))


def read_deleted(store: Path, manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return the row numbers that count as deleted, sorted. Raises DamagedStore."""
    record = manifest.deleted
    if record is None:
        return np.empty(0, dtype=np.int64)
    rows = _small_table(store, record).column("row").to_numpy().astype(np.int64)
    if len(rows) != manifest.deleted_rows:
        raise damaged(store, record.relative, "has another number of rows than it should")
    return np.sort(rows)


def _open_cache(store: Path, record: ExactRecord) -> int | DamagedStore:
    """Open a FAISS file; what a damaged one means is for the searcher to say."""
    try:
        return open_verified(store, record)
    except DamagedStore as error:
        return error


def _small_table(store: Path, record: FileRecord) -> pa.Table:
    data = read_verified(store, record)
    return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)


def open_snapshot(store: Path) -> Snapshot:
    """Open the current generation of a store.

    Raises StoreNotFound, IncompatibleStore, DamagedStore.
    """
    check_format(store)
    for _ in range(_OPEN_TRIES):
        manifest = read_current(store)
        try:
            snapshot = Snapshot(store, manifest)
        except DamagedStore:
            if read_current(store).generation == manifest.generation:
                raise  # not a sweep by a newer commit: the file is really gone
            continue
        whole = len(snapshot.exact) == len(manifest.exact)
        if whole or read_current(store).generation == manifest.generation:
            return snapshot
        snapshot.close()
    raise StorageError(f"{store} is committed to faster than it can be opened: try again")


def check_format(store: Path) -> None:
    """Raise unless `store` is a folder that embedsearch made and this version reads."""
    try:
        text = (store / FORMAT_NAME).read_bytes()[:64]
    except FileNotFoundError:
        raise StoreNotFound(
            f"{store} is no store: make one with embedsearch index FOLDER"
        ) from None
    except OSError as error:
        raise StorageError(f"{store}: {error.strerror}") from error
    if text != FORMAT_TEXT:
        if text.startswith(b"embedsearch ") and text[12:].strip().isdigit():
            raise IncompatibleStore(
                f"{store} has format {text[12:].strip().decode()}, this embedsearch reads "
                f"{FORMAT_TEXT[12:].strip().decode()}: pip install --upgrade embedsearch"
            )
        raise StoreNotFound(f"{store} is no store: its FORMAT file says something else")


def read_current(store: Path) -> Manifest:
    """Return the manifest that CURRENT names. Raises StoreNotFound or DamagedStore."""
    for attempt in range(_OPEN_TRIES):
        try:
            pointer = (store / CURRENT_NAME).read_bytes()[:4096]
        except FileNotFoundError:
            if _first_commit_unfinished(store):
                raise StoreNotFound(
                    f"nothing was committed to {store} yet: run embedsearch index FOLDER"
                ) from None
            raise damaged(store, CURRENT_NAME, "is missing") from None
        except OSError as error:
            raise StorageError(f"{store / CURRENT_NAME}: {error.strerror}") from error
        try:
            values = strict_json(pointer)
            record = FileRecord(values["manifest"], int(values["bytes"]), values["sha256"])
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(store, CURRENT_NAME, f"is garbage ({error})") from error
        if record.bytes > MAX_BYTES:
            raise damaged(store, record.relative, f"claims {record.bytes} bytes")
        try:
            return _parse_manifest(store, record)
        except DamagedStore:
            # Between reading CURRENT and the manifest two commits may have passed.
            if attempt == _OPEN_TRIES - 1 or (store / CURRENT_NAME).read_bytes() == pointer:
                raise
            time.sleep(0.05)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _parse_manifest(store: Path, record: FileRecord) -> Manifest:
    try:
        return Manifest.from_bytes(read_verified(store, record))
    except ValueError as error:
        raise damaged(store, record.relative, f"is malformed ({error})") from error


def _first_commit_unfinished(store: Path) -> bool:
    """True if no generation was ever acknowledged: at most the very first manifest lies there."""
    names = [path.name for path in (store / "manifests").glob("m-*.json")]
    return all(name == "m-00000001.json" for name in names)


@dataclass(frozen=True)
class Problem:
    """One finding of `check`."""

    file: str
    words: str


def check_store(store: Path, *, read_data: bool) -> tuple[Manifest, list[Problem]]:
    """Verify a store: every sha256, and with `read_data` every page of every shard.

    Returns the manifest and what is wrong; raises what opening the manifest raises.
    """
    check_format(store)
    manifest = read_current(store)
    problems = []
    for record in manifest.files():
        try:
            descriptor = open_verified(store, record)
            try:
                verify(store, record, descriptor)
            finally:
                os.close(descriptor)
        except DamagedStore as error:
            problems.append(Problem(record.relative, str(error)))
    if read_data and not problems:
        try:
            with Snapshot(store, manifest) as snapshot:
                snapshot.live_mask()
                read_failures(store, manifest)
                seen: set[int] = set()
                for shard in snapshot.shards:
                    _check_rows(store, shard, seen)
        except DamagedStore as error:
            problems.append(Problem("shards", str(error)))
    for path in sorted(foreign_files(store)):
        problems.append(Problem(path, f"{store / path} does not belong to a store"))
    return manifest, problems


def _check_rows(store: Path, shard: Shard, seen: set[int]) -> None:
    for table in shard.columns(["row", "vector"]):
        rows = table.column("row").to_numpy()
        if not seen.isdisjoint(rows.tolist()) or len(np.unique(rows)) != len(rows):
            raise damaged(store, shard.record.relative, "has a row number twice")
        seen.update(rows.tolist())
        vectors = table.column("vector").combine_chunks().flatten().to_numpy()
        norms = np.linalg.norm(vectors.astype(np.float32).reshape(len(rows), -1), axis=1)
        if not np.all(np.abs(norms - 1.0) < 2e-3):  # float16 keeps a unit norm to 1e-3
            raise damaged(store, shard.record.relative, "has vectors that are not unit vectors")


def foreign_files(store: Path) -> Iterator[str]:
    """Yield relative paths in the store that no embedsearch wrote."""
    for entry in store.iterdir():
        if entry.name not in _OWN_NAMES:
            yield entry.name
    for folder in sorted(set(FOLDERS.values())):
        for path in (store / folder).glob("*"):
            if not _is_own_name(path.name):
                yield f"{folder}/{path.name}"


class StoreWriter:
    """The one writer of a store, from lock to release; use as a context manager."""

    def __init__(self, store: Path, wait_s: float = 0.0) -> None:
        self.store = store
        create_store(store)
        self._lock = WriterLock(store, wait_s)
        try:
            self._sweep_tmp()
            try:
                self.manifest: Manifest | None = read_current(store)
            except StoreNotFound:
                self.manifest = None
            self._base = self.manifest
            self._sweep(self._committed())
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def next_generation(self) -> int:
        """Return the number that the next commit will have."""
        return 1 if self.manifest is None else self.manifest.generation + 1

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the current generation. When this returns it survives a power cut.

        The files that it names are on the disk already. Raises StorageError, with the former
        generation still current.
        """
        manifest = replace(
            manifest,
            generation=self.next_generation,
            parent=0 if self.manifest is None else self.manifest.generation,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        record = write_new(self.store, "m", manifest.generation, "json", [manifest.to_bytes()])
        _point(self.store, manifest.generation, record)
        self.manifest = manifest
        self._lock.touch()
        # The one before this run stays for going back, and for readers that are just opening it.
        self._sweep([manifest, *([] if self._base is None else [self._base])])

    def _sweep_tmp(self) -> None:
        with contextlib.suppress(OSError):  # debris costs space only; the next run tries again
            for path in (self.store / TMP_NAME).iterdir():
                path.unlink()

    def _committed(self) -> list[Manifest]:
        """Return the generations on disk up to the current one; later ones were never committed."""
        found = [] if self.manifest is None else [self.manifest]
        for path in (self.store / "manifests").glob("m-*.json"):
            with contextlib.suppress(OSError, ValueError, IncompatibleStore):  # no help to anyone
                manifest = Manifest.from_bytes(path.read_bytes())
                if found and manifest.generation < found[0].generation:
                    found.append(manifest)
        return found

    def _sweep(self, kept: list[Manifest]) -> None:
        """Remove the store's files that none of these generations needs."""
        needed = {record.relative for manifest in kept for record in manifest.files()}
        needed |= {f"manifests/m-{manifest.generation:08d}.json" for manifest in kept}
        for folder in sorted(set(FOLDERS.values())):
            for path in sorted((self.store / folder).glob("*")):
                ours = f"{folder}/{path.name}"
                if ours not in needed and _is_own_name(path.name):
                    with contextlib.suppress(OSError):  # as above
                        path.unlink()


def _point(store: Path, generation: int, record: FileRecord) -> None:
    """Replace CURRENT: from here on, `generation` is the store."""
    pointer = {
        "generation": generation,
        "manifest": record.name,
        "bytes": record.bytes,
        "sha256": record.sha256,
    }
    replace_file(store, CURRENT_NAME, json.dumps(pointer, sort_keys=True).encode() + b"\n")


def _is_own_name(name: str) -> bool:
    try:
        FileRecord(name, 0, "")
    except ValueError:
        return False
    return True


def check_creatable(store: Path) -> None:
    """Raise UsageError unless `store` is a store, an empty folder, or not there yet."""
    try:
        if not store.exists() and not store.is_symlink():
            return
        if not store.is_dir():
            raise UsageError(f"--store {store} is a file, not a folder")
        names = set(os.listdir(store))
        if FORMAT_NAME not in names and not _is_unfinished(store, names):
            raise UsageError(f"--store {store} is a folder of something else; nothing was done")
    except OSError as error:
        raise storage_error(store, error) from error


def create_store(store: Path) -> None:
    """Make an empty store, or accept one that is there. Raises what `check_creatable` does."""
    check_creatable(store)
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (store / FORMAT_NAME).exists():
            (store / TMP_NAME).mkdir(mode=0o700, exist_ok=True)
            replace_file(store, FORMAT_NAME, FORMAT_TEXT)
        check_format(store)
        for name in sorted({TMP_NAME, *FOLDERS.values()}):
            (store / name).mkdir(mode=0o700, exist_ok=True)
    except StoreNotFound as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise storage_error(store, error) from error


def _is_unfinished(store: Path, names: set[str]) -> bool:
    """True for an empty folder, and for what a run killed in `create_store` leaves behind."""
    debris = os.listdir(store / TMP_NAME) if names == {TMP_NAME} else []
    return names <= {TMP_NAME} and all(_TMP_FILE.fullmatch(name) for name in debris)


def restore_pointer(store: Path) -> int | None:
    """Point CURRENT at the newest generation whose shards are whole, if CURRENT is damaged.

    Returns that generation, or None where CURRENT was sound. Raises DamagedStore if there is
    no whole generation left. The caller holds the writer's lock.
    """
    with contextlib.suppress(DamagedStore):
        read_current(store)
        return None
    for path in sorted((store / "manifests").glob("m-*.json"), reverse=True):
        data = path.read_bytes()[: MAX_BYTES + 1]
        try:
            record = FileRecord(path.name, len(data), hashlib.sha256(data).hexdigest())
            manifest = Manifest.from_bytes(data)
            Snapshot(store, manifest).close()
        except (ValueError, DamagedStore):
            continue
        _point(store, manifest.generation, record)
        return manifest.generation
    raise DamagedStore(f"{store} holds no whole generation: index the folders again")


def segments_of(shards: Iterable[ShardRecord]) -> tuple[Segment, ...]:
    """Return the segments of a FAISS file over these shards, in their order."""
    return tuple(Segment(shard.name, shard.rows) for shard in shards)


def write_exact(
    store: Path, generation: int, shards: Iterable[ShardRecord], data: memoryview
) -> ExactRecord:
    """Write a flat FAISS file over `shards`."""
    record = write_new(store, "e", generation, "faiss", [data])
    return ExactRecord(record.name, record.bytes, record.sha256, segments_of(shards))
