"""An application on a port, for untrusted clients; in: an app, out: answers.

uvicorn with h11, plus time-outs for headers and for clients that do not read their answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedsearch.core.ending import end_within
from embedsearch.core.errors import UsageError
from embedsearch.web.guard import LOCAL_HOSTS, Access
from embedsearch.web.limits import ServerLimits

AUTO_TOKEN = "auto"
_LOCAL = "127.0.0.1"
_SAME_AGAIN_S = 60.0
_YOUNG_S = 1.0  # a connection in the middle of something is left alone for that long
_ENDING_S = 3.0  # requests in progress have that long to end after a signal
_ENDED_S = 4.5  # after a signal nothing runs for longer
_RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: on, nothing is sent any more
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


def _is_wildcard(host: str) -> bool:
    """Return whether a host means all addresses of this machine, however it is written."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(ip_address(str(place[0]).partition("%")[0]).is_unspecified for *_, place in found)


def access(
    host: str, allowed: tuple[str, ...], token: str | None, public_url: str | None = None
) -> Access:
    """Return the access rules. Raises UsageError for a public host without a token.

    On all addresses of this machine, with a token, it answers to any IP address and to its name.
    """
    if token == AUTO_TOKEN:
        token = secrets.token_urlsafe(24)
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable()):
        raise UsageError("a token is at least 8 printable ASCII characters, or auto")
    if token is None and not _is_local(host):
        raise UsageError(
            f"host {host} is reachable by others: give token=auto, or a token of your own",
            "host",
            "token",
        )
    origin, path, public_host = _public(public_url)
    names = [*allowed, *public_host]
    if is_wildcard := _is_wildcard(host):
        name = socket.gethostname()
        names += [name, name.partition(".")[0], f"{name.partition('.')[0]}.local"]
    else:
        names.append(f"[{host}]" if ":" in host else host)
    hosts = LOCAL_HOSTS | {name.lower() for name in names}
    return Access(hosts, token, is_wildcard and token is not None, origin, path)


def _public(url: str | None) -> tuple[str, str, list[str]]:
    """Return origin, path and host name of the address that a proxy has. Raises UsageError."""
    if url is None:
        return "", "", []
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
    except ValueError as error:
        raise UsageError(f"public_url {url!r}: {error}", "public_url") from error
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        wanted = "an address such as https://example.org/photos/ is wanted"
        raise UsageError(f"public_url {url!r}: {wanted}", "public_url")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = {"http": ":80", "https": ":443"}[parts.scheme]  # a browser leaves it out
    netloc = parts.netloc.lower().removesuffix(port)
    return f"{parts.scheme}://{netloc}", parts.path.rstrip("/"), [host]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"a port is a number from 0 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # The protocol is named: asyncio sets TCP_NODELAY only on sockets that it knows to be TCP,
        # and the second part of an answer would wait 40 ms for the first to be acknowledged.
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(socket.SOMAXCONN)
        except OSError:
            listening.close()
            raise
        return listening
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        message = os.strerror(number) if number > 0 else str(error)
        raise UsageError(f"cannot listen on {host}, port {port}: {message}") from error


def address(listening: socket.socket, access: Access, path: str = "") -> str:
    """Return a URL to open, with the token if there is one."""
    host, port = listening.getsockname()[:2]
    if _is_wildcard(host):
        host = _reachable(listening.family)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/{path}" + (f"?token={access.token}" if access.token else "")


def _reachable(family: int) -> str:
    """Return the address of this machine in its network, or of the machine for itself."""
    outside, local = ("2001:db8::1", "::1") if family == socket.AF_INET6 else ("192.0.2.1", _LOCAL)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 9))  # sends nothing, and shows which address would
            return str(probe.getsockname()[0])
        except OSError:
            return local


