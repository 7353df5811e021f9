"""A file is written under a temporary name, then renamed in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.errors import StorageError
from embedsearch.core.paths import local_path

# Of file systems that have no such call: what they cannot do must not keep anyone from writing.
_MISSING = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})
_DEBRIS_AGE_S = 3600.0


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
    temporary = path.with_name(f"tmp-{secrets.token_hex(8)}")
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
    """Yield temporary paths; on success they become `files`, else they are removed.

    A link is followed, and a pipe or a device is written to: none is replaced by a file. Raises
    StorageError if that fails.
    """
    with contextlib.ExitStack() as kept:
        targets = [_target(Path(local_path(file)), kept) for file in files]
        try:
            yield [target.temporary for target in targets]
            for target in targets:
                target.put()
        except OSError as error:
            raise StorageError(f"{files[0]}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Target:
    """Where an output goes, and where it is written first."""

    path: Path
    temporary: Path
    is_stream: bool

    def put(self) -> None:
        """Move or copy what was written. Raises OSError."""
        if not self.is_stream:
            with contextlib.suppress(OSError):  # a new file has the mode of new files
                self.temporary.chmod(stat.S_IMODE(self.path.stat().st_mode))
            self.temporary.replace(self.path)
            return
        with self.temporary.open("rb") as written, os.fdopen(_opened(self.path), "wb") as out:
            shutil.copyfileobj(written, out)


def _opened(path: Path) -> int:
    """Return a descriptor to write to a pipe, a device, or what is open already. Raises OSError."""
    if (number := _number(path)) is not None:
        sys.stdout.flush()
        return os.dup(number)  # which goes on where the last one who wrote there has ended
    # Without waiting for somebody to read a pipe: there may be nobody.
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def _number(path: Path) -> int | None:
    """Return the descriptor that a name such as /dev/stdout stands for, None for other names."""
    match path.parts:
        case ("/", "dev", "stdout"):
            return 1
        case ("/", "dev", "stderr"):
            return 2
        case ("/", "dev", "fd", name) | ("/", "proc", "self", "fd", name) if name.isdigit():
            return int(name)
    return None


def _target(path: Path, kept: contextlib.ExitStack) -> _Target:
    """Return where an output goes. Raises StorageError."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG  # also a link to what is not there yet
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if stat.S_ISBLK(kind) or stat.S_ISSOCK(kind):
        raise StorageError(f"{path} is not a regular file but a disk or a socket: name a file")
    # A file that is open as /dev/stdout must stay the one that is open.
    is_stream = not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or _number(path) is not None
    if is_stream:
        folder = kept.enter_context(tempfile.TemporaryDirectory())
        return _Target(path, Path(folder, "output"), True)
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")  # names may be as long as can be
    kept.callback(_removed, temporary)
    return _Target(path, temporary, False)


def _removed(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # where it could not be made, that is the error to tell
        temporary.unlink(missing_ok=True)


def remove_debris(folder: Path) -> None:
    """Remove folders `tmp-…` that processes which were killed have left in one."""
    for left in folder.glob("tmp-*"):
        with contextlib.suppress(OSError):  # it only takes space; the next run tries again
            if left.is_dir() and left.stat().st_mtime < time.time() - _DEBRIS_AGE_S:
                shutil.rmtree(left)
