"""Work that its asker no longer waits for; in: an event, out: whether to stop.

A server sets the event of a client that has gone. What may take long looks at it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)


@contextmanager
def cancelled_by(event: threading.Event) -> Iterator[None]:
    """Let `event` stop what this thread does until the end of the block."""
    token = _gone.set(event)
    try:
        yield
    finally:
        _gone.reset(token)


def is_cancelled() -> bool:
    """Return whether nobody waits for what this thread does."""
    event = _gone.get()
    return event is not None and event.is_set()
