"""Files of web servers; in: a URL, out: an fsspec file system that believes no server.

Listings, answers and the time for them are bounded, see bounds.py. A range is what was asked for,
or an error. A redirect to another host is refused unless EMBEDSEARCH_REDIRECTS names that host:
else whoever writes a page could make this machine ask others in its network.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from fsspec.asyn import sync, sync_wrapper
from fsspec.implementations.http import HTTPFile, HTTPFileSystem, HTTPStreamFile

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound

REDIRECTS_VARIABLE = "EMBEDSEARCH_REDIRECTS"
_LINK = re.compile(
    r"""<a\s[^<>]{0,4096}?\bhref\s*=\s*["']([^"'<>]{1,4096})"""
    r"""|(https?://[-a-zA-Z0-9@:%_+.~#?&/=]{1,4096})""",
    re.IGNORECASE,
)
_LONGEST_LINK = 16_384  # characters that may be cut between two pieces
_PIECE_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class RedirectRefused(PermissionError):
    """A server sends to another host, which nobody has allowed."""


class WebFiles(HTTPFileSystem):  # type: ignore[misc]
    """The files of one server."""

    def __init__(self, origin: str, connect_s: float) -> None:
        """`origin` is a URL of the server."""

        async def session(*, loop: Any, **_: Any) -> aiohttp.ClientSession:
            return aiohttp.ClientSession(
                loop=loop,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=connect_s, sock_read=bounds.SILENT_S
                ),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                middlewares=(_guard(origin),),
            )

        super().__init__(get_client=session)

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Return what the server says of a file; that it did not answer is no missing file."""
        try:
            found: dict[str, Any] = await super()._info(url)
            return found
        except FileNotFoundError as error:
            cause = error.__cause__
            if cause is None or getattr(cause, "status", 0) in {404, 410}:
                raise
            raise cause from None

    async def _ls_real(self, url: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return what a page links to below its own URL. Raises OverBound."""
        own, server = url.rstrip("/") + "/", "{0.scheme}://{0.netloc}".format(urlsplit(url))
        secure = own.replace("https", "http", 1)
        names: set[str] = set()
        try:
            async with asyncio.timeout(bounds.LISTING_S):
                async for link in self._links(url):
                    if link.startswith("/") and len(link) > 1:
                        link = server + link
                    if link.startswith("http"):
                        if link.replace("https", "http", 1).startswith(secure):
                            names.add(link)
                    elif link not in {"..", "../"}:
                        names.add(own + link.lstrip("/"))
                    if len(names) > bounds.LISTING_LINKS:
                        raise OverBound(f"{url} lists more than {bounds.LISTING_LINKS} names")
        except TimeoutError as error:
            raise OverBound(f"{url}: the list takes over {bounds.LISTING_S:.0f} s") from error
        if not names and url.endswith("/"):
            names = set(await self._ls_real(url.rstrip("/"), detail=False))
        if not detail:
            return sorted(names)
        kinds = {True: "directory", False: "file"}
        return [{"name": n, "size": None, "type": kinds[n.endswith("/")]} for n in names]

    async def _links(self, url: str) -> AsyncIterator[str]:
        """Yield the links of a page as they come."""
        session = await self.set_session()
        async with session.get(self.encode_url(url)) as answer:
            self._raise_not_found_for_status(answer, url)
            _check_plain(answer)
            kind = answer.headers.get("Content-Type", "text/html").partition(";")[0]
            if kind != "text/html":
                return
            decode = _decoder(answer.charset)
            rest, size = "", 0
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                size += len(piece)
                if size > bounds.LISTING_BYTES:
                    limit = bounds.LISTING_BYTES >> 20
                    raise OverBound(f"{url}: the list is longer than {limit} MB")
                text, end, tail = (rest + decode(piece)).rpartition(">")
                for found in _LINK.finditer(text + end):
                    yield found[1] or found[2]
                rest = tail[-_LONGEST_LINK:]
            for found in _LINK.finditer(rest):
                yield found[1] or found[2]

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_type: str | None = None,
        size: int | None = None,
        **_: Any,
    ) -> Any:
        """Return a file that is read in ranges; with `block_size` 0, or no size, as a stream."""
        info = {} if size else self.info(path)
        size = size or info["size"]
        session = sync(self.loop, self.set_session)
        block_size = self.block_size if block_size is None else block_size
        if block_size and size and info.get("partial", True):
            return _RangeFile(
                *(self, path, session, block_size, mode),
                cache_type=cache_type or self.cache_type,
                size=size,
                loop=self.loop,
            )
        return _StreamFile(self, path, mode=mode, loop=self.loop, session=session)


