"""Images as temporary files that a worker process can open; in: bytes, out: paths."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from embedsearch.core.ending import remove_at_end
from embedsearch.core.errors import StorageError
from embedsearch.core.records import ImageLocation


class TemporaryImages:
    """A temporary folder of images that were given as bytes; made for the first one."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()

    @contextmanager
    def of(self, contents: Sequence[bytes]) -> Iterator[list[str]]:
        """Give a path for each of the contents until the block ends. Raises StorageError."""
        paths: list[str] = []
        try:
            with _writing():
                for content in contents:
                    paths.append(f"{self._place()}/{next(self._numbers)}")
                    with open(paths[-1], "xb") as file:
                        file.write(content)
            yield paths
        finally:
            for path in paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def keep(self, content: bytes) -> ImageLocation:
        """Return a file with this content, removed once it is decoded. Raises StorageError."""
        return self.keep_pieces([content])[0]

    def keep_pieces(self, pieces: Iterable[bytes]) -> tuple[ImageLocation, bytes]:
        """Return a file with this content, and its sha256; what `pieces` raises removes it.

        Raises StorageError for a disk that is full.
        """
        path, digest = self.reserve(), hashlib.sha256()
        try:
            with _writing():
                file = open(path, "xb")  # noqa: SIM115  the errors of `pieces` are not ours
            with file:
                for piece in pieces:
                    digest.update(piece)
                    with _writing():
                        file.write(piece)
                with _writing():
                    file.flush()
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        folder, _, name = path.rpartition("/")
        return ImageLocation(folder, name, is_ours=True), digest.digest()

    def reserve(self) -> str:
        """Return the path for a new file; it is removed with the folder."""
        try:
            return f"{self._place()}/{next(self._numbers)}"
        except OSError as error:
            message = f"a temporary file for a download cannot be made: {error}"
            raise StorageError(message) from error

    def close(self) -> None:
        """Remove the folder; a later call makes another."""
        with self._making:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _place(self) -> str:
        with self._making:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="embedsearch-")
                remove_at_end(self._folder.name)
            return os.path.realpath(self._folder.name)


def discard(location: ImageLocation) -> None:
    """Remove the file of a location if it is temporary."""
    if location.is_ours:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(location.folder, location.key))


@contextmanager
def _writing() -> Iterator[None]:
    """Raise StorageError for a disk that is full or read-only."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"a temporary image cannot be written: {error}; TMPDIR sets another folder"
        ) from error
