"""Filters over a small table, and the processes that answer them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedsearch.core.session import Session
from embedsearch.searching.filters.where import Filters

ROWS = pa.table(
    {
        "row": [0, 1, 2],
        "width": pa.array([1, 2000, None], pa.int32()),
        "path": ["trips/a", "b", "trips/ü"],
        "gps": pa.array([{"lat": 1.0, "lon": 2.0}, None, {"lat": 5.0, "lon": 1.0}]),
        "Label": ["x", "y", "z"],
        "tags": [["a"], ["b"], []],
        "images": [1, 2, 3],
        "taken_at": pa.array([0, 86_400_000_000, None], pa.timestamp("us")),
    }
)
MANY = pa.table(
    {
        "row": np.arange(20_000),
        "path": [f"trips/{n % 10}/{'a' * 20}{n}.jpg" for n in range(20_000)],
        "tags": [[str(tag) for tag in range(n % 30)] for n in range(20_000)],
    }
)
# Each of allowed words, and each more than any machine has.
NO_END = (
    "len(list_filter(tags, lambda a: len(list_filter(tags, lambda b: len(list_filter(tags, "
    "lambda c: len(list_filter(tags, lambda d: a = b and c = d)) > 9)) > 9)) > 9)) > 5"
)


def no_end_of_constants() -> str:
    """Return a condition that DuckDB works out before it sees a row, holding the interpreter."""
    text = "'a'"
    for _ in range(200):
        text = f"replace({text}, 'a', 'aa')"
    return f"length({text}) < 5"


@contextmanager
def filters_on(table: pa.Table) -> Iterator[Filters]:
    """Lend the filters on a table."""
    filters = Filters(table.schema, lambda names: [(0, table.select(names))], len(table))
    try:
        yield filters
    finally:
        filters.close()


def answer(filters: Filters, text: str) -> list[bool]:
    """Return which rows meet a condition."""
    found: list[bool] = filters.mask(text, Session()).tolist()
    return found


def children(parent: int) -> list[int]:
    """Return the processes that a process has started, also those that have ended unnoticed."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        if folder.name.isdecimal() and int(state[1]) == parent:
            found.append(int(folder.name))
    return found


def is_alive(process: int) -> bool:
    """Return whether a process runs: it has neither ended nor waits to be noticed."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def peak_mb(process: int) -> int:
    """Return how many megabytes a process has had at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) >> 10


def workers() -> list[int]:
    """Return the processes of filters that this process has started."""
    return [each for each in children(os.getpid()) if _is_worker(each)]


def _is_worker(process: int) -> bool:
    try:
        return b"filters.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
