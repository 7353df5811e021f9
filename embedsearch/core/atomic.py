"""A file is written under a temporary name, then renamed in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedsearch.core.errors import StorageError
from embedsearch.core.paths import local_path

# Of file systems that have no such call: what they cannot do must not keep anyone from writing.
_MISSING = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})


def sync(descriptor: int) -> None:
    """Flush a file or a folder to the disk, as far as its file system does that. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # SMB and exFAT have no such call: fsync, as elsewhere
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync leaves data in the drive's cache
            return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _MISSING:
            raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path`; readers see the old or the new bytes. Raises OSError."""
    temporary = path.with_name(f"tmp-{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def in_place(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths; on success they are renamed to `files`, else they are removed.

    Raises StorageError if that fails.
    """
    files = [Path(local_path(file)) for file in files]
    temporary = [file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in files]
    try:
        yield temporary
        for written, file in zip(temporary, files, strict=True):
            written.replace(file)
    except OSError as error:
        raise StorageError(f"{files[0]}: {error.strerror or error}") from error
    finally:
        for written in temporary:
            written.unlink(missing_ok=True)
