"""Images in a zip file; its members are stored or deflated."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.core.paths import bounded
from embedsearch.core.records import ByteRange, Reason
from embedsearch.core.walks import Skip
from embedsearch.images.archives.archive import Archive, Member
from embedsearch.images.archives.zip_directory import ZipEntry, entries

_LOCAL_HEADER = struct.Struct("<26x2H")  # of a member: the lengths of its name and extra field
_ENCRYPTED, _UTF8_FLAG, _UNICODE_PATH = 0x1, 0x800, 0x7075  # two flags, and an extra field
_FLOOR_BYTES = bounds.UNPACKED_FLOOR_BYTES // 4  # of one member: several are unpacked at a time


class ZipArchive(Archive):
    """A zip file."""

    def _listed(self) -> Iterator[tuple[str, Member]]:
        with open(self.path, "rb") as file:
            most = bounds.UNPACKED_RATIO * os.fstat(file.fileno()).st_size
            most = max(most, bounds.UNPACKED_FLOOR_BYTES)
            whole = 0
            for entry in entries(file):
                if entry.name.endswith(b"/"):
                    continue
                if stat.S_ISLNK(entry.attributes >> 16):
                    self.skip(Skip.LINK, os.fsdecode(entry.name))
                    continue
                member = _member(file.fileno(), entry)
                if member.part is not None and member.size <= self.max_bytes:
                    whole += member.size
                if whole > most:
                    raise OverBound(
                        f"its members unpack to more than {bounds.UNPACKED_FLOOR_BYTES >> 20} MB "
                        f"and {bounds.UNPACKED_RATIO} times its size"
                    )
                yield _name(entry), member

    def _list_images(self) -> dict[bytes, Member]:
        """Return the images, without those that lie over another: few bytes would be many."""
        members = super()._list_images()
        parts = ((member.part, key) for key, member in members.items() if member.part is not None)
        end, over = 0, []
        for start, last, key in sorted((p.start, p.start + p.length, key) for p, key in parts):
            if start < end:
                over.append(key)
            end = max(end, last)
        for key in over:
            del members[key]
        if over:
            shown = os.fsdecode(over[0])
            self._refuse(f"{len(over)} members lie over others in the file, such as {shown}")
        return members


def _name(entry: ZipEntry) -> str:
    """Return the name of a member.

    Without the flag for UTF-8 a name is in code page 437 by the standard; macOS and many tools
    write UTF-8 all the same, or beside it in a field of Info-ZIP's.
    """
    raw = entry.name.partition(b"\0")[0]
    if entry.flags & _UTF8_FLAG:
        name = os.fsdecode(raw)
    else:
        name = _unicode_path(entry.extra, raw) or _as_utf8(raw) or raw.decode("cp437")
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


def _member(descriptor: int, entry: ZipEntry) -> Member:
    size, packed = bounded(entry.size), bounded(entry.packed)  # zip64 states 64 bits
    if entry.flags & _ENCRYPTED:
        return Member(size, reason=Reason.ENCRYPTED)
    if entry.method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return Member(size, reason=Reason.UNSUPPORTED_FORMAT)
    if size > max(_FLOOR_BYTES, bounds.UNPACKED_RATIO * packed):
        return Member(size, reason=Reason.OVER_BOUND)
    try:
        header = os.pread(descriptor, _LOCAL_HEADER.size, entry.start)
    except (OSError, OverflowError):  # an offset of no file; another error comes when it is read
        header = b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        return Member(size, reason=Reason.CORRUPT)
    start = entry.start + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
    is_deflated = entry.method == zipfile.ZIP_DEFLATED
    return Member(size, ByteRange(start, packed, size, entry.crc, is_deflated))
