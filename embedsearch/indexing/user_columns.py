"""The user's columns, joined to rows; in: a table and a generation, out: columns by row number.

They are stored apart from the shards, so that they can change while the vectors stay.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.records import Root
from embedsearch.images.sources.sidecars import sidecar_table
from embedsearch.images.sources.source import Source
from embedsearch.images.tables.table import UserTable
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.job import Job
from embedsearch.indexing.named_images import named_images
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


def check_named_once(job: Job, changes: Changes) -> None:
    """Raise UsageError if the table names an image twice, before anything is embedded."""
    if job.table is None:
        return
    with job.open_base() as snapshot:
        known = () if snapshot is None else snapshot.manifest.roots
        gone = {*changes.deleted, *changes.replaced.values(), *(old.row for old in changes.kept)}
        before = () if snapshot is None else _images(snapshot)
        stay = (image for image in before if image[0] not in gone)
        refs = chain(changes.embed, (kept.ref for kept in changes.kept))
        new = ((-number, ref.root, ref.key) for number, ref in enumerate(refs, start=1))
        named_images(job.table, _places((*known, *job.scope.roots)), chain(stay, new))


def join(
    snapshot: Snapshot, user: UserTable, before: pa.Table | None
) -> tuple[pa.Table, MetadataReport]:
    """Return the columns of live rows, known `before` or from the table, and what matched.

    For the images that it names, the table replaces columns of the same name and adds the rest;
    all other images keep their values.
    """
    named = named_images(user, _places(snapshot.manifest.roots), _images(snapshot))
    live = np.fromiter((row for row, _, _ in snapshot.live_keys()), np.int64)
    pairs = [(row, position) for position, rows in named.rows.items() for row in rows]
    rows = np.array([row for row, _ in pairs], np.int64)
    positions = np.array([position for _, position in pairs], np.int64)
    order = np.argsort(rows, kind="stable")
    new = user.columns.take(pa.array(positions[order], pa.int64()))
    new = new.add_column(0, "row", pa.array(rows[order]))
    table = _merged(before, new)
    table = table.filter(pa.array(np.isin(table.column("row").to_numpy(), live)))
    report = MetadataReport(
        source=user.source,
        columns=user.columns.column_names,
        rows=len(user.names),
        matched=len(user.names) - len(named.unmatched),
        unmatched=len(named.unmatched),
        images=len(table),
        unmatched_names=named.unmatched[:_SHOWN],
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


def _images(snapshot: Snapshot) -> Iterator[tuple[int, int, str]]:
    return ((row, root, os.fsdecode(key)) for row, root, key in snapshot.live_keys())


def _places(roots: Iterable[Root]) -> dict[int, str]:
    return {root.id: root.path for root in roots}


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
