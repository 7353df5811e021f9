"""Images in a tar file, which may be compressed as a whole by gzip, bzip2 or xz."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from embedsearch.core.errors import OverBound
from embedsearch.core.paths import bounded
from embedsearch.core.records import ByteRange, ImageRef, Reason
from embedsearch.core.walks import Skip
from embedsearch.images.archives.archive import BROKEN, Archive, Member
from embedsearch.images.archives.tar_walk import members
from embedsearch.images.archives.unpacked import PlainTar, TarStream, open_tar
from embedsearch.images.sources.source import Placed, lost
from embedsearch.images.temporary import discard


class TarArchive(Archive):
    """A tar file; of a compressed one, images are temporary files."""

    def _listed(self) -> Iterator[tuple[str, Member]]:
        with open(self.path, "rb") as file:
            stream = open_tar(file)
            is_plain = isinstance(stream, PlainTar)
            for info in members(stream):
                if info.issym() or info.islnk():
                    self.skip(Skip.LINK, info.name)
                elif not info.isreg() or info.issparse():
                    if not info.isdir():
                        self.skip(Skip.SPECIAL, info.name)
                elif is_plain:
                    size = bounded(info.size)
                    yield info.name, Member(size, ByteRange(info.offset_data, size, size))
                elif info.size > self.max_bytes:
                    yield info.name, Member(bounded(info.size), reason=Reason.TOO_BIG)
                elif self.is_wanted(os.fsencode(info.name)):
                    yield info.name, Member(info.size, digest=_digest(stream, info.size))
                else:
                    yield info.name, Member(info.size)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a range of the file for each ref, or a temporary file, in stream order."""
        known = self._known()
        wanted = {}
        for ref in refs:
            member = known.get(os.fsencode(ref.key))
            if member is None or member.digest is None or not member.size:
                yield from super().places([ref])
            else:
                wanted[os.fsencode(ref.key)] = (ref, member)
        if not wanted:
            return
        message = "it is no longer in the archive"
        try:
            with open(self.path, "rb") as file:
                stream = open_tar(file)
                for info in members(stream):
                    key = os.fsencode(info.name)  # usual names; others are normalized first
                    if key not in wanted:
                        key = b"/".join(p for p in key.split(b"/") if p not in {b"", b"."})
                    if key not in wanted or not info.isreg() or info.size > self.max_bytes:
                        continue
                    ref, member = wanted[key]
                    if info.size != member.size:
                        continue
                    location, digest = self.temporary.keep_pieces(stream.pieces(info.size))
                    if digest == member.digest:
                        del wanted[key]
                        yield ref, location
                    else:
                        discard(location)
        except (OverBound, *BROKEN) as error:
            message = str(error) or "the archive ends too early"
        for ref, _ in wanted.values():
            yield ref, lost(ref, Reason.CHANGED, message)


def _digest(stream: TarStream, size: int) -> bytes:
    digest = hashlib.sha256()
    for piece in stream.pieces(size):
        digest.update(piece)
    return digest.digest()
