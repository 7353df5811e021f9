"""Views of the whole store, which take seconds; in: how to make one, out: it, made once for all.

The last ones are kept. One that is being made ends with the last client that waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from embedsearch.core.cancelling import is_cancelled
from embedsearch.core.lru import LRU
from embedsearch.core.session import Session
from embedsearch.web.limits import Kind
from embedsearch.web.turns import Turns

V = TypeVar("V")
_KEPT = 8


@dataclass
class _Making:
    """A view that is being made, and how many clients wait for it."""

    task: asyncio.Task[Any]
    waiting: int = 0


class KeptViews:
    """The last views of a server, each by what was asked for and the generation that answered."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._kept: LRU[Hashable, Any] = LRU(_KEPT)
        self._making: dict[Hashable, _Making] = {}

    async def get(self, name: Hashable, make: Callable[[Session], V]) -> V:
        """Return the view of a name. Raises Busy, and what `make` raises."""
        if (kept := self._kept.find(name)) is not None:
            return kept  # type: ignore[no-any-return]
        if (making := self._making.get(name)) is None:
            task = asyncio.create_task(self._made(name, make))
            making = self._making[name] = _Making(task)
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting:
                making.task.cancel()
                # Who asks from now on must not get the one that was just stopped.
                if self._making.get(name) is making:
                    del self._making[name]

    async def _made(self, name: Hashable, make: Callable[[Session], V]) -> V:
        session = Session(stop=lambda: int(is_cancelled()))
        view = await self._turns.run(Kind.VIEWS, lambda: make(session))
        self._kept.keep(name, view)
        return view