def serve(
    app: Callable[..., Any], listening: socket.socket, limits: ServerLimits, *, log: bool
) -> None:
    """Answer until a signal comes; requests in progress have some seconds to end."""
    _log_to_stderr(logging.INFO if log else logging.WARNING)
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (BoundedProtocol,), {"limits": limits}),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(_ENDING_S),
        h11_max_incomplete_event_size=limits.headers_bytes,
    )
    _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends in time after a signal, whatever a thread of it still waits for."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        end_within(_ENDED_S, sig)
        super().handle_exit(sig, frame)


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("embedsearch: %(message)s"))
    for name in ("embedsearch", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # Network noise is no warning for the operator.
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.ERROR))
    logging.getLogger("asyncio").addFilter(_Briefly())


class _Briefly(logging.Filter):
    """The event loop's errors as one line each, the same one once in a minute.

    Out of descriptors, it would write a trace for every connection that it cannot accept.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record, and return whether to write it."""
        message = record.getMessage().split("\n")[0]
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]}"
        record.msg, record.args, record.exc_info = message, (), None
        now = time.monotonic()
        is_new = now - self._logged_at.get(message, -math.inf) > _SAME_AGAIN_S
        if is_new:
            self._logged_at[message] = now
        return is_new


class BoundedProtocol(H11Protocol):
    """A connection that is closed when its client is too slow.

    Where there are too many, the one that has waited for its client for longest makes room: first
    of those that have asked nothing, then of those in the middle of a body or of an answer.
    """

    limits = ServerLimits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting_for_headers: asyncio.TimerHandle | None = None
        self._waiting_for_reader: asyncio.TimerHandle | None = None
        self._since = 0.0  # when the client was last answered, or began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or refuse the connection."""
        super().connection_made(transport)
        # Whatever the client leaves unread counts, also of a connection that is being closed.
        transport.set_write_buffer_limits(high=0)
        self._since = self.loop.time()
        if not self._is_room_made():
            transport.write(_FULL)
            transport.close()
            return
        self._watch_headers()

    def _is_room_made(self) -> bool:
        """Return whether one more connection fits in, if need be in the place of another."""
        others = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol) and other is not self and not other._is_closing()
        ]
        if len(others) < self.limits.connections:
            return True
        idle = [c for c in others if c.conn.their_state is h11.IDLE]
        least = self._since - _YOUNG_S
        stuck = [c for c in others if c._is_stuck() and c._since < least]
        if not idle and not stuck:
            return False
        min(idle or stuck, key=lambda c: c._since)._make_room()
        return True

    def _is_stuck(self) -> bool:
        """Return whether the client has not sent all of its request, or reads no answer."""
        return self.conn.their_state is h11.SEND_BODY or self._waiting_for_reader is not None

    def _is_closing(self) -> bool:
        return bool(self.transport.is_closing())

    def _make_room(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.write(_SLOW)
            self.transport.close()
        else:
            self._reset()

    def _reset(self) -> None:
        """Break the connection off, with what the system holds of the answer.

        It would keep that, some megabytes, for minutes, and the client would not learn of the end.
        """
        if (connection := self.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all waiting."""
        for timer in (self._waiting_for_headers, self._waiting_for_reader):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the headers of a request must be complete in time."""
        super().data_received(data)
        self._watch_headers()

    def _watch_headers(self) -> None:
        is_due = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if is_due and self._waiting_for_headers is None:
            self._waiting_for_headers = self.loop.call_later(self.limits.headers_s, self._too_slow)
        elif not is_due and self._waiting_for_headers is not None:
            self._waiting_for_headers.cancel()
            self._waiting_for_headers = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_SLOW)
            self.transport.close()

    def pause_writing(self) -> None:
        """Pause for a client that does not read its answer, for a limited time."""
        super().pause_writing()
        self._waiting_for_reader = self.loop.call_later(self.limits.answer_s, self._reset)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._waiting_for_reader is not None:
            self._waiting_for_reader.cancel()
            self._waiting_for_reader = None


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
