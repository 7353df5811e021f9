"""The bodies of all requests in memory, within budgets; in: a request's messages, out: its body.

Small bodies have a budget of their own. Where one is used up, the slowest upload makes room: a
client that stops in the middle keeps nobody out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from embedsearch.web.limits import ServerLimits

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

_MEASURED_S = 1.0  # the rate of an upload is that of its last one to two seconds


class TooLarge(Exception):
    """The body is longer than allowed."""


class TooSlow(Exception):
    """The body took longer than allowed, or stood still while others needed its room."""


class NoRoom(Exception):
    """Too much is being uploaded."""


class Gone(Exception):
    """The client closed the connection before its request was complete."""


class Bodies:
    """The bodies that are being read or answered."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._small = _Budget(limits.small_bodies_bytes, limits.json_bytes / limits.body_s)
        self._large = _Budget(limits.bodies_bytes, limits.body_bytes / limits.body_s)

    @contextmanager
    def body(self, length: int | None) -> Iterator[Body]:
        """Hold a body of this stated length, or of an unknown one, until the block ends."""
        is_large = length is not None and length > self._limits.json_bytes
        body = Body(self._large if is_large else self._small)
        try:
            yield body
        finally:
            body.release()

    async def read(self, body: Body, receive: Receive) -> bytes:
        """Return the complete body. Raises TooLarge, TooSlow, NoRoom and Gone."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_s) as body.clock:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    if body.size + len(part) > self._limits.body_bytes:
                        raise TooLarge
                    if body.size + len(part) > self._limits.json_bytes:
                        body.move(self._large)
                    body.add(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        body.is_complete = True
                        return b"".join(parts)
        except TimeoutError as error:
            raise TooSlow from error


class Body:
    """What one request holds."""

    def __init__(self, budget: _Budget) -> None:
        self.size = 0
        self.is_complete = False
        self.clock: asyncio.Timeout | None = None
        self._budget = budget
        self._heard = now = time.monotonic()
        self._before, self._last = (now, 0), (now, 0)  # times, and how much was there
        budget.bodies.add(self)

    def add(self, count: int) -> None:
        """Hold more bytes. Raises NoRoom."""
        self._budget.make_room(count, self)
        self.size += count
        self._heard = now = time.monotonic()
        if now - self._last[0] >= _MEASURED_S:
            self._before, self._last = self._last, (now, self.size)

    def move(self, budget: _Budget) -> None:
        """Count as one of another budget from now on. Raises NoRoom."""
        if budget is not self._budget:
            budget.make_room(self.size, self)
            self._budget.bodies.discard(self)
            self._budget = budget
            budget.bodies.add(self)

    def rate(self) -> float:
        """Return the bytes per second of late; infinite while it is too young to say."""
        now = time.monotonic()
        if now - self._heard >= _MEASURED_S:
            return 0.0
        began, size = self._before
        seconds = now - began
        return (self.size - size) / seconds if seconds >= _MEASURED_S else float("inf")

    def stop(self) -> None:
        """End the reading: TooSlow where it waits."""
        if self.clock is not None:
            self.clock.reschedule(0)
        self.release()

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.bodies.discard(self)


class _Budget:
    """The bytes that bodies of one kind may hold together."""

    def __init__(self, limit: int, least_rate: float) -> None:
        self._limit = limit
        self._least_rate = least_rate  # of an upload that can be complete in time
        self.bodies: set[Body] = set()

    def make_room(self, count: int, asking: Body) -> None:
        """Stop the slowest uploads until `count` more bytes fit in. Raises NoRoom."""
        missing = sum(body.size for body in self.bodies) + count - self._limit
        if missing <= 0:
            return
        slow = [
            body
            for body in self.bodies
            if not body.is_complete and body is not asking and body.rate() < self._least_rate
        ]
        for body in sorted(slow, key=Body.rate):
            missing -= body.size
            body.stop()
            if missing <= 0:
                return
        raise NoRoom
