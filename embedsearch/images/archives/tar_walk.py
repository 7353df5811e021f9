"""The members of a tar file; in: a stream, out: a TarInfo of each, with names that are bounded.

A block of a header is read by the library. What lies between blocks, the long names of GNU and the
records of pax, is read here: the library holds whatever size they state.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.images.archives.unpacked import TarStream

_BLOCK = tarfile.BLOCKSIZE
_MORE_AT, _STILL_MORE_AT = 482, 504  # bytes that say whether a map of holes goes on
_SPARSE = "GNU.sparse."


def members(stream: TarStream) -> Iterator[tarfile.TarInfo]:
    """Yield each member while the stream stands at its content, which may be read.

    Raises TarError for what is no tar file, and OverBound.
    """
    everywhere: dict[str, str] = {}
    number = 0
    while (info := _next(stream, everywhere)) is not None:
        number += 1
        if number > stream.most_members:
            raise OverBound(f"it has more than {number - 1} members in so few bytes")
        end = info.offset_data
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            end += _whole_blocks(info.size)
        yield info
        stream.skip_to(end)


def _next(stream: TarStream, everywhere: dict[str, str]) -> tarfile.TarInfo | None:
    """Return the next member, None at the end; records for all members go into `everywhere`."""
    name = ""
    records: dict[str, str] = {}
    for _ in range(bounds.HEADERS):
        block = stream.read(_BLOCK)
        info = _header(block)
        if info is None:
            return None
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = _text(_extra(stream, info).partition(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            _extra(stream, info)
        elif info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            records |= _records(_extra(stream, info))
        elif info.type == tarfile.XGLTYPE:
            everywhere |= _records(_extra(stream, info))
        else:
            if info.type == tarfile.GNUTYPE_SPARSE:
                _pass_holes(stream, block)
            _apply(info, everywhere | records, name)
            info.offset_data = stream.position
            return info
    raise OverBound(f"a member has more than {bounds.HEADERS} headers")


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return the header of a block, None for the mark of the end."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if block and not any(block):
            return None
        raise tarfile.ReadError(str(error) if block else "it has no end mark") from error
    if info.size < 0:
        raise tarfile.ReadError("invalid header")
    return info


def _apply(info: tarfile.TarInfo, records: dict[str, str], name: str) -> None:
    """Change a header by what went before it."""
    if any(key.startswith(_SPARSE) for key in records) or info.type == tarfile.GNUTYPE_SPARSE:
        info.sparse = b""
    info.name = name or records.get("path", info.name)
    if info.isdir() or "path" in records:
        info.name = info.name.rstrip("/")
    if "size" in records:
        size = records["size"]
        info.size = int(size) if size.isascii() and size.isdigit() and len(size) < 20 else 0


def _extra(stream: TarStream, info: tarfile.TarInfo) -> bytes:
    """Return what belongs to a header beside its block."""
    if info.size > bounds.HEADER_BYTES:
        raise OverBound(
            f"a header of {info.size} bytes is longer than {bounds.HEADER_BYTES >> 20} MB"
        )
    data = stream.read(_whole_blocks(info.size))
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data[: info.size]


def _records(data: bytes) -> dict[str, str]:
    """Return the records of pax: `length key=value`, each with an end of line."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, blank, _ = data[at : at + 16].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length <= len(digits) + 1 or not equals or not value.endswith(b"\n"):
            raise tarfile.ReadError("invalid header")
        found[_text(key)] = _text(value[:-1])
        at += length
    return found


def _pass_holes(stream: TarStream, block: bytes) -> None:
    """Pass over the map of a file with holes."""
    more, passed = block[_MORE_AT], 0
    while more:
        passed += _BLOCK
        if passed > bounds.HEADER_BYTES:
            raise OverBound(f"a map of holes is longer than {bounds.HEADER_BYTES >> 20} MB")
        block = stream.read(_BLOCK)
        if len(block) < _BLOCK:
            raise tarfile.ReadError("unexpected end of data")
        more = block[_STILL_MORE_AT]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
