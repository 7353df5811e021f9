"""Writing of store files, and verified reading; every byte of a store passes through here.

A file is complete under its final name or absent: it is written in `tmp/`, flushed to the disk,
renamed, and the folder flushed. Files never change afterwards; only CURRENT is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsearch.core.atomic import sync as _sync
from embedsearch.core.errors import DamagedStore, StorageError
from embedsearch.core.strict_json import strict_json
from embedsearch.core.system import is_cached_store

FORMAT_NAME = "FORMAT"
FORMAT_TEXT = b"embedsearch 1\n"
CURRENT_NAME = "CURRENT"
LOCK_NAME = "writer.lock"
PULLED_NAME = "PULLED"  # in a copy: its source URL and the manifests from there
TABLE_NAME = "images.parquet"  # the current rows, for other programs
TMP_NAME = "tmp"
FOLDERS = {
    **{"m": "manifests", "s": "shards", "d": "shards", "f": "shards", "r": "shards"},
    **{"e": "ann", "a": "ann", "w": "ann", "u": "meta"},
}
_NAME = re.compile(r"[a-z]-[0-9]{8}(-[0-9a-z]+)*\.(parquet|faiss|sqlite|json)")
_READ_BYTES = 1 << 20
# Of file systems, desktops, NAS and git, in small letters.
_SYSTEM_NAMES = frozenset(
    {b"system volume information", b"network trash folder", b"temporary items", b"icon\r"}
).union(
    b"lost+found lost.dir found.000 $recycle.bin recycler recycled .trash .trashes .ds_store "
    b".localized .fseventsd .temporaryitems .volumeicon.icns .apdisk .appledouble .appledb "
    b".appledesktop .metadata_never_index .directory .hidden .nomedia .snapshot .snapshots .zfs "
    b"thumbs.db ehthumbs.db desktop.ini indexervolumeguid wpsettings.dat .autorelabel .gitkeep "
    b".gitignore .keep .keepme .empty .placeholder @eadir @tmp @recycle @recently-snapshot "
    b"#recycle #snapshot .stfolder .stversions .stignore aquota.user aquota.group quota.user "
    b"quota.group .dropbox .dropbox.attr .dropbox.cache".split()
)
_SYSTEM_PREFIXES = tuple(
    b".trash- ._ .spotlight- .documentrevisions- .nfs .fuse_hidden .com.apple. .syncthing. "
    b".smbdelete".split()
)


@dataclass(frozen=True)
class FileRecord:
    """An immutable file of the store, as the manifest names it."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name[0] not in FOLDERS:
            raise ValueError(f"no file name of a store: {self.name!r}")

    @property
    def relative(self) -> str:
        """Return the path inside the store."""
        return f"{FOLDERS[self.name[0]]}/{self.name}"


def write_new(
    store: Path, kind: str, generation: int, suffix: str, data: Iterable[bytes | memoryview]
) -> FileRecord:
    """Write an immutable file and return its record; it is on the disk when this returns.

    `kind` is the first letter of the name and chooses the folder. Raises StorageError; the
    unfinished file is removed, and no other file is touched.
    """
    digest = hashlib.sha256()
    with _temporary(store) as temporary:
        size = _write(temporary, data, digest)
        sha256 = digest.hexdigest()
        serial = "" if kind == "m" else f"-{sha256[:16]}"
        record = FileRecord(f"{kind}-{generation:08d}{serial}.{suffix}", size, sha256)
        _put(temporary, store / record.relative)
    return record


def write_copy(store: Path, record: FileRecord, data: Iterable[bytes], origin: str) -> None:
    """Write a file that was made elsewhere, if it matches its record.

    Raises DamagedStore, which names `origin`, for another length or sha256, and StorageError;
    neither leaves a file behind.
    """
    digest = hashlib.sha256()
    with _temporary(store) as temporary:
        size = _write(temporary, data, digest)
        check_content(record, size, digest.hexdigest(), origin)
        _put(temporary, store / record.relative)


def check_content(record: FileRecord, size: int, sha256: str, origin: str) -> None:
    """Raise DamagedStore unless the content from `origin` matches the record."""
    if size != record.bytes:
        length = f"more than {record.bytes}" if size > record.bytes else f"{size}"
        problem = f"has {length} bytes, the manifest says {record.bytes}"
    elif sha256 != record.sha256:
        problem = "is another file than the manifest says: its sha256 differs"
    else:
        return
    raise DamagedStore(f"{origin} {problem}; copy the store there again, CURRENT last")


