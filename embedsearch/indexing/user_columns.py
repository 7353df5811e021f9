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

from embedsearch.core.records import Root
from embedsearch.images.sources.sidecars import sidecar_table
from embedsearch.images.sources.source import Source
from embedsearch.images.tables.table import UserTable
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.job import Job
from embedsearch.indexing.merged_columns import as_spelled, merged
from embedsearch.indexing.named_images import NamedImages, named_images
from embedsearch.indexing.report import MetadataReport
from embedsearch.indexing.scope import ScanTarget, Scope
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.searching.columns import BUILT_IN
from embedsearch.store.snapshot import Snapshot, read_metadata

_SHOWN = 20  # names that matched nothing


def join_user_columns(job: Job, update: StoreUpdate) -> MetadataReport | None:
    """Join the user's columns to the rows that they name; None if there is no source of columns.

    A rebuild keeps the previous columns: they are joined by path, or by the bytes of a file that
    has moved. The next commit has both the rows and their columns.
    """
    before = job.manifest if job.base is None else None
    keeps = before is not None and before.metadata is not None
    if job.table is None and not job.config.sidecars and not keeps:
        return None
    report = None
    with update.staged() as snapshot:
        known = update.user_columns()
        if before is not None and keeps:
            with Snapshot(job.store, before) as old:
                kept = carried(old, snapshot)
            if kept is not None:
                known, _ = join(snapshot, kept, None)
        table = job.table
        if job.config.sidecars:
            names = [] if known is None else known.column_names[1:]
            table = beside(snapshot, lambda root: job.sources.open(ScanTarget(root)), names)
        if table is not None:
            known, report = join(snapshot, table, known, job.scope)
    if known is not None:
        update.set_user_columns(known)
    return report


def check_table(job: Job, changes: Changes) -> None:
    """Raise UsageError if the table cannot be joined, before anything is embedded.

    It names an image twice, or has columns that do not go with those of the store.
    """
    if job.table is None:
        return
    replaced = changes.replaced
    embed = ((replaced.get((ref.root, ref.key)), ref) for ref in changes.embed)
    refs = chain(embed, ((kept.row, kept.ref) for kept in changes.kept))
    new = (
        (-number if row is None else row, ref.root, ref.key)
        for number, (row, ref) in enumerate(refs, start=1)
    )
    with job.open_base() as snapshot:
        known = () if snapshot is None else snapshot.manifest.roots
        gone = {*changes.deleted, *replaced.values(), *(old.row for old in changes.kept)}
        gone.update(double for double, _ in changes.doubles)
        before = () if snapshot is None else _images(snapshot)
        stay = (image for image in before if image[0] not in gone)
        places = _places((*known, *job.scope.roots))
        named = named_images(job.table, places, chain(stay, new), job.scope)
    if job.manifest is not None and job.manifest.metadata is not None:
        there = read_metadata(job.store, job.manifest.metadata)
        if job.base is None:  # a rebuild, which gives other numbers
            as_spelled(job.table.columns.column_names, there.column_names[1:], job.table.source)
            return
        is_gone = np.isin(there.column("row").to_numpy(), list(changes.deleted))
        merged(there.filter(pa.array(~is_gone)), _rows(named, job.table), job.table)


def join(
    snapshot: Snapshot, user: UserTable, before: pa.Table | None, scope: Scope | None = None
) -> tuple[pa.Table, MetadataReport]:
    """Return the columns of live rows, known `before` or from the table, and what matched.

    For the images that it names, the table replaces columns of the same name and adds the rest;
    all other images keep their values. `scope` is what is indexed: names mean images of it first.
    """
    places = _places(snapshot.manifest.roots)
    named = named_images(user, places, _images(snapshot), scope)
    live = np.fromiter((row for row, _, _ in snapshot.live_keys()), np.int64)
    if before is not None:
        before = before.filter(pa.array(np.isin(before.column("row").to_numpy(), live)))
    table, left_out = merged(before, _rows(named, user), user)
    report = MetadataReport(
        source=user.source,
        columns=user.columns.column_names,
        rows=len(user.names),
        matched=len(user.names) - len(named.unmatched),
        unmatched=len(named.unmatched),
        images=len(table),
        unmatched_names=named.unmatched[:_SHOWN],
        unreadable=len(unreadable := [*user.unreadable, *left_out]),
        unreadable_names=unreadable[:_SHOWN],
        unused=len(user.unused),
        unused_names=user.unused[:_SHOWN],
    )
    return table, report


def beside(
    snapshot: Snapshot, source_of: Callable[[Root], Source], known: Iterable[str]
) -> UserTable:
    """Return the sidecar values of all images; `known` are columns that the store has already."""
    keys: defaultdict[int, list[str]] = defaultdict(list)
    for _, root, key in snapshot.live_keys():
        keys[root].append(os.fsdecode(key))
    sidecars = (
        (os.path.join(root.path, sidecar.key), sidecar)
        for root in snapshot.manifest.roots
        if keys[root.id]
        for sidecar in source_of(root).beside(sorted(keys[root.id], key=os.path.split))
    )
    return sidecar_table(sidecars, BUILT_IN, known)


def carried(old: Snapshot, new: Snapshot) -> UserTable | None:
    """Return the user's columns of a generation by path, to join to one with other row numbers.

    Those of a file that has moved are by its new path.
    """
    if (table := old.metadata()) is None:
        return None
    paths, now = _paths(old), _paths(new)
    there = set(now.values())
    rows: list[Any] = table.column("row").to_pylist()
    gone = {row for row in rows if row in paths and paths[row] not in there}
    if gone:
        before = set(paths.values())
        fresh = {row: path for row, path in now.items() if path not in before}
        homes: dict[bytes, list[str]] = {}
        for row, digest in _digests(new, set(fresh)):
            homes.setdefault(digest, []).append(fresh[row])
        for row, digest in _digests(old, gone):
            if left := homes.get(digest):
                paths[row] = left.pop(0)
    positions = [position for position, row in enumerate(rows) if row in paths]
    names = [paths[rows[position]] for position in positions]
    columns = table.drop_columns(["row"]).take(pa.array(positions, pa.int64()))
    return UserTable("before", "path", names, columns)


def _paths(snapshot: Snapshot) -> dict[int, str]:
    """Return the whole path of each live row."""
    roots = {root.id: root.path.rstrip("/") + "/" for root in snapshot.manifest.roots}
    return {row: roots[root] + os.fsdecode(key) for row, root, key in snapshot.live_keys()}


def _digests(snapshot: Snapshot, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the known sha256 of the files of some rows."""
    for _, table in snapshot.tables(["row", "digest"]):
        for row, digest in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if row in wanted and any(digest):
                yield row, digest


def _rows(named: NamedImages, user: UserTable) -> pa.Table:
    """Return the columns of a table by the rows that it names, sorted by `row`."""
    pairs = [(row, position) for position, rows in named.rows.items() for row in rows]
    rows, positions = np.array(pairs, np.int64).reshape(-1, 2).T
    order = np.argsort(rows, kind="stable")
    taken = user.columns.take(pa.array(positions[order], pa.int64()))
    columns = dict(zip(taken.column_names, taken.columns, strict=True))
    return pa.table({"row": pa.array(rows[order]), **columns})


def _images(snapshot: Snapshot) -> Iterator[tuple[int, int, str]]:
    return ((row, root, os.fsdecode(key)) for row, root, key in snapshot.live_keys())


def _places(roots: Iterable[Root]) -> dict[int, str]:
    return {root.id: root.path for root in roots}
