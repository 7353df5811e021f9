"""Images in tar and zip files; in: the path of an archive, out: refs, and parts of it.

Names in the archive are never used on the disk: an image is a range of bytes of the archive or, if
that is compressed as a whole, a temporary file. When the archive has changed, its images are
compared by their bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from embedsearch.core.paths import bounded
from embedsearch.core.records import ByteRange, Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.images.archive_part import BrokenPart, read_part
from embedsearch.images.sources.exclusion import EVERYTHING
from embedsearch.images.sources.kinds import has_image_name, is_hidden
from embedsearch.images.sources.sidecars import MAX_BYTES, beside_members, is_sidecar
from embedsearch.images.sources.source import Beside, Container, Placed, lost

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip member: the lengths of its name and extra field
_HEADERS_KEPT = 1024
_UTF8_FLAG, _UNICODE_PATH = 0x800, 0x7075  # of a zip member: a flag, and an extra field
# What the parsers of headers raise for bytes that are none: numbers of any size and sign, names in
# no encoding, lengths of more than the memory holds, headers of headers.
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, OverflowError, MemoryError, NotImplementedError, RecursionError),
)


@dataclass
class _Member:
    """An image of an archive: a part of the file, in a stream its digest, or why it has neither."""

    size: int
    part: ByteRange | None = None
    digest: bytes | None = None
    reason: Reason | None = None


@dataclass
class Archive(Container, ABC):
    """The images of one archive file."""

    is_wanted: Callable[[bytes], bool] = has_image_name  # by its name
    _members: dict[bytes, _Member] | None = None

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
                yield ref, lost(ref, Reason.VANISHED, "the archive holds it no more")
            elif member.part is None:
                reason = member.reason or Reason.IO_ERROR
                yield ref, lost(ref, reason, f"the archive holds it, {reason.replace('_', ' ')}")
            else:
                yield ref, ImageLocation(folder, name, *self._seen, part=member.part)

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars of images among the members."""
        sidecars = type(self)(self.root, self.path, self.temporary, MAX_BYTES, is_sidecar)
        return beside_members(sidecars, keys)

    def _known(self) -> dict[bytes, _Member]:
        """Return the members; lists the archive if that was not done yet."""
        if self._members is None:
            again = type(self)(
                *(self.root, self.path, self.temporary, self.max_bytes, self.is_wanted),
                rules=EVERYTHING,
            )
            self._members, self._seen = again._list_images(), again._seen
        return self._members

    def _list_images(self) -> dict[bytes, _Member]:
        """Return the images; a later member of the same name replaces an earlier one."""
        members: dict[bytes, _Member] = {}
        try:
            self._seen = self._state()
            for name, member in self._listed():
                key = self._key(name)
                if key is None:
                    continue
                if key in members:
                    message = "the archive holds several of this name, the last one counts"
                    self._note(os.fsdecode(key), Reason.DUPLICATE_NAME, message)
                members[key] = member
        except _BROKEN as error:
            message = f"{str(error) or 'it ends too early'}, after {len(members)} images"
            self._note("", Reason.BROKEN_ARCHIVE, message)
        return members

    @abstractmethod
    def _listed(self) -> Iterator[tuple[str, _Member]]:
        """Yield every member that is a file, with its name; count all others."""

    def _key(self, name: str) -> bytes | None:
        """Return the key of a member, None for one that is no image or has an unsafe name."""
        parts = [part for part in os.fsencode(name).split(b"/") if part not in {b"", b"."}]
        if name.startswith("/") or b".." in parts or "\0" in name:
            self._note(name, Reason.UNSAFE_NAME, "the name leads out of the archive")
            return None
        if any(map(is_hidden, parts)):
            self.hidden += 1
            return None
        key = b"/".join(parts)
        if self.rules.exclusion.covers(os.fsdecode(key)):
            self.excluded += 1
            return None
        if not parts or not self.is_wanted(parts[-1]):
            self.pass_over(os.fsdecode(key), self.path)
            return None
        return key

    def _note(self, key: str, reason: Reason, message: str) -> None:
        key = key.replace("\0", "\\0")
        self.failures.append(Failure(self.root, key, Stage.SCAN, reason, message))


