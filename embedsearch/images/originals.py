"""Where indexed images are now; in: roots and keys, or paths, out: a ImageLocation each."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.lru import LRU
from embedsearch.core.paths import is_url, is_web, printable, url_key, whole_path
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Root, RootKind
from embedsearch.images.temporary import TemporaryImages

if TYPE_CHECKING:
    from embedsearch.images.sources.source import Source

_KEPT = 8  # archives whose list of members is kept
_READ_S = 60.0  # within which what was placed has been read


@dataclass(eq=False)
class _Archive:
    """An archive, and when it last placed an image."""

    root: str
    source: Source
    placed_at: float = 0.0


class Originals:
    """Finds images for any number of threads; the members of an archive are listed once."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds an image in a compressed archive."""
        self._max_bytes = max_bytes
        self._temporary = TemporaryImages()
        self._looking = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._left: deque[_Archive] = deque()  # to be closed once nobody reads them
        self._archives: LRU[tuple[str, str], _Archive] = LRU(_KEPT, self._left.append)

    def close(self) -> None:
        """Forget the archives and remove the temporary images."""
        with self._looking:
            self._archives.clear()
            self._left.clear()
        self._temporary.close()

    def inside(self, root: str, key: str, digest: bytes | None = None) -> ImageLocation:
        """Return the place of an image of a root. Raises UnreadableImage and StorageError.

        With a sha256, nothing else is decoded there.
        """
        from embedsearch.images.sources.open import kind_of_file, open_source  # 20 ms

        kind = kind_of_file(root)
        if is_url(root):
            kind = kind or RootKind.FOLDER
        elif kind is None or not os.path.isfile(root):
            return ImageLocation(root, key, digest=digest)
        self._close_left()
        with self._lock(root):
            source = open_source(Root(0, root, kind), "", self._temporary, self._max_bytes)
            version = source.version()
            with self._looking:
                archive = self._archives.get((root, version), lambda: _Archive(root, source))
            ((_, place),) = archive.source.places([ImageRef(0, key, -1, -1)])
            archive.placed_at = time.monotonic()
        if isinstance(place, Failure):
            shown = printable(whole_path(root, key))
            message = f"{shown} cannot be read: {place.reason} ({place.detail})"
            if place.reason is Reason.VANISHED:
                message = f"{shown}: there is no such file"
            raise UnreadableImage(message, place.reason)
        return replace(place, digest=digest)

    def _close_left(self) -> None:
        """Close the archives that made room for others: their downloads take up the disk."""
        with self._looking:
            left = list(self._left)
            self._left.clear()
        for archive in left:
            lock = self._lock(archive.root)
            is_free = lock.acquire(blocking=False)  # else it is placing an image
            try:
                if is_free and time.monotonic() - archive.placed_at > _READ_S:
                    archive.source.close()
                else:
                    self._left.append(archive)
            finally:
                if is_free:
                    lock.release()

    def _lock(self, root: str) -> threading.Lock:
        """Return the lock of a root: a server that hangs holds up nobody but its own."""
        with self._looking:
            return self._locks.setdefault(root, threading.Lock())

    def at(self, path: str) -> ImageLocation:
        """Return the place of a file, or of a member of an archive, by its path or URL.

        Raises UnreadableImage and StorageError.
        """
        if is_url(path):
            from embedsearch.images.sources.open import kind_of_file

            parts = path.split("/")
            ends = (n for n, part in enumerate(parts) if n > 2 and kind_of_file(part))
            end = next(ends, len(parts) - 2) + 1
            key = "/".join(parts[end:])
            return self.inside("/".join(parts[:end]), url_key(key) if is_web(path) else key)
        path = os.path.realpath(path)
        folder, key = os.path.split(path)
        while not os.path.isdir(folder) and folder not in {"", "/"}:
            if os.path.isfile(folder):
                return self.inside(folder, key)
            folder, name = os.path.split(folder)
            key = f"{name}/{key}"
        return ImageLocation(*os.path.split(path))
