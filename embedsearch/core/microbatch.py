"""Micro-batching: requests that arrive while one batch is processed form the next batch.

There is no timer: the first caller starts at once; callers that arrive meanwhile form the next
batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Ticket(Generic[T, R]):
    """The request of one thread."""

    items: list[T]
    outcomes: list[R] | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.outcomes is not None or self.error is not None


class MicroBatcher(Generic[T, R]):
    """Calls of any number of threads, processed together, one batch at a time."""

    def __init__(self, work: Callable[[list[T]], list[R]], most: int) -> None:
        """`work` returns one outcome per item; every caller of the batch gets its exception.

        A batch has up to `most` items, more only if a single caller has more.
        """
        self._work = work
        self._max_items = most
        self._waiting: list[_Ticket[T, R]] = []
        self._is_busy = False
        self._changed = threading.Condition()

    def __call__(self, items: Sequence[T]) -> list[R]:
        """Return the outcome of each item, in order."""
        ticket: _Ticket[T, R] = _Ticket(list(items))
        with self._changed:
            self._waiting.append(ticket)
            while self._is_busy and not ticket.is_done:
                self._changed.wait()
            if not ticket.is_done:
                self._is_busy = True
                batch = self._batch_of(ticket)
        if not ticket.is_done:
            self._lead(batch)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcomes is not None, "it is done"
        return ticket.outcomes

    def _batch_of(self, ticket: _Ticket[T, R]) -> list[_Ticket[T, R]]:
        """Take a ticket, and all waiting tickets that also fit into the batch."""
        self._waiting.remove(ticket)
        batch, size = [ticket], len(ticket.items)
        for other in list(self._waiting):
            if size + len(other.items) <= self._max_items:
                self._waiting.remove(other)
                batch.append(other)
                size += len(other.items)
        return batch

    def _lead(self, batch: list[_Ticket[T, R]]) -> None:
        try:
            outcomes = iter(self._work([item for ticket in batch for item in ticket.items]))
            for ticket in batch:
                ticket.outcomes = [next(outcomes) for _ in ticket.items]
        except Exception as error:
            for ticket in batch:
                ticket.error = error
        finally:
            with self._changed:
                # Ctrl-C in the leading thread must not end the calls of the others.
                self._waiting += [other for other in batch[1:] if not other.is_done]
                self._is_busy = False
                self._changed.notify_all()
