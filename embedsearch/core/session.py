"""How a long run talks to whoever started it: notices out, a request to stop in."""

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
    """`notice` takes a line for a person; `stop` returns a signal's number once one came, else 0.

    The run looks at `stop` between steps, so that no step is left half done.
    """

    notice: Callable[[str], None] = _say_nothing
    stop: Callable[[], int] = _never

    def check(self) -> None:
        """Raise Interrupted if the run was asked to stop before it changed anything."""
        if number := self.stop():
            raise Interrupted("interrupted; nothing was changed", number)
