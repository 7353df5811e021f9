"""A generation to look around in; in: a condition and an order, out: images, values, folders."""

from __future__ import annotations

import threading

import numpy as np

from embedsearch.searching.browsing.order import Orders
from embedsearch.searching.browsing.records import ImageList, records_of
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.neighbors import RowSearch
from embedsearch.searching.row_sources import Mask
from embedsearch.store.snapshot import Snapshot


class Browser:
    """Lists the images of one generation. Any number of threads may ask."""

    def __init__(
        self, snapshot: Snapshot, rows: RowSearch, columns: RowColumns, reading: threading.RLock
    ) -> None:
        """Rows are read with the lock `reading` only."""
        self._snapshot = snapshot
        self._rows = rows
        self._columns = columns
        self._reading = reading
        self._orders = Orders(snapshot, rows.alive, reading)

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

    def frequent_values(self) -> dict[str, list[str]]:
        """Return the most frequent values of columns, among a sample of rows."""
        from embedsearch.searching.browsing.frequent import frequent_values

        with self._reading:
            return frequent_values(self._snapshot, self._columns, self._rows.alive)

    def _counted(self, where: str | None) -> Mask | None:
        """Return which live rows meet a condition, None for all."""
        return self._rows.counted(None if where is None else self._columns.where(where))
