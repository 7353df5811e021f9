"""Turns for the requests of a server; in: work of a kind, out: its result, when its turn comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from embedsearch.core.cancelling import cancelled_by
from embedsearch.web.limits import Kind, ServerLimits, Share

T = TypeVar("T")


class Busy(Exception):
    """The queue is full: another request would wait too long."""


class Turns:
    """Gives turns in the order of arrival; bounds how many work and how many wait, by kind."""

    def __init__(self, limits: ServerLimits) -> None:
        self._lanes = {kind: _Lane(kind, share) for kind, share in limits.shares.items()}

    async def run(self, kind: Kind, work: Callable[[], T]) -> T:
        """Do work in a thread when its turn comes. Raises Busy.

        Work whose request is cancelled meanwhile leaves the queue, or is told to stop.
        """
        return await self._lanes[kind].run(work)

    def close(self) -> None:
        """Begin no more work; what has begun is not waited for."""
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=False, cancel_futures=True)

    def running(self, kind: Kind) -> int:
        """Return how many requests are worked on."""
        return self._lanes[kind].running

    def waiting(self, kind: Kind) -> int:
        """Return how many requests wait for their turn."""
        return self._lanes[kind].waiting


class _Lane:
    """The turns of one kind."""

    def __init__(self, kind: Kind, share: Share) -> None:
        self.threads = ThreadPoolExecutor(share.running, f"embedsearch-{kind}")
        self._turns = asyncio.Semaphore(share.running)
        self._max_waiting = share.waiting
        self.running = 0
        self.waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        if self._turns.locked() and self.waiting >= self._max_waiting:
            raise Busy
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        loop = asyncio.get_running_loop()
        gone = threading.Event()

        def done(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._leave)

        def cancellable() -> T:
            with cancelled_by(gone):
                return work()

        future = self.threads.submit(cancellable)
        # A turn ends with its thread, not with its client.
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()
            raise

    def _leave(self) -> None:
        self.running -= 1
        self._turns.release()
