"""An application on a port, for untrusted clients; in: an app, out: answers.

uvicorn with h11, plus time-outs for headers and for clients that do not read their answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedsearch.core.ending import end_within
from embedsearch.core.errors import UsageError
from embedsearch.web.access import is_wildcard
from embedsearch.web.limits import ServerLimits
from embedsearch.web.tokens import Token

_LOCAL = "127.0.0.1"
_YOUNG_S = 1.0  # a connection in the middle of something is left alone for that long
_ENDING_S = 3.0  # requests in progress have that long to end after a signal
_ENDED_S = 4.5  # after a signal nothing runs for longer
_RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: on, nothing is sent any more
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


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


def address(listening: socket.socket, token: Token | None = None, path: str = "") -> str:
    """Return a URL to open, with a token that was made here, which nobody knows yet."""
    host, port = listening.getsockname()[:2]
    if is_wildcard(host):
        host = _reachable(listening.family)
    name = f"[{host}]" if ":" in host else host
    shown = f"?token={token.value}" if token is not None and token.is_made_here else ""
    return f"http://{name}:{port}/{path}{shown}"


def _reachable(family: int) -> str:
    """Return the address of this machine in its network, or of the machine for itself."""
    outside, local = ("2001:db8::1", "::1") if family == socket.AF_INET6 else ("192.0.2.1", _LOCAL)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 9))  # sends nothing, and shows which address would
            return str(probe.getsockname()[0])
        except OSError:
            return local


class _Terminated(BaseException):
    """SIGTERM has come."""


@contextlib.contextmanager
def ending_on_signal() -> Iterator[None]:
    """Let SIGTERM end this process with 143 once the block has ended, also before it serves.

    The first process of a container is not ended by a signal that it does not handle.
    """

    def end(number: int, frame: FrameType | None) -> None:
        end_within(_ENDED_S, number)
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _Terminated:
        # Not by way of the interpreter's end: threads of OpenVINO would crash there.
        os._exit(128 + signal.SIGTERM)


def serve(app: Callable[..., Any], listening: socket.socket, limits: ServerLimits) -> int:
    """Answer until a signal comes, and return the exit code of that.

    Requests in progress have some seconds to end.
    """
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
    server = _Server(config)
    server.run(sockets=[listening])
    return 128 + server.signal if server.signal else 0


class _Server(uvicorn.Server):
    """Ends in time after a signal, whatever a thread of it still waits for."""

    signal = 0  # that ended it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end.

        uvicorn would raise the signal again once all is closed. OpenVINO leaves the process a
        stack for signals by then that is gone, on processors with AMX, and it would crash.
        """
        end_within(_ENDED_S, sig)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit, self.signal = True, sig


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
