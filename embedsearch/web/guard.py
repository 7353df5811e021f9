"""Checks before every route: access, sizes and headers.

In: an ASGI application, out: one that receives only complete, small requests of allowed clients.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

from embedsearch.core.paths import printable
from embedsearch.web.access import Access
from embedsearch.web.bodies import Bodies, Body, Gone, Message, NoRoom, Receive, TooLarge, TooSlow
from embedsearch.web.limits import ServerLimits
from embedsearch.web.logs import RequestLine
from embedsearch.web.probes import PROBES
from embedsearch.web.refusals import STYLE_SOURCE, TOKEN_NEEDED, Refused, refuse

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
# Called with route, method, status and seconds.
Watch: TypeAlias = Callable[[str, str, int, float], None]

COOKIE = "embedsearch_token"
_POLICY = (
    "default-src 'none'; base-uri 'none'; img-src 'self' blob:; "
    f"style-src 'self' {STYLE_SOURCE}; "
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
_MAX_NOTED = 20  # names of hosts: strangers must not fill the log
_log = logging.getLogger("embedsearch.web")


class Guard:
    """Wraps an application; `watch` is called after every answer."""

    def __init__(self, app: App, access: Access, limits: ServerLimits, watch: Watch) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._watch = watch
        self._bodies = Bodies(limits)
        self._noted: set[str] = set()

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
        except Refused as refused:
            await refuse(refused, answer, as_page=_is_for_a_person(scope))
        except Gone:
            return
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "")
            self._watch(route, scope["method"], status, seconds)
            path = printable(scope["path"][:200])
            client = self._client(scope)
            _log.info(RequestLine(client, scope["method"], path, route, status, seconds))

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        """Raise Refused for clients without access and for malformed requests."""
        is_probe = scope["path"] in PROBES
        if not is_probe:
            self._check_host(headers.get(b"host", ""))
        self._check_length(scope["method"], headers)
        if not self._is_ours(headers) and not _opens_page(scope, headers):
            raise Refused(
                403,
                "other_site",
                "requests of other sites are not answered; if a proxy shows this server at another "
                "address, start it with --public-url and that address",
                name="public_url",
            )
        if self._access.token is not None and not is_probe:
            self._check_token(scope, headers, self._access.token)

    def _check_host(self, header: str) -> None:
        """Raise Refused where a client calls this server by a name that is not its own.

        A web page of a stranger can make its own name mean this address, and would then be of the
        same site as this server.
        """
        match = _HOST.fullmatch(header.lower())
        if match is not None and self._access.is_own(match[1]):
            return
        if match is None or not match[1]:
            raise Refused(403, "unknown_host", "the request names no host")
        host = printable(match[1][:100])
        message = (
            f"this server does not answer to the host name {host}: start it with --allow-host "
            f"{host}, or, if a proxy shows it there, with --public-url and the address"
        )
        if host not in self._noted and len(self._noted) < _MAX_NOTED:
            self._noted.add(host)
            _log.warning("refused a request for the host %s; --allow-host %s allows it", host, host)
        raise Refused(403, "unknown_host", message, name="allow_host")

    def _client(self, scope: Scope) -> str:
        """Return the address of the client."""
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded = [v.decode("latin-1") for n, v in scope["headers"] if n == b"x-forwarded-for"]
        return self._access.client(peer, forwarded)

    def _is_ours(self, headers: dict[bytes, str]) -> bool:
        """Return whether a request comes from this server's own page, or from no page at all."""
        # Only a browser sets sec-fetch-site; a page of another site cannot. It is missing where a
        # server is reached by plain HTTP at another name than localhost.
        site = headers.get(b"sec-fetch-site")
        origin = headers.get(b"origin")
        if origin is None and site is None and b"referer" in headers:
            origin = "/".join(headers[b"referer"].split("/", 3)[:3])
        own = (
            origin is None or origin.lower().partition("://")[2] == headers.get(b"host", "").lower()
        )
        own = own or (origin is not None and origin.lower() == self._access.origin)
        # A form of our page sends no referrer.
        own = own or (origin == "null" and site == "same-origin")
        return own and site in {None, "none", "same-origin"}

    def _check_length(self, method: str, headers: dict[bytes, str]) -> None:
        length = headers.get(b"content-length")  # h11 lets up to 20 digits through only
        is_chunked = b"transfer-encoding" in headers
        if is_chunked and length is not None:
            raise Refused(400, "bad_request", "a body has one length")
        if method == "POST" and not is_chunked and length is None:
            raise Refused(411, "bad_request", "the length of the body is missing")
        if method != "POST" and (is_chunked or int(length or 0)):
            raise Refused(400, "bad_request", f"a {method} request has no body")
        if int(length or 0) > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"a body is at most {self._limits.body_bytes >> 20} MB")

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
            cookie = f"{COOKIE}={quote(token, safe='')};{at} HttpOnly; SameSite=Strict".encode()
            moved = [(b"location", location), (b"set-cookie", cookie)]
            raise Refused(303, "moved", "the token is in a cookie now", moved)
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and _same(bearer.strip(), token)
        if not is_known and not _same(_cookie(headers.get(b"cookie", "")), quote(token, safe="")):
            message = "this server needs its token: send it as Authorization: Bearer TOKEN"
            if _is_for_a_person(scope):
                message = "this is not the token" if given else "this server needs its token"
            raise Refused(401, TOKEN_NEEDED, message, [(b"www-authenticate", b"Bearer")])

    async def _read(self, body: Body, receive: Receive, headers: dict[bytes, str]) -> bytes:
        """Return the complete body. Raises Refused if it is too long, too slow or too complex."""
        try:
            whole = await self._bodies.read(body, receive)
        except TooLarge as error:
            raise self._too_large() from error
        except TooSlow as error:
            raise Refused(
                408, "too_slow", f"the body took over {self._limits.body_s:.0f} s"
            ) from error
        except NoRoom as error:
            raise Refused(
                503, "busy", "too much is being uploaded", [(b"retry-after", b"1")]
            ) from error
        # Parsing stops all others: a text of megabytes is quick, a million numbers are not.
        values = sum(map(whole.count, (b",", b"[", b"{")))
        if "json" in headers.get(b"content-type", "").lower() and values > self._limits.json_values:
            raise Refused(413, "too_large", f"JSON has at most {self._limits.json_values:,} values")
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


def _is_for_a_person(scope: Scope) -> bool:
    """Return whether a browser shows the answer to somebody."""
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _below(scope: Scope, path: str) -> Scope:
    """Return a request without the path of a proxy that hands it on."""
    if not path or not scope["path"].startswith(path + "/"):
        return scope
    raw = scope["raw_path"].decode("latin-1").removeprefix(path)
    return {**scope, "path": scope["path"][len(path) :], "raw_path": raw.encode("latin-1")}


def _single(headers: list[tuple[bytes, bytes]], limits: ServerLimits) -> dict[bytes, str]:
    """Return the headers by name. Raises Refused for long and for repeated ones."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if len(value) > limits.header_bytes:
            raise Refused(431, "too_large", f"a header is at most {limits.header_bytes >> 10} kB")
        if name in found and name in {b"host", b"content-length", b"origin", b"authorization"}:
            raise Refused(400, "bad_request", "a header comes twice")
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
