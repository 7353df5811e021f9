"""What rows say of their images, under the names that filters, hits and exports use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.errors import MissingLibrary
from embedsearch.store.shards import row_schema
from embedsearch.store.snapshot import Snapshot

# Shown under another name and in another form than the shards have them.
_MADE_OF = {"folder": "root", "modified": "mtime_ns"}
_INTERNAL = frozenset({"root", "key", "mtime_ns", "digest", "vector"})


class RowColumns:
    """The columns of one generation."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        shown = [field for field in row_schema(1) if field.name not in _INTERNAL]
        made = [pa.field("folder", pa.string()), pa.field("modified", pa.timestamp("us"))]
        self.schema = pa.schema([*shown, *made])

    def tables(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the named columns of all shard rows in parts: (first ordinal, table)."""
        stored = sorted({_MADE_OF.get(name, name) for name in names} or {"row"})
        for shard, start in zip(self._snapshot.shards, self._snapshot.starts, strict=False):
            position = int(start)
            for table in shard.columns(stored):
                yield position, pa.table({name: self._column(table, name) for name in names})
                position += len(table)

    def where(self, text: str) -> npt.NDArray[np.bool_]:
        """Return bool (all shard rows,): where a condition holds. Raises UsageError."""
        try:
            from embedsearch.filters import Where  # a query without one does without DuckDB
        except ImportError as error:
            raise MissingLibrary(f"--where needs DuckDB ({error}): pip install duckdb") from error
        mask = np.zeros(int(self._snapshot.starts[-1]), np.bool_)
        with Where(text, self.schema) as condition:
            for start, table in self.tables(condition.columns or ["row"]):
                mask[start : start + len(table)] = condition.holds(table)
        return mask

    def find(self, key: str) -> list[int]:
        """Return the ordinals of the rows, deleted ones too, that a key or a whole path names."""
        roots = self._snapshot.manifest.roots
        wanted = {root.id: os.fsencode(key) for root in roots}
        if key.startswith("/"):
            path = os.path.normpath(key)
            inside = [root for root in roots if path.startswith(root.path.rstrip("/") + "/")]
            wanted = {root.id: os.fsencode(os.path.relpath(path, root.path)) for root in inside}
        found = []
        for shard, start in zip(self._snapshot.shards, self._snapshot.starts, strict=False):
            position = int(start)
            for table in shard.columns(["root", "key"]):
                same = pc.is_in(table.column("key"), pa.array(set(wanted.values()), pa.binary()))
                for place in np.flatnonzero(same.to_numpy()).tolist():
                    root, name = (table.column(column)[place].as_py() for column in ("root", "key"))
                    if wanted.get(root) == name:
                        found.append(position + place)
                position += len(table)
        return found

    def _column(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        if name == "folder":
            paths = {root.id: root.path for root in self._snapshot.manifest.roots}
            folders = [paths[root] for root in table.column("root").to_pylist()]
            return pa.chunked_array([pa.array(folders, pa.string())])
        if name == "modified":
            return pc.divide(table.column("mtime_ns"), 1000).cast(pa.timestamp("us"))
        return table.column(name)
