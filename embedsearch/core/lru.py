"""A cache of recently used values; in: a key and a function for its value, out: the value."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most `size` values; the least recently used one is dropped first. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[K, V] = {}  # the most recently used one is last

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; it is computed if it is not cached."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        if len(self._values) > self._size:
            del self._values[next(iter(self._values))]
        return value

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()