class TarArchive(Archive):
    """A tar file, which may be compressed as a whole by gzip, bzip2 or xz."""

    def _listed(self) -> Iterator[tuple[str, _Member]]:
        with open(self.path, "rb") as file:
            is_plain = not file.read(6).startswith(_COMPRESSED)
        with self._opened(is_plain) as tar:
            for info in _members(tar):
                if info.issym() or info.islnk():
                    self.links += 1
                elif not info.isreg() or info.issparse():
                    self.special += not info.isdir()
                elif is_plain:
                    size = bounded(info.size)
                    yield info.name, _Member(size, ByteRange(info.offset_data, size, size))
                elif info.size > self.max_bytes:
                    yield info.name, _Member(bounded(info.size), reason=Reason.TOO_BIG)
                elif self.is_wanted(os.fsencode(info.name)):
                    digest = hashlib.sha256(_content(tar, info)).digest()
                    yield info.name, _Member(info.size, digest=digest)
                else:
                    yield info.name, _Member(info.size)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a range of the file for each ref, or a temporary file, in stream order."""
        known = self._known()
        wanted = {}
        for ref in refs:
            member = known.get(os.fsencode(ref.key))
            if member is None or member.digest is None:
                yield from super().places([ref])
            else:
                wanted[os.fsencode(ref.key)] = (ref, member)
        if not wanted:
            return
        message = "the archive holds it no more"
        try:
            with self._opened(is_plain=False) as tar:
                for info in _members(tar):
                    key = os.fsencode(info.name)  # usual names; others are normalized first
                    if key not in wanted:
                        key = b"/".join(p for p in key.split(b"/") if p not in {b"", b"."})
                    if key not in wanted or not info.isreg() or info.size > self.max_bytes:
                        continue
                    ref, member = wanted[key]
                    content = _content(tar, info)
                    if hashlib.sha256(content).digest() == member.digest:
                        del wanted[key]
                        yield ref, self.temporary.keep(content)
        except _BROKEN as error:
            message = str(error) or "the archive ends too early"
        for ref, _ in wanted.values():
            yield ref, lost(ref, Reason.CHANGED, message)

    @contextmanager
    def _opened(self, is_plain: bool) -> Iterator[tarfile.TarFile]:
        with open(self.path, "rb") as file:
            how: Mapping[str, Any] = {"fileobj": file, "encoding": "utf-8", "tarinfo": _Header}
            with tarfile.open(**how, mode="r:" if is_plain else "r|*") as tar:
                yield tar


class _Header(tarfile.TarInfo):
    """A header that says when it is broken: tarfile takes that for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header of a block; raises ReadError for a broken one."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):
                raise
            message = str(error) if buf else "it has no end mark"
            raise tarfile.ReadError(message) from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file without keeping all headers in memory."""
    for number, info in enumerate(tar):
        yield info
        if number % _HEADERS_KEPT == _HEADERS_KEPT - 1:
            tar.members.clear()  # type: ignore[attr-defined]


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "a regular member"
    return file.read()


class ZipArchive(Archive):
    """A zip file; its members are stored or deflated."""

    def _listed(self) -> Iterator[tuple[str, _Member]]:
        with open(self.path, "rb") as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    self.links += 1
                else:
                    yield _zip_name(info), _zip_member(file.fileno(), info)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member.

    Without the flag for UTF-8 a name is in code page 437 by the standard; macOS and many tools
    write UTF-8 all the same, or beside it in a field of Info-ZIP's.
    """
    name = info.orig_filename.partition("\0")[0]
    if not info.flag_bits & _UTF8_FLAG:
        raw = name.encode("cp437")
        name = _unicode_path(info.extra, raw) or _as_utf8(raw) or name
    # The standard has slashes; only Windows' tools write anything else.
    return name if "/" in name else name.replace("\\", "/")


def _as_utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in Info-ZIP's Unicode Path field, if it is that of the raw name."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and len(field) > 5:
            (checksum,) = struct.unpack("<I", field[1:5])
            return _as_utf8(field[5:]) if checksum == zlib.crc32(raw) else None
    return None


def _zip_member(descriptor: int, info: zipfile.ZipInfo) -> _Member:
    size, packed = bounded(info.file_size), bounded(info.compress_size)  # zip64 states 64 bits
    if info.flag_bits & 0x1:
        return _Member(size, reason=Reason.ENCRYPTED)
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return _Member(size, reason=Reason.UNSUPPORTED_FORMAT)
    try:
        header = os.pread(descriptor, _LOCAL_HEADER.size, info.header_offset)
    except (OSError, OverflowError):  # an offset of no file; another error comes when it is read
        header = b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        return _Member(size, reason=Reason.CORRUPT)
    start = info.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    return _Member(size, ByteRange(start, packed, size, info.CRC, is_deflated))
