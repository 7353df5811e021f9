"""Work that is tried again after a passing error, within a number of tries and a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def retried(
    work: Callable[[float], T],
    is_passing: Callable[[Exception], bool],
    *,
    tries: int,
    pause_s: Callable[[int], float],
    limit_s: float = math.inf,
) -> T:
    """Return the result of `work(seconds left)`; the last error is raised.

    `pause_s(n)` is the pause after try n, counted from 1. A try that would begin with less than a
    second left is not made.
    """
    started = time.monotonic()
    for number in range(1, tries + 1):
        left_s = limit_s - (time.monotonic() - started)
        try:
            return work(max(1.0, left_s))
        except Exception as error:
            is_over = number == tries or left_s - pause_s(number) < 1.0
            if is_over or not is_passing(error):
                raise
            time.sleep(pause_s(number))
    raise AssertionError("the last try returns or raises")
