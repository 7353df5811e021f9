"""A cache of thumbnails; in: a file and a side, out: a JPEG, while the file is unchanged.

It is in the user's cache folder, outside every store, and of bounded size. A cache that cannot be
written is no error: the thumbnail is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from embedsearch.core.model_spec import DECODING
from embedsearch.core.paths import open_regular

MAX_BYTES = 256 << 20
_LEFT = 0.75  # share that is kept when the cache is full, so that not every put has to delete
_FIRST, _LAST = b"\xff\xd8", b"\xff\xd9"  # bytes of a complete JPEG


class ThumbnailCache:
    """Thumbnails of all stores; any number of threads and processes may use one folder."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._counting = threading.Lock()
        self._bytes: int | None = None  # counted before the first is added

    def key(self, root: str, key: str, side: int, digest: bytes | None = None) -> str | None:
        """Return a name for a thumbnail of the file as it is now, None where there is no file.

        `root` is a folder, or the file that holds the image. A link below the folder is followed
        only with a `digest`, that of the row: a thumbnail is kept only of what may be shown for it.
        """
        try:
            folder, name = os.path.split(root) if os.path.isfile(root) else (root, key)
            with open(open_regular(folder, name, follow=digest is not None), "rb") as file:
                facts = os.fstat(file.fileno())
        except OSError:
            return None
        version = (DECODING, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        identity = (root, key, side, "" if digest is None else digest.hex(), *version)
        return hashlib.sha256(os.fsencode("\0".join(map(str, identity)))).hexdigest()

    def get(self, name: str) -> bytes | None:
        """Return the JPEG of that name, None where there is none or it is incomplete."""
        path = self._path(name)
        try:
            jpeg = path.read_bytes()
            os.utime(path)  # the least recently used are deleted first
        except OSError:
            return None
        return jpeg if jpeg.startswith(_FIRST) and jpeg.endswith(_LAST) else None

    def put(self, name: str, jpeg: bytes) -> None:
        """Keep a JPEG if the cache can be written."""
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(jpeg)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        with self._counting:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._files())
            else:
                self._bytes += len(jpeg)
            if self._bytes > self._max_bytes:
                self._bytes = self._shrink()

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Yield (time of the last use in ns, bytes, path) of each file."""
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    path = os.path.join(folder, name)
                    facts = os.stat(path)
                    yield facts.st_mtime_ns, facts.st_size, path

    def _shrink(self) -> int:
        """Remove the least recently used, and return how many bytes are left."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= _LEFT * self._max_bytes:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                left -= size
        return left
