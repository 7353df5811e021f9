"""Files that were named one by one, as a sorted stream of `ImageRef`; in: paths below a root."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO

from embedsearch.core.errors import UsageError
from embedsearch.core.records import Failure, ImageRef, Reason, Stage
from embedsearch.images.sources.folder import FolderScan, has_image_suffix

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
            except OSError as error:
                is_refused = isinstance(error, PermissionError)
                reason = Reason.PERMISSION if is_refused else Reason.VANISHED
                message = error.strerror or str(error)
                self.failures.append(Failure(self.root, key, Stage.SCAN, reason, message))
                continue
            if not stat.S_ISREG(facts.st_mode):
                self.special += 1
            elif not has_image_suffix(name):
                self.other_suffix += 1
            else:
                yield ImageRef(self.root, key, facts.st_size, facts.st_mtime_ns)


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
