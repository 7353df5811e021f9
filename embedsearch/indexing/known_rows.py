"""The live rows of a generation in the order of a scan; in: a snapshot, out: positions and values.

A position is an index into the rows, sorted by root and key.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.records import ImageRef
from embedsearch.indexing.scope import ScanTarget
from embedsearch.store.shards import IDENTITY_COLUMNS
from embedsearch.store.snapshot import Snapshot

_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class KeptRow:
    """A row whose facts stay: its file moved, only its time changed, or its vector is another."""

    ref: ImageRef
    ordinal: int  # position of the old row in the generation
    row: int


class KnownRows:
    """The identity columns of all live rows; without a snapshot there are none."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        parts = []
        if snapshot is not None:
            alive = snapshot.live_mask()
            for start, table in snapshot.tables(IDENTITY_COLUMNS):
                end = start + len(table)
                table = table.append_column("ordinal", pa.array(np.arange(start, end)))
                parts.append(table.filter(pa.array(alive[start:end])))
        if not parts:
            self._table: pa.Table | None = None
            return
        table = pa.concat_tables(parts)
        order = pc.sort_indices(table, sort_keys=[("root", "ascending"), ("key", "ascending")])
        self._table = table.take(order).combine_chunks()
        self._root = self._column("root")
        self._size = self._column("size")
        self._mtime_ns = self._column("mtime_ns")

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        assert self._table is not None
        return np.asarray(self._table.column(name).to_numpy(), dtype=np.int64)

    def below(self, target: ScanTarget) -> npt.NDArray[np.int64]:
        """Return the positions of the rows of a target, in the order of their keys."""
        if self._table is None:
            return np.empty(0, dtype=np.int64)
        positions = np.arange(*np.searchsorted(self._root, [target.root.id, target.root.id + 1]))
        if not target.scope and target.files is None:
            return positions
        keys = self._table.column("key").take(pa.array(positions, pa.int64()))
        if target.files is not None:
            wanted = pa.array(sorted(map(os.fsencode, target.files)), pa.binary())
            inside = pc.is_in(keys, value_set=wanted)
        else:
            inside = pc.starts_with(keys, os.fsencode(target.scope) + b"/")  # type: ignore[call-overload]
        chosen: npt.NDArray[np.int64] = positions[inside.to_numpy()]
        return chosen

    def of_roots(self, roots: Collection[int]) -> list[int]:
        """Return the positions of all rows of these roots."""
        if self._table is None:
            return []
        positions: list[int] = np.flatnonzero(np.isin(self._root, list(roots))).tolist()
        return positions

    def keys(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[bytes, int]]:
        """Yield (key, position) for each position."""
        for start in range(0, len(positions), _CHUNK_ROWS):
            chunk = positions[start : start + _CHUNK_ROWS]
            assert self._table is not None
            keys = self._table.column("key").take(pa.array(chunk, pa.int64())).to_pylist()
            yield from zip(keys, chunk.tolist(), strict=True)

    def names(self, positions: npt.NDArray[np.int64]) -> Iterator[str]:
        """Yield the key of each position as text."""
        return (os.fsdecode(key) for key, _ in self.keys(positions))

    def is_same(self, position: int, ref: ImageRef) -> bool:
        """Return whether size and time match the row; if so, the file need not be read again."""
        return bool(self._size[position] == ref.size and self._mtime_ns[position] == ref.mtime_ns)

    def size(self, position: int) -> int:
        """Return the size of the file when it was embedded."""
        return int(self._size[position])

    def value(self, name: str, position: int) -> bytes | int:
        """Return one column's value."""
        assert self._table is not None
        value: bytes | int = self._table.column(name)[position].as_py()
        return value

    def keep(self, position: int, ref: ImageRef) -> KeptRow:
        """Return this row under a new ref."""
        ordinal, row = int(self.value("ordinal", position)), int(self.value("row", position))
        return KeptRow(ref, ordinal, row)
