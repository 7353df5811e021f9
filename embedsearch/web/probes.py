"""Whether a server is well, for those that start and stop it; out: yes or no, nothing of the store.

Kubernetes and load balancers ask by the address of a pod and without a token, so these two answer
to any host name and need none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from embedsearch.core.errors import EmbedSearchError
from embedsearch.web.limits import Kind
from embedsearch.web.turns import Busy, Turns

LIVE, READY = "/livez", "/readyz"
PROBES = frozenset({LIVE, READY})
OK, DEGRADED, NOT_READY = "ok", "degraded", "not ready"
_KNOWN_S = 1.0  # an answer is that old at most: strangers must not take the turns of clients
_WAIT_S = 2.0


class Readiness:
    """Whether a record of the store can be read in time; asked once for all who want to know."""

    def __init__(self, turns: Turns, read: Callable[[], object]) -> None:
        self._turns = turns
        self._read = read
        self._reading: asyncio.Task[bool] | None = None
        self._known_at = 0.0

    async def is_ready(self) -> bool:
        """Return it; False where the queue is full, or the store's disk does not answer."""
        now = time.monotonic()
        reading = self._reading
        if reading is None or (reading.done() and now - self._known_at > _KNOWN_S):
            reading = self._reading = asyncio.create_task(self._is_read())
        try:
            # One that hangs is waited for again, and not joined by another.
            return await asyncio.wait_for(asyncio.shield(reading), _WAIT_S)
        except TimeoutError:
            return False

    async def _is_read(self) -> bool:
        try:
            await self._turns.run(Kind.RECORDS, self._read)
        except (Busy, EmbedSearchError, OSError):
            return False
        finally:
            self._known_at = time.monotonic()
        return True
