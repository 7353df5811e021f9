"""The user's columns, joined to rows; in: a table and a generation, out: columns by row number.

They are stored apart from the shards, so that they can change while the vectors stay.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.names import comparable, unicode_text
from embedsearch.core.paths import is_web, whole_path
from embedsearch.core.records import Root
from embedsearch.images.sources.sidecars import sidecar_table
from embedsearch.images.sources.source import Source
from embedsearch.images.tables.table import UserTable
from embedsearch.indexing.job import Job
from embedsearch.indexing.report import MetadataReport
from embedsearch.indexing.scope import ScanTarget
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.searching.columns import BUILT_IN
from embedsearch.store.snapshot import Snapshot, user_columns

_SHOWN = 20  # names that matched nothing


def join_user_columns(job: Job, update: StoreUpdate) -> MetadataReport | None:
    """Join the user's columns to the rows that they name; None if there is no source of columns.

    A rebuild keeps the previous columns: they are joined by path.
    """
    before = job.manifest if job.base is None else None
    keeps = before is not None and before.metadata is not None
    if job.table is None and not job.config.sidecars and not keeps:
        return None
    report = None
    with Snapshot(job.store, update.manifest) as snapshot:
        known = snapshot.metadata()
        if before is not None and keeps:
            with Snapshot(job.store, before) as old:
                kept = carried(old)
            if kept is not None:
                known, _ = join(snapshot, kept, None)
        table = job.table
        if job.config.sidecars:
            table = beside(snapshot, lambda root: job.sources.open(ScanTarget(root)), BUILT_IN)
        if table is not None:
            known, report = join(snapshot, table, known)
    if known is not None:
        update.set_user_columns(known)
    return report


def join(
    snapshot: Snapshot, user: UserTable, before: pa.Table | None
) -> tuple[pa.Table, MetadataReport]:
    """Return the columns of live rows, known `before` or from the table, and what matched.

    For the images that it names, the table replaces columns of the same name and adds the rest;
    all other images keep their values.
    """
    numbers, live = _row_numbers(snapshot, user)
    matched = [position for position, name in enumerate(user.names) if name in numbers]
    pairs = [(row, position) for position in matched for row in numbers[user.names[position]]]
    rows = np.array([row for row, _ in pairs], np.int64)
    positions = np.array([position for _, position in pairs], np.int64)
    order = np.argsort(rows, kind="stable")
    new = user.columns.take(pa.array(positions[order], pa.int64()))
    new = new.add_column(0, "row", pa.array(rows[order]))
    table = _merged(before, new)
    table = table.filter(pa.array(np.isin(table.column("row").to_numpy(), live)))
    unmatched = [name for name in user.names if name not in numbers]
    report = MetadataReport(
        source=user.source,
        columns=user.columns.column_names,
        rows=len(user.names),
        matched=len(matched),
        unmatched=len(unmatched),
        images=len(table),
        unmatched_names=unmatched[:_SHOWN],
        unreadable=len(user.unreadable),
        unreadable_names=user.unreadable[:_SHOWN],
        unused=len(user.unused),
        unused_names=user.unused[:_SHOWN],
    )
    return table, report


def beside(
    snapshot: Snapshot, source_of: Callable[[Root], Source], taken: frozenset[str]
) -> UserTable:
    """Return the sidecar values of all images. Raises UsageError for a column name in `taken`."""
    keys: defaultdict[int, list[str]] = defaultdict(list)
    for _, root, key in snapshot.live_keys():
        keys[root].append(os.fsdecode(key))
    sidecars = (
        (os.path.join(root.path, sidecar.key), sidecar)
        for root in snapshot.manifest.roots
        if keys[root.id]
        for sidecar in source_of(root).beside(sorted(keys[root.id], key=os.path.split))
    )
    return sidecar_table(sidecars, taken)


def carried(snapshot: Snapshot) -> UserTable | None:
    """Return the user's columns of a generation by path, to join to one with other row numbers."""
    if (table := snapshot.metadata()) is None:
        return None
    roots = {root.id: root.path.rstrip("/") + "/" for root in snapshot.manifest.roots}
    paths = {row: roots[root] + os.fsdecode(key) for row, root, key in snapshot.live_keys()}
    rows: list[Any] = table.column("row").to_pylist()
    positions = [position for position, row in enumerate(rows) if row in paths]
    names = [paths[rows[position]] for position in positions]
    columns = table.drop_columns(["row"]).take(pa.array(positions, pa.int64()))
    return UserTable("before", "path", names, columns)


def _row_numbers(
    snapshot: Snapshot, user: UserTable
) -> tuple[dict[str, list[int]], npt.NDArray[np.int64]]:
    """Return the rows that each name of the table matches, and all live rows."""
    roots = {root.id: root.path.rstrip("/") + "/" for root in snapshot.manifest.roots}
    live: list[int] = []

    def named() -> Iterator[tuple[int, str]]:
        for row, root, key in snapshot.live_keys():
            path = os.fsdecode(key)
            if user.by == "name":
                yield row, path.rpartition("/")[2]
            else:
                yield row, path
                yield row, roots[root] + path
                if is_web(roots[root]):
                    yield row, whole_path(roots[root], path)

    wanted = set(user.names)
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in named():
        if not live or live[-1] != row:
            live.append(row)
        if name in wanted:
            found[name].append(row)
    # A name that is nobody's may be written in another way, or begin at the table.
    left = {form: name for name in wanted - found.keys() for form in _forms(name, user)}
    alike: defaultdict[str, set[int]] = defaultdict(set)
    for row, name in named() if left else ():
        if (known := left.get(unicode_text(comparable(name)))) is not None:
            alike[known].add(row)
    for name, rows in alike.items():
        if len(rows) == 1 or user.by == "name":
            found[name] = sorted(rows)
    return found, np.array(live, np.int64)


def _forms(name: str, user: UserTable) -> Iterator[str]:
    """Yield other ways to write a name: letters composed, `/` for a backslash, no `./`."""
    plain = name if "\\x" in name else name.replace("\\", "/")
    plain = os.path.normpath(plain)
    if not name.isascii() or "\\x" in name or plain != name:
        yield unicode_text(comparable(plain))
    if user.folder and user.by == "path":
        yield unicode_text(comparable(os.path.normpath(os.path.join(user.folder, plain))))


def _merged(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Return old and new columns by row; where both have a value, the new one wins."""
    if old is None:
        return new
    rows = np.union1d(old.column("row").to_numpy(), new.column("row").to_numpy())
    in_new = pa.array(np.isin(rows, new.column("row").to_numpy()))
    before, after = (user_columns(table, rows).combine_chunks() for table in (old, new))
    merged = {"row": pa.array(rows)}
    for name in dict.fromkeys([*old.column_names[1:], *new.column_names[1:]]):
        if name not in new.column_names:
            merged[name] = before.column(name)
            continue
        newer = after.column(name)
        known = _as_type(before, name, newer.type)
        merged[name] = newer if known is None else pc.if_else(in_new, newer, known)
    return pa.table(merged)


def _as_type(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray[Any] | None:
    """Return a column as another type, None if it is absent or cannot be converted."""
    if name not in table.column_names:
        return None
    try:
        return table.column(name).cast(kind)
    except (pa.ArrowException, ValueError):
        return None
