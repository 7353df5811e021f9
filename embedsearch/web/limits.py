"""The bounds of a server, and turns for its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of a server. A request beyond them is refused; others are still served."""

    body_bytes: int = 20 << 20
    json_bytes: int = 1 << 20
    bodies_bytes: int = 200 << 20  # of all requests together, while they are read and answered
    headers_bytes: int = 64 << 10  # the request line and all headers
    header_bytes: int = 16 << 10  # a single one
    headers_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 30.0  # for a client to read more of its answer
    idle_s: float = 5.0  # between two requests of a connection
    connections: int = 512
    running: int = 8  # requests that are worked on
    waiting: int = 32  # requests that wait for their turn


class Busy(Exception):
    """The queue is full: another request would wait too long."""


class Admission:
    """Gives turns in the order of arrival; bounds how many work and how many wait."""

    def __init__(self, limits: ServerLimits) -> None:
        self._turns = asyncio.Semaphore(limits.running)
        self._max_waiting = limits.waiting
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Busy."""
        if self._turns.locked() and self.waiting >= self._max_waiting:
            raise Busy
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._turns.release()