class _RangeFile(HTTPFile):  # type: ignore[misc]
    """A file whose ranges are what was asked for, and all of one version."""

    _tag: str | None = None

    async def async_fetch_range(self, start: int, end: int) -> bytes:
        """Return bytes of the file. Raises OSError, and ValueError for a server without ranges."""
        headers = {"Range": f"bytes={start}-{end - 1}"}
        async with (
            asyncio.timeout(bounds.ANSWER_S),
            self.session.get(self.fs.encode_url(self.url), headers=headers) as answer,
        ):
            if answer.status == 416:  # outside of the file
                return b""
            answer.raise_for_status()
            self._check_version(answer)
            if answer.status != 206:
                if start:
                    raise ValueError("the server does not support range requests")
                return await _body(answer, end)
            said = answer.headers.get("Content-Range")
            if said is None:  # some leave it out; whoever asked looks at the length
                return await _body(answer, end - start)
            length = _length(said, start, end)
            data = await _body(answer, length + 1)
            if len(data) != length:
                raise OSError(f"the server promised {length} bytes and sent {len(data)}")
            return data

    _fetch_range = sync_wrapper(async_fetch_range)

    def _check_version(self, answer: aiohttp.ClientResponse) -> None:
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
        if self._tag is None:
            self._tag = tag
        elif tag != self._tag:
            raise OSError("it changed on the server while it was fetched")


class _StreamFile(HTTPStreamFile):  # type: ignore[misc]
    """A file that is read from its start by one request, with or without a known length."""

    _waited_s = 0.0

    async def _read(self, num: int) -> bytes:
        """Return so many bytes, fewer at the end. Raises OSError for a server that trickles."""
        if self.loc == 0:
            _check_plain(self.r)
        parts, began, before = [], time.monotonic(), self.loc
        while (left := num - (self.loc - before)) > 0:
            if not (part := await self.r.content.read(left)):
                break
            parts.append(part)
            self.loc += len(part)
            waited_s = self._waited_s + time.monotonic() - began
            if waited_s > bounds.SILENT_S and self.loc < waited_s * bounds.SLOWEST_BYTES_S:
                raise OSError(f"the server sends less than {bounds.SLOWEST_BYTES_S} bytes a second")
        self._waited_s += time.monotonic() - began
        return b"".join(parts)

    read = sync_wrapper(_read)


def _guard(
    origin: str,
) -> Callable[
    [aiohttp.ClientRequest, aiohttp.ClientHandlerType], Awaitable[aiohttp.ClientResponse]
]:
    """Return what each request passes, also that of a redirect."""
    own = urlsplit(origin)

    async def guard(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        url = request.url
        default = {"http": 80, "https": 443}[own.scheme.lower()]
        is_same = url.host == own.hostname and url.port == (own.port or default)
        is_safer = url.host == own.hostname and url.scheme == "https" and own.port is None
        if not (is_safer or (is_same and url.scheme == own.scheme.lower())):
            allowed = os.environ.get(REDIRECTS_VARIABLE, "").replace(",", " ").split()
            if url.host not in allowed:
                raise RedirectRefused(
                    f"{own.netloc} redirects to another host, {url.host}:{url.port}; to allow it "
                    f"set {REDIRECTS_VARIABLE}={url.host}"
                )
        try:
            async with asyncio.timeout(bounds.HEADERS_S):
                return await handler(request)
        except TimeoutError as error:
            raise OSError(f"no answer within {bounds.HEADERS_S:.0f} s") from error

    return guard


def _length(said: str, start: int, end: int) -> int:
    """Return how many bytes follow, by a Content-Range. Raises OSError for other than was asked."""
    found = _CONTENT_RANGE.match(said)
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    is_end = found is not None and found[3] == str(last + 1)
    if first != start or not start <= last < end or (last != end - 1 and not is_end):
        asked = f"bytes {start}-{end - 1}"
        raise OSError(f"the server was asked for {asked} and answers with {said[:80]}")
    return last + 1 - first


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the bytes of an answer up to a number."""
    parts: list[bytes] = []
    while most > 0 and (part := await answer.content.read(min(most, _PIECE_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _check_plain(answer: aiohttp.ClientResponse) -> None:
    """Raise OSError for an answer that is packed, which was not asked for."""
    packing = answer.headers.get("Content-Encoding", "").lower()
    if packing in {"gzip", "x-gzip", "deflate", "compress", "br", "zstd"}:
        raise OSError(f"the server packs its answer ({packing}), which was not asked for")


def _decoder(charset: str | None) -> Callable[[bytes], str]:
    try:
        return codecs.getincrementaldecoder(charset or "utf-8")(errors="ignore").decode
    except LookupError:
        return codecs.getincrementaldecoder("utf-8")(errors="ignore").decode
