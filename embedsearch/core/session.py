"""How a long run communicates with its caller: notices out, a stop request in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embedsearch.core.errors import Interrupted


@dataclass(frozen=True)
class Session:
    """`notice` gets a line for a person; `stop` returns the number of a received signal, else 0.

    `step` gets what is being done, how much of it is done, and of how much, 0 if that is unknown.

    The run checks `stop` between steps, so that no step is left half done. It calls `keep` once it
    has results that are worth a commit: from then on a signal waits for that.
    """

    notice: Callable[[str], None] = lambda _: None
    stop: Callable[[], int] = lambda: 0
    keep: Callable[[], None] = lambda: None
    step: Callable[[str, int, int], None] = lambda name, done, total: None

    def check(self) -> None:
        """Raise Interrupted if a signal came; only for use before anything was changed."""
        if number := self.stop():
            raise Interrupted("interrupted; nothing was changed", number)

    def at(self, step: str, done: int = 0, total: int = 0) -> None:
        """Tell what is being done; raise Interrupted if a signal came."""
        self.step(step, done, total)
        self.check()
