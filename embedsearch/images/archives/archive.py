"""What archives have in common; in: the path of one, out: refs, and parts of it.

Names in the archive are never used on the disk: an image is a range of bytes of the archive or, if
that is compressed as a whole, a temporary file. When the archive has changed, its images are
compared by their bytes.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.core.records import ByteRange, Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.core.walks import Skip
from embedsearch.images.archive_part import BrokenPart, read_part
from embedsearch.images.sources.exclusion import EVERYTHING
from embedsearch.images.sources.kinds import has_image_name, is_hidden
from embedsearch.images.sources.sidecars import MAX_BYTES, beside_members, is_sidecar
from embedsearch.images.sources.source import Beside, Container, Placed, lost

# What the parsers of headers raise for bytes that are none: numbers of any size and sign, names in
# no encoding, lengths of more than the memory holds, headers of headers.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError),
    *(ValueError, OverflowError, MemoryError, NotImplementedError, RecursionError),
)


@dataclass(slots=True)
class Member:
    """An image of an archive: a part of the file, in a stream its digest, or why it has neither."""

    size: int
    part: ByteRange | None = None
    digest: bytes | None = None
    reason: Reason | None = None


@dataclass
class Archive(Container, ABC):
    """The images of one archive file."""

    is_wanted: Callable[[bytes], bool] = has_image_name  # by its name
    _members: dict[bytes, Member] | None = None

    def version(self) -> str:
        """Return the size and the time of the file, as of its listing if it was listed."""
        return "{}:{}".format(*(self._state() if self._members is None else self._seen))

    def close(self) -> None:
        """Forget the members."""
        self._members = None

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the images in the byte order of their names."""
        if self._members is None:
            self._members = self._list_images()
        for key in sorted(self._members):
            yield ImageRef(self.root, os.fsdecode(key), self._members[key].size, self._seen[1])

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of an image, or None where it cannot be read."""
        member = self._known().get(os.fsencode(ref.key))
        if member is None or member.part is None:
            return None if member is None else member.digest
        if max(member.part.size, member.part.length) > self.max_bytes:
            return None
        try:
            with open(self.path, "rb") as file:
                return hashlib.sha256(read_part(file.fileno(), member.part)).digest()
        except (OSError, BrokenPart):
            return None

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield the range of bytes of each ref."""
        folder, name = os.path.split(self.path)
        for ref in refs:
            member = self._known().get(os.fsencode(ref.key))
            if member is None:
                yield ref, lost(ref, Reason.VANISHED, "it is no longer in the archive")
            elif member.size == 0 and member.reason is None:
                yield ref, lost(ref, Reason.EMPTY, "0 bytes")
            elif member.part is None:
                reason = member.reason or Reason.IO_ERROR
                yield ref, lost(ref, reason, f"the archive holds it, {reason.replace('_', ' ')}")
            else:
                yield ref, ImageLocation(folder, name, *self._seen, part=member.part)

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars of images among the members."""
        sidecars = type(self)(self.root, self.path, self.temporary, MAX_BYTES, is_sidecar)
        return beside_members(sidecars, keys)

    def _known(self) -> dict[bytes, Member]:
        """Return the members; lists the archive if that was not done yet."""
        if self._members is None:
            again = type(self)(
                *(self.root, self.path, self.temporary, self.max_bytes, self.is_wanted),
                rules=EVERYTHING,
            )
            self._members, self._seen = again._list_images(), again._seen
        return self._members

    def _list_images(self) -> dict[bytes, Member]:
        """Return the images; a later member of the same name replaces an earlier one."""
        members: dict[bytes, Member] = {}
        several: set[bytes] = set()
        try:
            self._seen = self._state()
            for name, member in self._listed():
                key = self._key(name)
                if key is None:
                    continue
                if key in members and key not in several:
                    several.add(key)
                    message = "the archive holds several of this name, the last one counts"
                    self._note(os.fsdecode(key), Reason.DUPLICATE_NAME, message)
                members[key] = member
        except OverBound as error:
            self._refuse(f"{error}, after {len(members)} images")
        except BROKEN as error:
            message = f"{str(error) or 'it ends too early'}, after {len(members)} images"
            self._note("", Reason.BROKEN_ARCHIVE, message)
        return members

    @abstractmethod
    def _listed(self) -> Iterator[tuple[str, Member]]:
        """Yield every member that is a file, with its name; count all others."""

    def _key(self, name: str) -> bytes | None:
        """Return the key of a member, None for one that is no image or has an unsafe name."""
        parts = [part for part in os.fsencode(name).split(b"/") if part not in {b"", b"."}]
        if name.startswith("/") or b".." in parts or "\0" in name:
            self._note(name, Reason.UNSAFE_NAME, "the name leads out of the archive")
            return None
        if any(map(is_hidden, parts)):
            self.skip(Skip.HIDDEN, name)
            return None
        key = b"/".join(parts)
        if self.rules.exclusion.covers(os.fsdecode(key)):
            self.skip(Skip.EXCLUDED, os.fsdecode(key))
            return None
        if not parts or not self.is_wanted(parts[-1]):
            self.pass_over(os.fsdecode(key), self.path)
            return None
        return key

    def _refuse(self, why: str) -> None:
        failure = Failure(self.root, "", Stage.SCAN, Reason.OVER_BOUND, why)
        self.failures.append(failure)

    def _note(self, key: str, reason: Reason, message: str) -> None:
        if len(self.failures) > bounds.ODD_MEMBERS:
            raise OverBound(f"the names of more than {bounds.ODD_MEMBERS} members are odd")
        key = key.replace("\0", "\\0")
        self.failures.append(Failure(self.root, key, Stage.SCAN, reason, message))
