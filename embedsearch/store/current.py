"""The current generation of a store; in: a store, out: its manifest; nothing else is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from embedsearch.core.errors import DamagedStore, IncompatibleStore, StorageError, StoreNotFound
from embedsearch.core.strict_json import strict_json
from embedsearch.store import files
from embedsearch.store.manifest import MAX_BYTES, Manifest

OPEN_TRIES = 5
MAX_POINTER_BYTES, MAX_FORMAT_BYTES = 4096, 64
T = TypeVar("T")


def check_format(store: Path) -> None:
    """Raise unless `store` is a folder that embedsearch made and this version reads."""
    try:
        text = (store / files.FORMAT_NAME).read_bytes()[:MAX_FORMAT_BYTES]
    except FileNotFoundError:
        raise StoreNotFound(
            f"there is no store at {store}: make one with embedsearch index FOLDER --store {store}"
        ) from None
    except OSError as error:
        raise StorageError(f"{store}: {error.strerror}") from error
    check_format_text(str(store), text)


def check_format_text(store: str, text: bytes) -> None:
    """Raise unless the content of a FORMAT file is one that this version reads."""
    if text != files.FORMAT_TEXT:
        if text.startswith(b"embedsearch ") and text[12:].strip().isdigit():
            raise IncompatibleStore(
                f"{store} has format {text[12:].strip().decode()}, this embedsearch reads "
                f"{files.FORMAT_TEXT[12:].strip().decode()}: update embedsearch"
            )
        raise StoreNotFound(
            f"{store} is not a store of embedsearch: its FORMAT file says something else"
        )


def current_pointer(store: Path) -> bytes | None:
    """Return the content of CURRENT, different for each commit; None if it cannot be read."""
    try:
        return (store / files.CURRENT_NAME).read_bytes()[:MAX_POINTER_BYTES]
    except OSError:
        return None


def pointed_at(pointer: bytes) -> files.FileRecord:
    """Return the manifest that the content of a CURRENT names. Raises ValueError."""
    try:
        values = strict_json(pointer)
        record = files.FileRecord(values["manifest"], int(values["bytes"]), values["sha256"])
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from error
    if not record.name.startswith("m-"):
        raise ValueError(f"{record.name} is not a manifest")
    if not 0 < record.bytes <= MAX_BYTES:
        raise ValueError(f"{record.name} claims {record.bytes} bytes")
    return record


def read_current(store: Path) -> Manifest:
    """Return the manifest that CURRENT names. Raises StoreNotFound or DamagedStore."""
    for attempt in range(OPEN_TRIES):
        try:
            pointer = (store / files.CURRENT_NAME).read_bytes()[:MAX_POINTER_BYTES]
        except FileNotFoundError:
            if _first_commit_unfinished(store):
                raise StoreNotFound(
                    f"nothing was committed to {store} yet: run embedsearch index FOLDER"
                ) from None
            raise files.damaged(store, files.CURRENT_NAME, "is missing") from None
        except OSError as error:
            raise StorageError(f"{store / files.CURRENT_NAME}: {error.strerror}") from error
        try:
            record = pointed_at(pointer)
        except ValueError as error:
            raise files.damaged(store, files.CURRENT_NAME, f"cannot be parsed ({error})") from error
        try:
            return _parse_manifest(store, record)
        except DamagedStore:
            # Between reading CURRENT and the manifest two commits may have passed.
            if attempt == OPEN_TRIES - 1 or (store / files.CURRENT_NAME).read_bytes() == pointer:
                raise
            time.sleep(0.05)
    raise AssertionError("unreachable: the last attempt returns or raises")


def read_generation(store: Path, read: Callable[[Manifest], T]) -> T:
    """Return `read` of the current generation; retry if a commit swept it meanwhile.

    Raises what `read` and `read_current` raise.
    """
    for _ in range(OPEN_TRIES):
        manifest = read_current(store)
        try:
            return read(manifest)
        except DamagedStore:
            if read_current(store).generation == manifest.generation:
                raise  # no newer commit swept the file: it is really gone
    raise StorageError(f"{store} is being written faster than it can be read: try again")


def _parse_manifest(store: Path, record: files.FileRecord) -> Manifest:
    try:
        return Manifest.from_bytes(files.read_verified(store, record))
    except ValueError as error:
        raise files.damaged(store, record.relative, f"is malformed ({error})") from error


def _first_commit_unfinished(store: Path) -> bool:
    """Return whether no commit ever finished: at most the very first manifest is there."""
    return all(name == "m-00000001.json" for name in files.listed(store, files.FOLDERS["m"]))
