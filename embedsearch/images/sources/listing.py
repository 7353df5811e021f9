"""Files that were named one by one, as a sorted stream of `ImageRef`; in: paths below a root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import IO

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import open_regular, size_and_time
from embedsearch.core.records import ImageRef
from embedsearch.core.walks import Skip
from embedsearch.images.sources.folder import FolderScan, scan_failure
from embedsearch.images.sources.links import is_truly_gone

_READ_BYTES = 1 << 20
_MAX_PATH = 1 << 16


class FileList(FolderScan):
    """The named files of a folder: images whatever their names, as the user has decided.

    A named link is followed, whatever the rules for walks. A file that is missing with its folder
    is `unreachable`: it may come back with its disk.
    """

    def __init__(self, root: int, root_path: str, keys: Iterable[str]) -> None:
        """Take the keys of files below `root_path`, in any order."""
        super().__init__(root, root_path)
        self._keys = sorted(set(map(os.fsencode, keys)))

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the refs of existing files, in the byte order of their keys."""
        for name in self._keys:
            key = os.fsdecode(name)
            try:
                yield ImageRef(self.root, key, *self._state(key))
            except IsADirectoryError:  # or a device, or the like
                self.skip(Skip.SPECIAL, key)
            except NotADirectoryError as error:  # a parent is a file now
                gone = FileNotFoundError(errno.ENOENT, error.strerror)
                self.failures.append(scan_failure(self.root, key, gone))
            except FileNotFoundError as error:
                failure = scan_failure(self.root, key, error)
                if not is_truly_gone(os.path.join(self.root_path, key)):
                    self.unreachable.add(key)
                    why = f"{failure.detail}, and its folder is missing or empty (a disk?)"
                    failure = replace(failure, detail=why)
                self.failures.append(failure)
            except OSError as error:
                self.failures.append(scan_failure(self.root, key, error))

    def _state(self, key: str) -> tuple[int, int]:
        """Return size and time of a file. Raises OSError, IsADirectoryError for what is none."""
        path = os.path.join(self.root_path, key)
        facts = os.stat(path, follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            descriptor = open_regular(self.root_path, key, follow=True)
            facts = os.fstat(descriptor)
            os.close(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return size_and_time(facts)


def read_paths(file: IO[bytes]) -> Iterator[str]:
    """Yield the paths of a list: one a line, or with NUL between them, as `find -print0` does.

    Raises UsageError for what is no list of paths.
    """
    rest, separator = b"", b""
    while data := file.read(_READ_BYTES):
        if not separator:
            separator = b"\0" if b"\0" in data else b"\n"
        *lines, rest = (rest + data).split(separator)
        yield from _paths(lines, separator)
        if len(rest) > _MAX_PATH:
            raise UsageError(f"no list of paths: a line of more than {_MAX_PATH} bytes")
    yield from _paths([rest], separator)


def _paths(lines: list[bytes], separator: bytes) -> Iterator[str]:
    for line in lines:
        path = line if separator == b"\0" else line.removesuffix(b"\r")
        if len(path) > _MAX_PATH:
            raise UsageError(f"no list of paths: a line of more than {_MAX_PATH} bytes")
        if path:
            yield os.fsdecode(path)
