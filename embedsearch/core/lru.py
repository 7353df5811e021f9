"""A cache of recently used values; in: a key and a function for its value, out: the value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most `size` values; the least recently used one is dropped first.

    Any number of threads may use it; none waits while another makes a value.
    """

    def __init__(self, size: int, dropped: Callable[[V], None] = lambda value: None) -> None:
        """`dropped` is given what room is made of."""
        self._size = size
        self._dropped = dropped
        self._values: dict[K, V] = {}  # the most recently used one is last
        self._changing = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; it is computed if it is not cached."""
        if (value := self.find(key)) is None:
            value = make()
            self.keep(key, value)
        return value

    def find(self, key: K) -> V | None:
        """Return the value of a key, None if it is not cached."""
        with self._changing:
            if key not in self._values:
                return None
            value = self._values[key] = self._values.pop(key)
            return value

    def keep(self, key: K, value: V) -> None:
        """Cache a value."""
        with self._changing:
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self._size:
                self._dropped(self._values.pop(next(iter(self._values))))

    def clear(self) -> None:
        """Forget all values."""
        with self._changing:
            self._values.clear()
