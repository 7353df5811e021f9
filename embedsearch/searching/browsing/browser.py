"""A generation to look around in; in: a condition and an order, out: images, values, folders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedsearch.core.cancelling import is_cancelled
from embedsearch.core.errors import Interrupted, UsageError
from embedsearch.core.lru import LRU
from embedsearch.searching.browsing.folders import READ as FOLDER_COLUMNS, FolderList, count_folders
from embedsearch.searching.browsing.order import Orders
from embedsearch.searching.browsing.records import ImageList, records_of
from embedsearch.searching.browsing.values import ColumnValues, count_values
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.filters.windows import Parts, parts_of
from embedsearch.searching.neighbors import RowSearch
from embedsearch.searching.row_sources import Mask
from embedsearch.store.snapshot import Snapshot

_VALUES_KEPT = 32  # columns of which the values are kept, for all images


class Browser:
    """Lists images, values and folders of one generation. Any number of threads may ask."""

    def __init__(
        self, snapshot: Snapshot, rows: RowSearch, columns: RowColumns, reading: threading.RLock
    ) -> None:
        """Rows are read with the lock `reading` only."""
        self._snapshot = snapshot
        self._rows = rows
        self._columns = columns
        self._reading = reading
        self._orders = Orders(snapshot, rows.alive, reading)
        self._values: LRU[str, ColumnValues] = LRU(_VALUES_KEPT)
        self._folders: LRU[str, FolderList] = LRU(1)

    def listed(self, where: str | None, k: int, offset: int, order: str | None) -> ImageList:
        """Return k of the images that meet a condition, in an order, by default the store's.

        Raises UsageError.
        """
        mask = self._counted(where)
        total = self._snapshot.manifest.live if mask is None else int(mask.sum())
        stop = min(offset + k, total)
        if order is not None:
            ordinals = self._orders.page(order, mask, offset, stop)
        elif mask is None:
            ordinals = np.arange(min(offset, stop), stop)
        else:
            ordinals = np.flatnonzero(mask)[offset:stop]
        with self._reading:
            return ImageList(records_of(self._snapshot, self._columns, ordinals), total)

    def values(self, column: str, where: str | None) -> ColumnValues:
        """Return what a column holds in the images that meet a condition. Raises UsageError."""
        if column not in self._columns.schema.names:
            names = ", ".join(sorted(self._columns.schema.names))
            raise UsageError(f"there is no column {column[:50]!r}; columns: {names}", "column")
        if where is None:
            return self._values.get(column, lambda: self._valued(column, self._counted(None)))
        return self._valued(column, self._counted(where))

    def folders(self, where: str | None) -> FolderList:
        """Return the folders of the images that meet a condition. Raises UsageError."""
        if where is None:
            return self._folders.get("", lambda: self._foldered(self._counted(None)))
        return self._foldered(self._counted(where))

    def frequent_values(self) -> dict[str, list[str]]:
        """Return the most frequent values of columns, among a sample of rows."""
        from embedsearch.searching.browsing.frequent import frequent_values

        with self._reading:
            return frequent_values(self._snapshot, self._columns, self._rows.alive)

    def _valued(self, column: str, mask: Mask | None) -> ColumnValues:
        chunks: list[pa.Array[Any]] = []
        for start, table in self._parts(self._columns.tables, [column]):
            if mask is not None:
                table = table.filter(pa.array(mask[start : start + len(table)]))
            chunks += table.column(0).chunks
        return count_values(column, self._columns.schema.field(column).type, chunks)

    def _foldered(self, mask: Mask | None) -> FolderList:
        parts = self._parts(self._snapshot.tables, FOLDER_COLUMNS)
        return count_folders(parts, mask, self._snapshot.manifest)

    def _parts(self, read: Callable[[Sequence[str]], Parts], names: list[str]) -> Parts:
        """Yield columns in parts, as long as somebody waits for them. Raises Interrupted."""
        for part in parts_of(read, names, self._reading):
            if is_cancelled():
                raise Interrupted("nobody waits for this answer any more", 0)
            yield part

    def _counted(self, where: str | None) -> Mask | None:
        """Return which live rows meet a condition, None for all."""
        return self._rows.counted(None if where is None else self._columns.where(where))
