"""The files that were indexed, to be handed out; in: a place and a sha256, out: those bytes only.

What lies there by now may be anything. So a file is read to its end and compared before its first
byte is given, and looked at again with each piece. One that was compared is not read twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TypeAlias

from embedsearch.core.cancelling import is_cancelled
from embedsearch.core.errors import Interrupted, UnreadableImage
from embedsearch.core.lru import LRU
from embedsearch.core.paths import open_regular, printable, size_and_time
from embedsearch.core.records import ImageLocation, Reason
from embedsearch.images.archive_part import BrokenPart, part_pieces
from embedsearch.images.originals import Originals
from embedsearch.images.temporary import TemporaryImages, discard

PIECE_BYTES = 256 << 10
_COMPARED = 4096  # files whose sha256 is remembered
_READ_BYTES = 1 << 20

_State: TypeAlias = tuple[int, ...]  # what changes with a file


class NoFile(UnreadableImage):
    """The row is a vector that was imported: no file was read for it."""


class OriginalFile:
    """An open file, or a part of one, of known bytes. Close it, or use it with `with`."""

    def __init__(self, descriptor: int, start: int, size: int, digest: bytes) -> None:
        """Own the descriptor; `digest` is the sha256 of the `size` bytes from `start` on."""
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115  held open
        self._start = start
        facts = os.fstat(descriptor)
        self._seen = size_and_time(facts)
        self.modified_s = facts.st_mtime
        self.size = size
        self.digest = digest

    def __enter__(self) -> OriginalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. A second close does nothing."""
        self._file.close()

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`, in small pieces.

        Raises UnreadableImage where the file was changed meanwhile.
        """
        stop = self.size if stop is None else stop
        while start < stop:
            try:
                wanted = min(PIECE_BYTES, stop - start)
                piece = os.pread(self._file.fileno(), wanted, self._start + start)
                is_same = size_and_time(os.fstat(self._file.fileno())) == self._seen
            except OSError as error:
                raise UnreadableImage(f"it cannot be read: {error}", Reason.IO_ERROR) from error
            if not piece or not is_same:
                raise UnreadableImage("it was changed while it was read", Reason.CHANGED)
            yield piece
            start += len(piece)


class OriginalFiles:
    """Opens the files of indexed images, for any number of threads."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds a file."""
        self._max_bytes = max_bytes
        self._originals = Originals(max_bytes)
        self._temporary = TemporaryImages()
        self._compared: LRU[_State, bytes] = LRU(_COMPARED)

    def close(self) -> None:
        """Forget everything, and remove temporary files."""
        self._originals.close()
        self._temporary.close()
        self._compared.clear()

    def open(self, root: str, key: str, digest: bytes | None) -> OriginalFile:
        """Open the file `key` below `root`, a link too, if it has this sha256.

        Raises NoFile, UnreadableImage, and StorageError for a server that does not answer.
        """
        if digest is None:
            raise NoFile(f"{printable(key)} is an imported vector: it has no file", Reason.VANISHED)
        place = self._originals.inside(root, key, digest)
        try:
            return self._opened(place, digest)
        except BrokenPart as error:
            raise UnreadableImage(f"{printable(key)}: {error}", error.reason) from error
        except OSError as error:
            raise UnreadableImage(
                f"{printable(key)} cannot be read: {error.strerror or error}", Reason.IO_ERROR
            ) from error
        finally:
            discard(place)

    def _opened(self, place: ImageLocation, digest: bytes) -> OriginalFile:
        descriptor = open_regular(place.folder, place.key, follow=True)
        try:
            if place.part is not None and place.part.is_deflated:
                pieces = part_pieces(descriptor, place.part)
                unpacked, found = self._temporary.keep_pieces(pieces)
                os.close(descriptor)
                descriptor = -1
                descriptor = open_regular(unpacked.folder, unpacked.key)
                discard(unpacked)
                start, size = 0, place.part.size
            else:
                start, size = 0, os.fstat(descriptor).st_size
                if place.part is not None:
                    start, size = place.part.start, place.part.size
                if size > self._max_bytes:
                    raise UnreadableImage(f"it has {size:,} bytes, too many", Reason.TOO_BIG)
                found = self._digest(descriptor, start, size)
            if found != digest:
                raise UnreadableImage(
                    "it is another file than the one that was indexed", Reason.CHANGED
                )
            return OriginalFile(descriptor, start, size, digest)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise

    def _digest(self, descriptor: int, start: int, size: int) -> bytes:
        """Return the sha256 of a part of a file, remembered while the file is the same."""
        state = _state(descriptor)
        if (known := self._compared.find((*state, start, size))) is not None:
            return known
        sha256, done = hashlib.sha256(), 0
        while done < size:
            if is_cancelled():
                raise Interrupted("nobody waits for this file", 1)
            piece = os.pread(descriptor, min(_READ_BYTES, size - done), start + done)
            if not piece:
                raise UnreadableImage("it was changed while it was read", Reason.CHANGED)
            sha256.update(piece)
            done += len(piece)
        if _state(descriptor) != state:
            raise UnreadableImage("it was changed while it was read", Reason.CHANGED)
        self._compared.keep((*state, start, size), found := sha256.digest())
        return found


def _state(descriptor: int) -> _State:
    facts = os.fstat(descriptor)
    # With the time of the last change of any kind, which nobody can set back.
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
