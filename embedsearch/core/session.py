"""How a long run communicates with its caller: notices out, a stop request in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embedsearch.core.errors import Interrupted


def _say_nothing(_: str) -> None:
    return None


def _never() -> int:
    return 0


@dataclass(frozen=True)
class Session:
    """`notice` gets a line for a person; `stop` returns the number of a received signal, else 0.

    The run checks `stop` between steps, so that no step is left half done.
    """

    notice: Callable[[str], None] = _say_nothing
    stop: Callable[[], int] = _never

    def check(self) -> None:
        """Raise Interrupted if a signal came; only for use before anything was changed."""
        if number := self.stop():
            raise Interrupted("interrupted; nothing was changed", number)
