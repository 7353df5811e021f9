"""Files that were named one by one, as a sorted stream of `ImageRef`; in: paths below a root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import size_and_time
from embedsearch.core.records import ImageRef
from embedsearch.images.sources.folder import FolderScan, has_image_suffix, scan_failure

_READ_BYTES = 1 << 20
_MAX_PATH = 1 << 16


class FileList(FolderScan):
    """The named files of a folder; other files are ignored."""

    def __init__(self, root: int, root_path: str, keys: Iterable[str]) -> None:
        """Take the keys of files below `root_path`, in any order."""
        super().__init__(root, root_path)
        self._keys = sorted(set(map(os.fsencode, keys)))

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the refs of existing files, in the byte order of their keys."""
        folder = os.fsencode(self.root_path)
        for name in self._keys:
            key = os.fsdecode(name)
            try:
                facts = os.stat(os.path.join(folder, name), follow_symlinks=False)
            except NotADirectoryError as error:  # a parent is a file now
                gone = FileNotFoundError(errno.ENOENT, error.strerror)
                self.failures.append(scan_failure(self.root, key, gone))
                continue
            except OSError as error:
                self.failures.append(scan_failure(self.root, key, error))
                continue
            if not stat.S_ISREG(facts.st_mode):
                self.special += 1
            elif not has_image_suffix(name):
                self.other_suffix += 1
            else:
                yield ImageRef(self.root, key, *size_and_time(facts))


def read_paths(file: IO[bytes]) -> Iterator[str]:
    """Yield the paths of a list: one a line, or with NUL between them, as `find -print0` does.

    Raises UsageError for what is no list of paths.
    """
    rest, separator = b"", b""
    while data := file.read(_READ_BYTES):
        if not separator:
            separator = b"\0" if b"\0" in data else b"\n"
        *lines, rest = (rest + data).split(separator)
        yield from _paths(lines)
        if len(rest) > _MAX_PATH:
            raise UsageError(f"no list of paths: a line of more than {_MAX_PATH} bytes")
    yield from _paths([rest])


def _paths(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        path = line.removesuffix(b"\r")
        if len(path) > _MAX_PATH:
            raise UsageError(f"no list of paths: a line of more than {_MAX_PATH} bytes")
        if path:
            yield os.fsdecode(path)
