"""How many requests are worked on at once, and how many may wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embedsearch.web.limits import ServerLimits


class Busy(Exception):
    """So many are waiting that another would wait too long."""


class Admission:
    """Gives turns, in the order of arrival."""

    def __init__(self, limits: ServerLimits) -> None:
        self._turns = asyncio.Semaphore(limits.running)
        self._most_waiting = limits.waiting
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Busy."""
        if self._turns.locked() and self.waiting >= self._most_waiting:
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
