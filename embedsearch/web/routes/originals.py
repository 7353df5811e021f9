"""The files themselves; in: a row, out: the bytes that were indexed, whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.records import ImageRecord
from embedsearch.images.original_file import NoFile, OriginalFile
from embedsearch.images.safe_name import safe_name
from embedsearch.web.answers import has_copy, json_answer
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import Row, in_query, told
from embedsearch.web.search_request import BadRequest, parameters, validated
from embedsearch.web.service import Service
from embedsearch.web.streams import Streamed

_BYTES = "application/octet-stream"
# By the format in the row. Nothing here can be a page or hold a script.
_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "HEIC": "image/heif",
    "HEIF": "image/heif",  # its name in older stores
    "AVIF": "image/avif",
}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9 ._()+-]")


class OriginalOptions(BaseModel):
    """How a browser takes a file."""

    model_config = ConfigDict(extra="forbid")

    download: Annotated[bool, Field(description="save it, and do not show it")] = False


class OriginalRoutes:
    """`/images/{row}/original`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the route."""
        file = {"schema": {"type": "string", "format": "binary"}}
        found: dict[str, Any] = {"content": {"image/*": file, _BYTES: file}}
        described = told(found, {"parameters": in_query(OriginalOptions)})
        described["responses"] |= {206: found, 416: described["responses"][400]}
        app.get("/images/{row}/original", **described)(self.original)

    async def original(self, request: Request, row: Row) -> Response:
        """Return the file of an image: the bytes that were indexed, or nothing."""
        options = validated(OriginalOptions, parameters(request))
        service, number = self._service, int(row)
        kind = Kind.REMOTE if await service.is_remote([number]) else Kind.ORIGINALS
        record, file = await service.turns.run(kind, lambda: self._opened(number))
        headers = {
            "etag": (etag := f'"{file.digest.hex()}"'),
            "accept-ranges": "bytes",
            "cache-control": "private, max-age=300",
            "content-disposition": disposition(record.key, is_saved=options.download),
        }
        if has_copy(request, etag):
            file.close()
            return Response(None, 304, headers)
        media_type = _TYPES.get(record.format, _BYTES)
        if (wanted := _range(request.headers, etag, file.size)) is None:
            return self._answer(file, range(file.size), 200, headers, media_type)
        if not wanted:
            file.close()
            message = f"the file has {file.size} bytes"
            headers = {"content-range": f"bytes */{file.size}"}
            return json_answer({"error": message, "code": "bad_request"}, 416, headers)
        place = f"bytes {wanted.start}-{wanted.stop - 1}/{file.size}"
        return self._answer(file, wanted, 206, headers | {"content-range": place}, media_type)

    def _opened(self, row: int) -> tuple[ImageRecord, OriginalFile]:
        searcher = self._service.searcher
        record = searcher.get(row)
        try:
            return record, searcher.original(row)
        except NoFile as error:
            message = f"row {row} is an imported vector, which has no file"
            raise BadRequest(message, 404, code="no_file") from error
        except UnreadableImage as error:  # replaced, deleted, or it cannot be read now
            message = f"the image of row {row} cannot be read"
            raise BadRequest(message, 404, code="file_gone") from error

    def _answer(
        self, file: OriginalFile, part: range, status: int, headers: dict[str, str], kind: str
    ) -> Response:
        headers = headers | {"content-length": str(len(part))}
        pieces, turns = _Pieces(file, part), self._service.turns
        return Streamed(
            pieces, turns, Kind.ORIGINALS, status=status, headers=headers, media_type=kind
        )


def disposition(key: str, *, is_saved: bool) -> str:
    """Return the header that names a file, in ASCII for old programs and in full (RFC 6266)."""
    name = safe_name(key.rpartition("/")[2])
    plain = _UNSAFE.sub("_", name)
    how = "attachment" if is_saved else "inline"
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class _Pieces(Iterator[bytes]):
    """A part of a file, piece by piece. Close it."""

    def __init__(self, file: OriginalFile, part: range) -> None:
        self._file = file
        self._pieces = file.pieces(part.start, part.stop)

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _range(headers: Headers, etag: str, size: int) -> range | None:
    """Return the bytes that are asked for, none of them if there are no such; None for all.

    Several ranges at once are answered with the whole file, as is one of another version.
    """
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", etag) != etag:
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    stop = min(size, int(last) + 1) if last else size
    return range(min(int(first), size), max(stop, min(int(first), size)))
