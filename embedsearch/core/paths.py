"""Opening files in folders with untrusted content, and showing their names safely."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from urllib.parse import quote, unquote_to_bytes

from embedsearch.core.errors import UsageError
from embedsearch.core.names import existing

_UNQUOTED = "/-_.~!$&'()*+,;=:@"  # in the path of a URL
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: otherwise opening a FIFO for reading could wait forever for a writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_LINKS = 40  # one after the other, as Linux follows them


def open_folder(root: str, key: str, *, follow: bool = False) -> int:
    """Open the folder `key` below `root` and return its descriptor.

    Walks one component at a time: no symbolic link below the root is followed unless `follow`, and
    a path longer than the system's limit (4,096 bytes on Linux) opens too. Raises OSError.
    """
    descriptor = os.open(root, _DIR_FLAGS)
    for name in key.split("/") if key else ():
        parent = descriptor
        try:
            descriptor = _opened(name, parent, _DIR_FLAGS, follow)
        finally:
            os.close(parent)
    return descriptor


def open_regular(root: str, key: str, *, follow: bool = False) -> int:
    """Open the regular file `key` below `root` for reading and return its descriptor.

    No symbolic link below the root is followed unless `follow`. Raises IsADirectoryError for
    anything that is not a regular file, else OSError.
    """
    folder, _, name = key.rpartition("/")
    parent = open_folder(root, folder, follow=follow)
    try:
        descriptor = _opened(name, parent, _FILE_FLAGS, follow)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(0, "not a regular file", key)
    return descriptor


def _opened(name: str, folder: int, flags: int, follow: bool) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if not follow or error.errno not in {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}:
            raise
    return open_link(name, folder)


def open_link(name: str, folder: int) -> int:
    """Open the file or folder that the link `name` in an open folder leads to.

    In a folder where others may write, a link of theirs must not make this user's files readable:
    a link is followed if this user or root made it, or the owner of what it leads to. Nothing but
    files and folders is opened. Raises OSError.
    """
    folder = os.dup(folder)
    owners: set[int] = set()
    try:
        for _ in range(_MAX_LINKS):
            facts = os.lstat(name, dir_fd=folder)
            if not stat.S_ISLNK(facts.st_mode):
                return _owned(name, folder, facts, owners - {os.geteuid(), 0})
            owners.add(facts.st_uid)
            target = os.readlink(name, dir_fd=folder)
            if not os.path.samestat(facts, os.lstat(name, dir_fd=folder)):
                raise OSError(errno.ELOOP, "replaced while it was followed")
            above, name = os.path.split(target.rstrip("/"))
            if name in {"", ".", ".."}:
                above, name = target, "."
            inner = os.open(above or ".", _DIR_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    finally:
        os.close(folder)


def _owned(name: str, folder: int, facts: os.stat_result, strangers: set[int]) -> int:
    """Open what links lead to, if the strangers among their owners own it."""
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(0, "neither a file nor a folder", name)
    if strangers - {facts.st_uid}:
        raise PermissionError(errno.EACCES, "a link of another user to what is not theirs")
    descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
    if not os.path.samestat(facts, os.fstat(descriptor)):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "replaced while it was followed")
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


def whole_path(root: str, key: str) -> str:
    """Return the path of an image by its root and its key; a key that is a URL is the path.

    On a web server the path is a URL, in which the name is percent-encoded.
    """
    if is_url(key):
        return key
    return f"{root.rstrip('/')}/{url_part(key)}" if is_web(root) else os.path.join(root, key)


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder, or below it, by their names alone."""
    return part_below(path, folder) is not None


def part_below(path: str, folder: str) -> str | None:
    """Return the part of a path below a folder, "" for the folder itself, None for others."""
    if path == folder:
        return ""
    start = folder.rstrip("/") + "/"
    return path.removeprefix(start) if path.startswith(start) else None


def is_web(path: str) -> bool:
    """Return whether a path is the URL of a web server."""
    return path.lower().startswith(("http://", "https://"))


def url_part(key: str) -> str:
    """Return a key as the path of a URL."""
    return quote(os.fsencode(key), safe=_UNQUOTED)


def url_key(part: str) -> str:
    """Return the key that a path of a URL stands for."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(part)))


def named_forms(path: str | os.PathLike[str]) -> list[str]:
    """Return the absolute paths that a folder of the user may be known by.

    First with the links above it followed and not itself, then with all of them followed: a store
    has the one or the other, as it was reached.
    """
    text = os.path.abspath(local_path(path))
    folder, name = os.path.split(text)
    parent = os.path.join(os.path.realpath(folder), name)
    return list(dict.fromkeys([parent, os.path.realpath(text), text]))


def local_path(path: str | bytes | os.PathLike[str]) -> str:
    """Return a path that a user named as the disk has it; URLs of servers stay as they are.

    No shell has seen what stands in a configuration, a variable or a program: `~` is expanded, and
    a `file://` URL is a path. Raises UsageError for one of another machine, and for NUL.
    """
    if "\0" in (text := os.fsdecode(path)):
        raise UsageError(f"a path cannot contain NUL: {text!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not a path that a file system can hold") from error
    if text[:7].lower() == "file://":
        host, slash, rest = text[7:].partition("/")
        if host.lower() not in {"", "localhost"}:
            raise UsageError(f"{printable(text)} names the machine {printable(host)}: give a path")
        return local_path(unquote_to_bytes(slash + rest))
    if is_url(text) or os.path.lexists(text):
        return text
    return existing(os.path.expanduser(text))  # noqa: PTH111  a Path fails without a home


def printable(text: str) -> str:
    r"""Return `text` to be shown: control, bidirectional, undecodable characters are \x escapes.

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
    if char in "\u200c\u200d":  # the joiners of emoji and of Persian
        return char
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return char.encode("unicode_escape", "surrogatepass").decode()
    return char
