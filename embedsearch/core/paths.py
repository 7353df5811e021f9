"""Opening files in folders with untrusted content, and showing their names safely."""

from __future__ import annotations

import os
import stat
import unicodedata
from urllib.parse import quote

from embedsearch.core.errors import UsageError

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: otherwise opening a FIFO for reading could wait forever for a writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_folder(root: str, key: str) -> int:
    """Open the folder `key` below `root` and return its descriptor.

    Walks one component at a time: no symbolic link below the root is followed, and a path
    longer than the system's limit (4,096 bytes on Linux) opens too. Raises OSError.
    """
    descriptor = os.open(root, _DIR_FLAGS)
    for name in key.split("/") if key else ():
        parent = descriptor
        try:
            descriptor = os.open(name, _DIR_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            os.close(parent)
    return descriptor


def open_regular(root: str, key: str) -> int:
    """Open the regular file `key` below `root` for reading and return its descriptor.

    Raises IsADirectoryError for anything that is not a regular file, else OSError.
    """
    folder, _, name = key.rpartition("/")
    parent = open_folder(root, folder)
    try:
        descriptor = os.open(name, _FILE_FLAGS, dir_fd=parent)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(0, "not a regular file", key)
    return descriptor


def bounded(number: int) -> int:
    """Return a size or a time in 64 bits, the nearest where it has more.

    File systems and archives state what they like: ext4 keeps times until 2446, and 64 bits of
    nanoseconds end in 2262.
    """
    return max(-(1 << 63), min(number, (1 << 63) - 1))


def size_and_time(facts: os.stat_result) -> tuple[int, int]:
    """Return the size of a file in bytes and its time in ns, as every comparison takes them."""
    return bounded(facts.st_size), bounded(facts.st_mtime_ns)


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def printable(text: str) -> str:
    r"""Return `text` with control, bidirectional and undecodable characters as \x escapes.

    A file name may hold terminal escapes or a right-to-left override; shown raw, it can deceive.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_show, text))


def file_url(path: str, host: str = "") -> str:
    """Return the file:// URL of a path, on `host` if given; its bytes are escaped."""
    return f"file://{quote(host)}{quote(os.fsencode(os.path.abspath(path)))}"


def _show(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return char.encode("unicode_escape", "surrogatepass").decode()
    return char


def path_of(image: str | os.PathLike[str]) -> str:
    """Return the path of an image as text. Raises UsageError."""
    if "\0" in (path := os.fsdecode(image)):
        raise UsageError(f"a path cannot contain NUL: {path!r}")
    return path
