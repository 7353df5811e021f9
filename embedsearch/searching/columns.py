"""The columns of a store; in: a snapshot, out: values by the names of filters, hits and exports."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.names import (
    EXACT,
    FULL_EXACT,
    FULL_PATH,
    PATHS,
    SHA256,
    comparable,
    exact_bytes,
    unicode_text,
)
from embedsearch.core.paths import (
    is_url,
    is_web,
    local_path,
    part_below,
    printable,
    url_key,
    whole_path,
)
from embedsearch.core.records import NO_DIGEST
from embedsearch.core.session import Session
from embedsearch.searching.filters.grammar import POSITION_COLUMN
from embedsearch.searching.filters.where import Filters
from embedsearch.store.shards import row_schema
from embedsearch.store.snapshot import Snapshot, user_columns

if TYPE_CHECKING:
    from embedsearch.searching.vectordb.conditions import Condition
    from embedsearch.searching.vectordb.fields import Field

_log = logging.getLogger(__name__)
# Columns shown under another name and in another form than in the shards: what they are made of.
_MADE_OF = {
    **{"folder": ("root",), "modified": ("mtime_ns",), SHA256: ("digest",)},
    **{"path": ("key",), EXACT: ("key",), FULL_PATH: ("root", "key"), FULL_EXACT: ("root", "key")},
}
_INTERNAL = frozenset({"root", "key", "mtime_ns", "digest", "signature", "vector"})
_FIELDS = [
    *(field for field in row_schema(1) if field.name not in _INTERNAL),
    pa.field("folder", pa.string(), nullable=False),
    pa.field("modified", pa.timestamp("us"), nullable=False),
    pa.field(FULL_PATH, pa.string(), nullable=False),
    pa.field(SHA256, pa.string()),  # of the file, in hexadecimal; null if it was not read
]
# What conditions see in every store; the exact bytes of names are for exports.
FILTERED = tuple(field.name for field in _FIELDS)
# Names that a user's column cannot have.
BUILT_IN = frozenset(field.name for field in _FIELDS) | _INTERNAL | {*PATHS, POSITION_COLUMN}


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
        # What other programs get: the exact bytes of names beside their texts.
        others = (name for name in self.schema.names if name != FULL_PATH)
        names = ((name,) if name != "path" else PATHS for name in others)
        self.exported: list[str] = [*chain.from_iterable(names)]
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
        own = [name for name in names if name in BUILT_IN]
        stored = set(chain.from_iterable(_MADE_OF.get(name, (name,)) for name in own))
        if len(own) < len(names):
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

    def called(self, name: str, most: int = 3) -> list[str]:
        """Return the keys of the first images whose last part of the path is a name."""
        ending, found = b"/" + os.fsencode(name), []
        for _, table in self._snapshot.tables(["key"]):
            keys: list[Any] = table.column("key").to_pylist()
            found += [printable(os.fsdecode(key)) for key in keys if key.endswith(ending)]
            if len(found) >= most:
                break
        return found[:most]

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
            return _exact(table.column("key"))
        if name == FULL_PATH:
            return _texts(self._full_paths(table))
        if name == FULL_EXACT:
            return _exact(self._full_paths(table))
        if name == SHA256:
            digests: list[Any] = table.column("digest").to_pylist()
            return _strings([None if one == NO_DIGEST else one.hex() for one in digests])
        if name == "folder":
            paths = {root.id: unicode_text(root.path) for root in self._snapshot.manifest.roots}
            roots: list[Any] = table.column("root").to_pylist()
            # Deleted rows may be of a root that the store has forgotten.
            return _strings([paths.get(root, "") for root in roots])
        if name == "modified":
            import pyarrow.compute as pc

            return pc.divide(table.column("mtime_ns"), 1000).cast(pa.timestamp("us"))
        if name not in BUILT_IN:
            assert self._user is not None, "one of its columns is requested"
            selected = self._user.select(["row", name])
            return user_columns(selected, table.column("row").to_numpy()).column(name)
        return table.column(name)

    def _full_paths(self, table: pa.Table) -> pa.ChunkedArray[Any]:
        """Return the whole path of each row, binary; of a deleted row, maybe without its root."""
        import pyarrow.compute as pc

        roots = self._snapshot.manifest.roots
        homes: Any = table.column("root")
        keys: Any = table.column("key")
        if any(is_web(root.path) for root in roots):  # whose keys are percent-encoded in a URL
            paths = {root.id: root.path for root in roots}
            pairs = zip(homes.to_pylist(), keys.to_pylist(), strict=True)
            found = [whole_path(paths.get(root, ""), os.fsdecode(key)) for root, key in pairs]
            return pa.chunked_array([pa.array(map(os.fsencode, found), pa.binary())])
        above = [os.fsencode(root.path).rstrip(b"/") + b"/" for root in roots]
        at = pc.index_in(homes, pa.array([root.id for root in roots], pa.int32()))
        start: Any = pc.if_else(
            pc.match_substring(keys, "://"), b"", pa.array(above, pa.binary()).take(at)
        )
        whole: pa.ChunkedArray[Any] = pc.binary_join_element_wise(
            start, keys, b"", null_handling="replace"
        )
        return whole

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


def _strings(values: Sequence[str | None]) -> pa.ChunkedArray[Any]:
    return pa.chunked_array([pa.array(values, pa.string())])


def _texts(names: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return names, binary, as valid Unicode."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:  # some are not UTF-8
        some: list[Any] = names.to_pylist()
        return _strings([unicode_text(os.fsdecode(name)) for name in some])


def _exact(names: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return what names, binary, are in Base64, null where their text is exact."""
    try:
        names.cast(pa.string())
    except pa.ArrowInvalid:
        some: list[Any] = names.to_pylist()
        return _strings([exact_bytes(os.fsdecode(name)) for name in some])
    return pa.chunked_array([pa.nulls(len(names), pa.string())])
