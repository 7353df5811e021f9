"""The cache of recently used values."""

from __future__ import annotations

import threading

from embedsearch.core.lru import LRU


def test_the_least_recently_used_is_dropped() -> None:
    cache: LRU[str, int] = LRU(2)
    made: list[str] = []

    def get(key: str) -> int:
        def make() -> int:
            made.append(key)
            return len(made)

        return cache.get(key, make)

    assert [get(key) for key in "abacab"] == [1, 2, 1, 3, 1, 4]
    assert made == ["a", "b", "c", "b"]
    cache.clear()
    assert cache.find("a") is None


def test_nobody_waits_while_another_makes_a_value() -> None:
    cache: LRU[str, int] = LRU(2)
    making, go = threading.Event(), threading.Event()

    def slow() -> int:
        making.set()
        assert go.wait(10)
        return 1

    thread = threading.Thread(target=cache.get, args=["slow", slow])
    thread.start()
    assert making.wait(10)
    assert cache.get("quick", lambda: 2) == 2
    assert thread.is_alive()
    go.set()
    thread.join()
    assert cache.find("slow") == 1
