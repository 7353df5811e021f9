"""Orders of a list; in: a column of a generation, out: the ordinals of its live rows, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.errors import UsageError
from embedsearch.core.lru import LRU
from embedsearch.core.names import unicode_text
from embedsearch.searching.filters.windows import parts_of
from embedsearch.searching.row_sources import Mask
from embedsearch.store.shards import numbers
from embedsearch.store.snapshot import Snapshot

# What a list can be ordered by, and the columns that this is read from; a - before it: descending.
_READ = {
    "taken_at": ["taken_at"],
    "path": ["root", "key"],
    "size": ["size"],
    "modified": ["mtime_ns"],
    "row": ["row"],
}
ORDERS = tuple(sign + name for name in _READ for sign in ("", "-"))
_KEPT = 4  # orders, of 4 bytes a row
_NONE = int(np.iinfo(np.int64).min)  # stands for no value while rows are sorted
_UNKNOWN = -1  # size and time of a file that was not seen

Ordinals = npt.NDArray[np.int64]


def check_order(order: str | None) -> None:
    """Raise UsageError for an order that does not exist; None is the order of the store."""
    if order is not None and order not in ORDERS:
        names = ", ".join(_READ)
        raise UsageError(
            f"order is one of {names}, or -{next(iter(_READ))} and so on, not {order[:50]!r}",
            "order",
        )


class Orders:
    """The orders of one generation; the last ones are kept. Any number of threads may ask."""

    def __init__(self, snapshot: Snapshot, alive: Mask | None, reading: threading.RLock) -> None:
        """`alive` says which rows are live, None for all; rows are read with the lock `reading`."""
        self._snapshot = snapshot
        self._alive = alive
        self._reading = reading
        self._sorting = threading.Lock()  # who asks for the same waits, and need not sort again
        self._kept: LRU[str, npt.NDArray[Any]] = LRU(_KEPT)

    def page(self, order: str, mask: Mask | None, start: int, stop: int) -> Ordinals:
        """Return the ordinals from `start` to `stop` among the live rows of a mask, in order.

        Rows without a value come last, ties stay in the order of the store.
        """
        with self._sorting:
            ordinals = self._kept.get(order, lambda: self._sorted(order))
        if mask is not None:
            ordinals = ordinals[mask[ordinals]]
        return ordinals[start:stop].astype(np.int64)

    def _sorted(self, order: str) -> npt.NDArray[Any]:
        """Return the ordinals of all live rows in order, as int32 where that is enough."""
        name = order.removeprefix("-")
        parts = parts_of(self._snapshot.tables, _READ[name], self._reading)
        values = _VALUES.get(name, _numbers)(self._snapshot, [table for _, table in parts])
        live = np.arange(len(values)) if self._alive is None else np.flatnonzero(self._alive)
        values = values[live]
        has_one = values != _NONE
        known = np.flatnonzero(has_one)
        keys = values[known] if order == name else -values[known]
        places = np.concatenate([known[np.argsort(keys, kind="stable")], np.flatnonzero(~has_one)])
        is_small = len(values) <= np.iinfo(np.int32).max
        ordinals: npt.NDArray[Any] = live[places].astype(np.int32 if is_small else np.int64)
        return ordinals


def _numbers(_: Snapshot, tables: list[pa.Table]) -> Ordinals:
    """Return the only column, int64 (all shard rows,), with _NONE for no value."""
    import pyarrow.compute as pc  # 50 ms, which queries need not spend

    columns: list[Any] = [table.column(0).cast(pa.int64()) for table in tables]
    parts: list[Any] = [pc.fill_null(column, _NONE) for column in columns]
    return np.concatenate([np.empty(0, np.int64), *map(numbers, parts)])


def _known(snapshot: Snapshot, tables: list[pa.Table]) -> Ordinals:
    """Return numbers that are not known of imported rows."""
    values = _numbers(snapshot, tables)
    return np.where(values == _UNKNOWN, _NONE, values)


def _names(snapshot: Snapshot, tables: list[pa.Table]) -> Ordinals:
    """Return the place of each row by the path of its root, then by its key."""
    import pyarrow.compute as pc

    if not tables:
        return np.empty(0, np.int64)
    table = pa.concat_tables(tables)
    roots = sorted(snapshot.manifest.roots, key=lambda root: unicode_text(root.path))
    # A deleted row may be of a root that the store has forgotten: it is in no list.
    ranks = pc.index_in(table.column("root"), pa.array([root.id for root in roots], pa.int32()))
    table = table.set_column(0, "root", ranks)
    order = pc.sort_indices(table, sort_keys=[("root", "ascending"), ("key", "ascending")])
    places = np.empty(len(table), np.int64)
    places[np.from_dlpack(order).astype(np.int64)] = np.arange(len(table))
    return places


_VALUES: dict[str, Callable[[Snapshot, list[pa.Table]], Ordinals]] = {
    "path": _names,
    "size": _known,
    "modified": _known,
}
