"""Rows in files that other processes can map; in: tables in parts, out: windows of rows.

A window is written once and then read by every process that is asked about it. The last ones are
kept, up to a size: a store of millions of rows is read again, window by window.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from embedsearch.core.system import anonymous_file

_ROWS = 1 << 17  # of a window, at most and unless a part has more
_BYTES = 16 << 20
_KEPT_BYTES = 96 << 20
_numbers = itertools.count(1)

Parts = Iterable[tuple[int, pa.Table]]


class Window:
    """Rows of a table in an anonymous file, which lasts as long as this."""

    def __init__(self, start: int, table: pa.Table) -> None:
        """Write a table whose first row is at `start`. Raises OSError."""
        self.number = next(_numbers)
        self.start = start
        self.rows = len(table)
        self.descriptor = anonymous_file()
        with (
            os.fdopen(self.descriptor, "wb", closefd=False) as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True)
class _Kept:
    windows: list[Window]
    size: int


class Windows:
    """The windows of one generation, by columns. Any number of threads may read."""

    def __init__(self) -> None:
        self._kept: dict[object, _Kept] = {}  # the most recently used one is last
        self._changing = threading.Lock()  # held for a moment only

    def of(self, key: object, parts: Callable[[], Parts]) -> Iterator[Window]:
        """Yield the windows of a table: those that are kept, or new ones made of its parts."""
        with self._changing:
            known = self._kept.pop(key, None)
            if known is not None:
                self._kept[key] = known
        if known is not None:
            yield from known.windows
            return
        made: list[Window] = []
        size = 0
        for start, table in _joined(parts()):
            window = Window(start, table)
            size += window.size
            if size <= _KEPT_BYTES:
                made.append(window)
            yield window
        if size <= _KEPT_BYTES:
            self._keep(key, _Kept(made, size))

    def numbers(self) -> Set[int]:
        """Return the numbers of the windows that are kept."""
        with self._changing:
            return {each.number for kept in self._kept.values() for each in kept.windows}

    def clear(self) -> None:
        """Forget all windows."""
        with self._changing:
            self._kept.clear()

    def _keep(self, key: object, kept: _Kept) -> None:
        with self._changing:
            self._kept[key] = kept
            while sum(each.size for each in self._kept.values()) > _KEPT_BYTES:
                del self._kept[next(iter(self._kept))]


def _joined(parts: Parts) -> Iterator[tuple[int, pa.Table]]:
    """Yield parts put together to windows of a fair size, or cut into them."""
    waiting: list[pa.Table] = []
    first = rows = size = 0
    for start, part in parts:
        for offset, table in _cut(part):
            if waiting and (rows + len(table) > _ROWS or size + table.nbytes > _BYTES):
                yield first, pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
            if not waiting:
                first = start + offset
            waiting.append(table)
            rows += len(table)
            size += table.nbytes
    if waiting:
        yield first, pa.concat_tables(waiting)


def _cut(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    step = max(1, len(table) * _BYTES // max(table.nbytes, _BYTES))
    for offset in range(0, len(table), step):
        yield offset, table.slice(offset, step)


def parts_of(
    read: Callable[[Sequence[str]], Parts], columns: Sequence[str], lock: threading.RLock
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the parts of a table, each read under a lock that is free in between."""
    parts = iter(read(columns))
    while True:
        with lock:
            part = next(parts, None)
        if part is None:
            return
        yield part
