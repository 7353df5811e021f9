"""Checks before every route: access, sizes and headers.

In: an ASGI application, out: one that receives only complete, small requests of allowed clients.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

from embedsearch.core.paths import printable
from embedsearch.web.bodies import Bodies, Body, Gone, Message, NoRoom, Receive, TooLarge, TooSlow
from embedsearch.web.limits import ServerLimits

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
# Called with route, method, status and seconds.
Watch: TypeAlias = Callable[[str, str, int, float], None]

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
COOKIE = "embedsearch_token"
_POLICY = (
    "default-src 'none'; base-uri 'none'; img-src 'self' blob:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"same-origin"),  # a form without scripts tells its origin
    (b"cross-origin-resource-policy", b"same-origin"),  # no other site shows or measures a picture
    (b"cross-origin-opener-policy", b"same-origin"),
]
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(?::[0-9]{1,5})?")
_log = logging.getLogger("embedsearch.web")


@dataclass(frozen=True)
class Access:
    """Access rules: names of this host, and a token if one is required."""

    hosts: frozenset[str] = LOCAL_HOSTS
    token: str | None = None
    any_address: bool = False  # an IP address cannot be made to mean another host, as a name can
    origin: str = ""  # of a proxy, such as https://example.org
    path: str = ""  # below which the proxy shows this server, such as /photos

    def is_own(self, host: str) -> bool:
        """Return whether a host, in lower case and without its port, is this one."""
        return host in self.hosts or (self.any_address and _is_address(host))


@dataclass
class _Refused(Exception):
    """A request that is refused before any route."""

    status: int
    code: str
    message: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Guard:
    """Wraps an application; `watch` is called after every answer."""

    def __init__(self, app: App, access: Access, limits: ServerLimits, watch: Watch) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._watch = watch
        self._bodies = Bodies(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0
        if is_head := scope["method"] == "HEAD":  # the answer to GET, without its body
            scope = {**scope, "method": "GET"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            headers = _single(scope["headers"], self._limits)
            scope = _below(scope, self._access.path)
            self._check(scope, headers)
            length = headers.get(b"content-length")
            with self._bodies.body(None if length is None else int(length)) as body:
                whole = b""
                if scope["method"] == "POST":
                    whole = await self._read(body, receive, headers)
                await self._until_gone(scope, whole, receive, answer)
        except _Refused as refused:
            await _refuse(refused, answer)
        except Gone:
            return
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "")
            self._watch(route, scope["method"], status, seconds)
            path = printable(scope["path"][:200])
            _log.info("%s %s %d %.0f ms", scope["method"], path, status, 1e3 * seconds)

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        """Raise _Refused for clients without access and for malformed requests."""
        host = _HOST.fullmatch(headers.get(b"host", "").lower())
        if host is None or not self._access.is_own(host[1]):
            message = "this server does not answer to that host name: start it with --allow-host"
            raise _Refused(403, "unknown_host", f"{message} and the name")
        self._check_length(scope["method"], headers)
        if not self._is_ours(headers) and not _opens_page(scope, headers):
            raise _Refused(
                403,
                "other_site",
                "requests of other sites are not answered; if a proxy shows this server at another "
                "address, start it with --public-url and that address",
            )
        if self._access.token is not None and scope["path"] != "/health":
            self._check_token(scope, headers, self._access.token)

    def _is_ours(self, headers: dict[bytes, str]) -> bool:
        """Return whether a request comes from this server's own page, or from no page at all."""
        # Only a browser sets sec-fetch-site; a page of another site cannot. It is missing where a
        # server is reached by plain HTTP at another name than localhost.
        site = headers.get(b"sec-fetch-site")
        origin = headers.get(b"origin")
        if origin is None and site is None and b"referer" in headers:
            origin = "/".join(headers[b"referer"].split("/", 3)[:3])
        own = origin is None or origin.lower().partition("://")[2] == headers[b"host"].lower()
        own = own or (origin is not None and origin.lower() == self._access.origin)
        # A form of our page sends no referrer.
        own = own or (origin == "null" and site == "same-origin")
        return own and site in {None, "none", "same-origin"}

    def _check_length(self, method: str, headers: dict[bytes, str]) -> None:
        length = headers.get(b"content-length")  # h11 lets up to 20 digits through only
        is_chunked = b"transfer-encoding" in headers
        if is_chunked and length is not None:
            raise _Refused(400, "bad_request", "a body has one length")
        if method == "POST" and not is_chunked and length is None:
            raise _Refused(411, "bad_request", "the length of the body is missing")
        if method != "POST" and (is_chunked or int(length or 0)):
            raise _Refused(400, "bad_request", f"a {method} request has no body")
        if int(length or 0) > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, "too_large", f"a body is at most {self._limits.body_bytes >> 20} MB")

    def _check_token(self, scope: Scope, headers: dict[bytes, str], token: str) -> None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and scope["method"] == "GET" and all(_same(value, token) for value in given):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            # Relative, with the path of the cookie that of the page: a proxy may show this server
            # below a path of its own, beside others.
            name = scope["raw_path"].decode("latin-1").rpartition("/")[2]
            location = (f"./{name}" + ("?" + rest if rest else "")).encode("latin-1")
            at = "" if scope["path"].count("/") == 1 else " Path=/;"
            cookie = f"{COOKIE}={token};{at} HttpOnly; SameSite=Strict".encode()
            moved = [(b"location", location), (b"set-cookie", cookie)]
            raise _Refused(303, "moved", "the token is in a cookie now", moved)
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and _same(bearer.strip(), token)
        if not is_known and not _same(_cookie(headers.get(b"cookie", "")), token):
            message = "a token is needed: Authorization: Bearer …"
            raise _Refused(401, "token_needed", message, [(b"www-authenticate", b"Bearer")])

    async def _read(self, body: Body, receive: Receive, headers: dict[bytes, str]) -> bytes:
        """Return the complete body. Raises _Refused if it is too long, too slow or too complex."""
        try:
            whole = await self._bodies.read(body, receive)
        except TooLarge as error:
            raise self._too_large() from error
        except TooSlow as error:
            raise _Refused(
                408, "too_slow", f"the body took over {self._limits.body_s:.0f} s"
            ) from error
        except NoRoom as error:
            raise _Refused(
                503, "busy", "too much is being uploaded", [(b"retry-after", b"1")]
            ) from error
        # Parsing stops all others: a text of megabytes is quick, a million numbers are not.
        values = sum(map(whole.count, (b",", b"[", b"{")))
        if "json" in headers.get(b"content-type", "").lower() and values > self._limits.json_values:
            raise _Refused(
                413, "too_large", f"JSON has at most {self._limits.json_values:,} values"
            )
        return whole

    async def _until_gone(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Answer a request; stop when its client is gone. Raises Gone."""
        work = asyncio.ensure_future(self._app(scope, _replayed(body), send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Gone
            await work
        finally:
            for task in (work, gone):
                task.cancel()


def _opens_page(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Return whether somebody follows a link to the page from elsewhere: it shows nothing yet."""
    is_page = scope["method"] == "GET" and scope["path"] == "/"
    return is_page and headers.get(b"sec-fetch-dest", "document") == "document"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _below(scope: Scope, path: str) -> Scope:
    """Return a request without the path of a proxy that hands it on."""
    if not path or not scope["path"].startswith(path + "/"):
        return scope
    raw = scope["raw_path"].decode("latin-1").removeprefix(path)
    return {**scope, "path": scope["path"][len(path) :], "raw_path": raw.encode("latin-1")}


def _single(headers: list[tuple[bytes, bytes]], limits: ServerLimits) -> dict[bytes, str]:
    """Return the headers by name. Raises _Refused for long and for repeated ones."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if len(value) > limits.header_bytes:
            raise _Refused(431, "too_large", f"a header is at most {limits.header_bytes >> 10} kB")
        if name in found and name in {b"host", b"content-length", b"origin", b"authorization"}:
            raise _Refused(400, "bad_request", "a header comes twice")
        found[name] = value.decode("latin-1")
    return found


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _replayed(body: bytes) -> Receive:
    """Return a receive that gives a body, then waits: a client that goes is seen elsewhere."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            await asyncio.Event().wait()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(refused: _Refused, send: Send) -> None:
    body = json.dumps({"error": refused.message, "code": refused.code}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),  # the rest of the request is not read
        *refused.headers,
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