def replace(store: Path, name: str, content: bytes) -> None:
    """Replace a small file of the store in one step. Raises StorageError."""
    with _temporary(store) as temporary:
        _write(temporary, [content], hashlib.sha256())
        temporary.rename(store / name)
        sync_folder((store / name).parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(store: Path, error: OSError) -> StorageError:
    """Return the error for a failed write, with the remedy."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "the disk is full: free some space and run the same command again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        hint = "the store cannot be written: choose another place for it"
    else:
        hint = "the last committed generation is intact"
    return StorageError(f"{store}: {error.strerror or error}; {hint}")


def listed(store: Path, folder: str) -> list[str]:
    """Return the names in a folder of a store, sorted; [] if it is missing. Raises StorageError."""
    try:
        return sorted(os.listdir(store / folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(store / folder, error) from error


def is_here(store: Path, record: FileRecord) -> bool:
    """Return whether a file of the store is there, with the length of its record."""
    with suppress(DamagedStore):
        os.close(open_verified(store, record))
        return True
    return False


def open_verified(store: Path, record: FileRecord) -> int:
    """Open a file of the store, check its type and length, and return its descriptor.

    The caller checks the content: pages of a shard by their checksums, other files by `verify`.
    Raises DamagedStore.
    """
    try:
        descriptor = os.open(store / record.relative, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise damaged(store, record.relative, "is missing") from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link or a socket in its place
            raise damaged(store, record.relative, str(error.strerror)) from error
        raise StorageError(f"{store / record.relative}: {error.strerror}") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != record.bytes:
        os.close(descriptor)
        problem = f"has {facts.st_size} bytes, the manifest says {record.bytes}"
        raise damaged(store, record.relative, problem)
    return descriptor


def verify(store: Path, record: FileRecord, content: int | memoryview) -> None:
    """Compare the sha256 of the whole file with the record. Raises DamagedStore.

    The content is a descriptor, or the bytes that were read.
    """
    digest = hashlib.sha256()
    if isinstance(content, int):
        for chunk in pieces(content):
            digest.update(chunk)
    else:
        digest.update(content)
    if digest.hexdigest() != record.sha256:
        raise damaged(store, record.relative, "was changed: its sha256 is not the manifest's")


def pieces(descriptor: int) -> Iterator[bytes]:
    """Yield the content of a file from its start, a megabyte at a time. Raises OSError."""
    offset = 0
    while chunk := os.pread(descriptor, _READ_BYTES, offset):
        yield chunk
        offset += len(chunk)


def verify_once(store: Path, record: FileRecord, descriptor: int, memory: Path) -> None:
    """Like `verify`, but note in the folder `memory` that this file was verified.

    For files of hundreds of megabytes, of which a query reads a fraction. The note is kept in the
    user's cache, never in the store, and is invalid once the file's inode, time or size differs.
    """
    facts = os.fstat(descriptor)
    seen = json.dumps([facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size])
    note = memory / record.sha256
    with suppress(OSError, ValueError):  # not verified yet, or an unreadable note: verify
        if note.read_text() == seen:
            return
    verify(store, record, descriptor)
    with suppress(OSError):  # with a read-only home, the file is just verified again next time
        memory.mkdir(parents=True, exist_ok=True)
        note.write_text(seen)


def read_verified(store: Path, record: FileRecord) -> bytes:
    """Return the content of a small file, verified. Raises DamagedStore."""
    descriptor = open_verified(store, record)
    try:
        verify(store, record, descriptor)
        return os.pread(descriptor, record.bytes, 0)
    finally:
        os.close(descriptor)


def is_of_the_system(name: str) -> bool:
    """Return whether file systems, desktops, NAS or git put an entry of that name anywhere."""
    low = os.fsencode(name).lower()
    return low in _SYSTEM_NAMES or low.startswith(_SYSTEM_PREFIXES)


def is_own_name(name: str) -> bool:
    """Return whether this is a file name of a store."""
    try:
        FileRecord(name, 0, "")
    except ValueError:
        return False
    return True


def damaged(store: Path, name: str, words: str) -> DamagedStore:
    """Return the error for a damaged file of the store, with the remedy."""
    remedy = f"run: embedsearch repair --store {store}"
    if name.startswith("shards"):  # shards are the only copy of their rows
        remedy = f"re-embed the images: embedsearch index --rebuild --store {store}"
    if name.startswith(FOLDERS["m"]):
        remedy = (
            "put it back from a copy of the store, or lose what came after the generation before: "
            f"embedsearch repair --store {store}"
        )
    if is_cached_store(store):
        remedy = f"it is a copy; delete it to fetch it again: rm -r {store}"
    return DamagedStore(f"{store / name} {words}; {remedy}")


def pulled_from(store: Path) -> tuple[str, list[str]] | None:
    """Return the URL that a folder was fetched from, and the sha256 of the manifests from there."""
    try:
        note = strict_json((store / PULLED_NAME).read_bytes()[:8192])
        return str(note["url"]), [str(sha256) for sha256 in note["manifests"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def _temporary(store: Path) -> Iterator[Path]:
    """Yield the path for a new file; after an error no file is left behind.

    Raises StorageError instead of OSError.
    """
    temporary = store / TMP_NAME / f"{os.getpid()}-{secrets.token_hex(8)}"
    try:
        yield temporary
    except BaseException as error:
        with suppress(OSError):  # the next writer sweeps tmp/; `error` must not be hidden
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(store, error) from error
        raise


def _put(temporary: Path, target: Path) -> None:
    """Give a complete file its final name. Raises OSError."""
    with suppress(OSError):  # some file systems refuse it, and the mode only guards from mistakes
        temporary.chmod(0o444)
    temporary.rename(target)
    sync_folder(target.parent)


def _write(path: Path, data: Iterable[bytes | memoryview], digest: Any) -> int:
    """Write all chunks, flush them to the disk and return their length. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = 0
    try:
        for chunk in data:
            view = memoryview(chunk).cast("B")
            digest.update(view)
            size += len(view)
            while view:  # a write may be short
                view = view[os.write(descriptor, view) :]
        if os.fstat(descriptor).st_size != size:
            raise OSError(errno.EIO, f"{size} bytes were written, the file is shorter")
        _sync(descriptor)
    finally:
        os.close(descriptor)
    return size
