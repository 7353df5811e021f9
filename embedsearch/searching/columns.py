"""The columns of a store; in: a snapshot, out: values by the names of filters, hits and exports."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.names import EXACT, comparable, exact_bytes, unicode_text
from embedsearch.core.paths import is_url, is_web, local_path, part_below, url_key
from embedsearch.core.session import Session
from embedsearch.searching.filters.grammar import POSITION_COLUMN
from embedsearch.searching.filters.where import Filters
from embedsearch.store.shards import row_schema
from embedsearch.store.snapshot import Snapshot, user_columns

if TYPE_CHECKING:
    from embedsearch.searching.vectordb.conditions import Condition
    from embedsearch.searching.vectordb.fields import Field

_log = logging.getLogger(__name__)
# Columns shown under another name and in another form than in the shards.
_MADE_OF = {"folder": "root", "modified": "mtime_ns", "path": "key", EXACT: "key"}
_INTERNAL = frozenset({"root", "key", "mtime_ns", "digest", "signature", "vector"})
_FIELDS = [
    *(field for field in row_schema(1) if field.name not in _INTERNAL),
    pa.field("folder", pa.string(), nullable=False),
    pa.field("modified", pa.timestamp("us"), nullable=False),
]
# What conditions see in every store; `path_exact` is for exports.
FILTERED = tuple(field.name for field in _FIELDS)
# Names that a user's column cannot have.
BUILT_IN = frozenset(field.name for field in _FIELDS) | _INTERNAL | {EXACT, POSITION_COLUMN}


class RowColumns:
    """The columns of one generation. Close it where a condition was asked."""

    def __init__(
        self,
        snapshot: Snapshot,
        session: Session | None = None,
        reading: threading.RLock | None = None,
    ) -> None:
        """The lock `reading` is held while rows are read for a condition, never meanwhile."""
        self._snapshot = snapshot
        self._session = session or Session()
        self._user = _readable(snapshot.metadata())
        # An old user's column with the name of a newer built-in one is shown but not searched.
        users = [] if self._user is None else list(self._user.schema)[1:]
        users = [field for field in users if field.name not in BUILT_IN]
        self.schema = pa.schema([*_FIELDS, *users])
        # What other programs get: the exact bytes of a name beside its text.
        self.exported: list[str] = list(self.schema.names)
        self.exported.insert(self.exported.index("path") + 1, EXACT)
        rows = int(snapshot.starts[-1])
        self._filters = Filters(self.schema, self.tables, rows, reading)

    def __enter__(self) -> RowColumns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what answers conditions."""
        self._filters.close()

    def tables(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the named columns of all shard rows in parts: (first ordinal, table)."""
        stored = {_MADE_OF.get(name, name) for name in names if name in BUILT_IN}
        if len(stored) < len(names):
            stored.add("row")  # joins the user's columns
        for start, table in self._snapshot.tables(sorted(stored)):
            yield start, pa.table({name: self._column(table, name) for name in names})

    def prepare(self, text: str) -> None:
        """Start what a condition will need, if it is a new one. Raises MissingLibrary."""
        self._filters.prepare(text)

    def where(self, text: str) -> npt.NDArray[np.bool_]:
        """Return which rows meet a condition, bool (all shard rows,); not to be written to.

        Names and texts that look the same are the same, however their accents are encoded.
        Raises UsageError, MissingLibrary.
        """
        return self._filters.mask(text, self._session)

    def condition(self, text: str, fields: Sequence[Field]) -> Condition:
        """Return a condition for a database with these fields.

        Raises UsageError for what is wrong here too, and for what the database cannot express.
        """
        return self._filters.condition(text, fields, self._session)

    def find(self, key: str) -> list[int]:
        """Return the ordinals of the rows with a key or full path, including deleted rows.

        A path may begin at the current folder, as the command line prints it. A name is the exact
        one, or else one that looks the same. Raises UsageError.
        """
        roots = self._snapshot.manifest.roots
        # An image that was imported may have a URL as its key; `~` may begin a key.
        for name in dict.fromkeys((key, local_path(key), _from_here(key))):
            if found := self._exactly({root.id: os.fsencode(name) for root in roots}):
                return found
            if name.startswith("/") or is_url(name):
                path = name if is_url(name) else os.path.normpath(name)
                inside = {r.id: part for r in roots if (part := part_below(path, r.path))}
                for read in (str, url_key) if is_web(path) else (str,):
                    wanted = {root: os.fsencode(read(key)) for root, key in inside.items()}
                    if found := self._exactly(wanted):
                        return found
        is_plain = key.isascii() and "\\x" not in key
        return [] if is_plain else self._looking_like(comparable(local_path(key)))

    def _looking_like(self, name: str) -> list[int]:
        """Return the ordinals of the rows whose key or full path looks like a name."""
        starts = {root.id: root.path.rstrip("/") + "/" for root in self._snapshot.manifest.roots}
        found = []
        for start, table in self._snapshot.tables(["root", "key"]):
            homes: list[Any] = table.column("root").to_pylist()
            keys: list[Any] = table.column("key").to_pylist()
            for index, (root, key) in enumerate(zip(homes, keys, strict=True)):
                path = unicode_text(os.fsdecode(key))
                if name in {comparable(path), comparable(starts[root] + path)}:
                    found.append(start + index)
        return found

    def _exactly(self, wanted: dict[int, bytes]) -> list[int]:
        """Return the ordinals of the rows with the wanted key of their root."""
        import pyarrow.compute as pc  # 50 ms, which other queries need not spend

        found = []
        for start, table in self._snapshot.tables(["root", "key"]):
            same = pc.is_in(table.column("key"), pa.array(set(wanted.values()), pa.binary()))
            for index in np.flatnonzero(same.to_numpy()).tolist():
                root, name = (table.column(column)[index].as_py() for column in ("root", "key"))
                if wanted.get(root) == name:
                    found.append(start + index)
        return found

    def _column(self, table: pa.Table, name: str) -> pa.ChunkedArray[Any]:
        if name == "path":
            return _texts(table.column("key"))
        if name == EXACT:
            names: list[Any] = table.column("key").to_pylist()
            exact = [exact_bytes(os.fsdecode(key)) for key in names]
            return pa.chunked_array([pa.array(exact, pa.string())])
        if name == "folder":
            paths = {root.id: unicode_text(root.path) for root in self._snapshot.manifest.roots}
            roots: list[Any] = table.column("root").to_pylist()
            # Deleted rows may be of a root that the store has forgotten.
            return pa.chunked_array(
                [pa.array([paths.get(root, "") for root in roots], pa.string())]
            )
        if name == "modified":
            import pyarrow.compute as pc

            return pc.divide(table.column("mtime_ns"), 1000).cast(pa.timestamp("us"))
        if name not in BUILT_IN:
            assert self._user is not None, "one of its columns is requested"
            selected = self._user.select(["row", name])
            return user_columns(selected, table.column("row").to_numpy()).column(name)
        return table.column(name)

    def metadata(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the user's columns of rows, by their numbers; {} for a row without any."""
        if self._user is None:
            return [{} for _ in rows]
        return [
            {n: v for n, v in row.items() if n != "row" and row["row"] is not None}
            for row in user_columns(self._user, np.array(rows, np.int64)).to_pylist()
        ]


def _from_here(name: str) -> str:
    """Return the whole path of a name that begins at the current folder."""
    path = local_path(name)
    try:
        return path if is_url(path) else os.path.abspath(path)
    except OSError:  # the folder was deleted
        return path


def _readable(table: pa.Table | None) -> pa.Table | None:
    """Return the user's columns in types that all readers hold, without those that are not held.

    A former version has taken some: they must not keep the others from being read.
    """
    if table is None:
        return None
    from embedsearch.images.tables.held_values import Unheld, held_column

    held = {"row": table.column("row")}
    for name in table.column_names[1:]:
        try:
            held[name] = held_column(table.column(name))
        except Unheld as error:
            _log.warning("the column %s cannot be read and is left out: %s", name, error)
    return pa.table(held)


def _texts(keys: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return keys, binary, as valid Unicode."""
    try:
        return keys.cast(pa.string())
    except pa.ArrowInvalid:  # some are not UTF-8
        names: list[Any] = keys.to_pylist()
        texts = [unicode_text(os.fsdecode(name)) for name in names]
        return pa.chunked_array([pa.array(texts, pa.string())])
