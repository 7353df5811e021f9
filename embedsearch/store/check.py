"""Verify every checksum and every row of a store; in: a store, out: the problems found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedsearch.core.arguments import checked
from embedsearch.core.errors import DamagedStore
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.store import files
from embedsearch.store.current import OPEN_TRIES, check_format, read_current
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.shards import Shard, numbers, vector_array
from embedsearch.store.snapshot import Snapshot, read_failures
from embedsearch.store.units import UNITS_NAME

_OWN_NAMES = {
    *(
        files.FORMAT_NAME,
        files.CURRENT_NAME,
        files.TABLE_NAME,
        files.PULLED_NAME,
        files.LOCK_NAME,
        files.TMP_NAME,
        UNITS_NAME,
    ),
    *files.FOLDERS.values(),
}


@dataclass(frozen=True)
class Problem(JsonRecord):
    """One finding of `check`."""

    file: str
    message: str


@dataclass(frozen=True)
class CheckReport(JsonRecord):
    """What `check` found in the current generation."""

    generation: int
    images: int
    files: int
    problems: list[Problem]


@checked
def check(
    store: StorePath = None, *, read_data: bool = False, session: Session | None = None
) -> CheckReport:
    """Verify every checksum of a store, and with `read_data` every page of every shard.

    Raises what opening the manifest raises.
    """
    with readable_store(store, session) as path:
        manifest, problems = check_store(path, read_data=read_data, session=session)
    return CheckReport(manifest.generation, manifest.live, len(manifest.files()), problems)


def check_store(
    store: Path, *, read_data: bool, session: Session | None = None
) -> tuple[Manifest, list[Problem]]:
    """Verify a store: every sha256, and with `read_data` every page of every shard.

    Returns the manifest and the problems; raises what opening the manifest raises.
    """
    check_format(store)
    for _ in range(OPEN_TRIES):
        manifest = read_current(store)
        problems = list(problems_of(store, manifest, session or Session(), read_data=read_data))
        # A writer may have removed this generation while it was read.
        if not problems or read_current(store).generation == manifest.generation:
            break
    for path in sorted(foreign_files(store)):
        problems.append(Problem(path, f"{store / path} does not belong to a store"))
    return manifest, problems


def problems_of(
    store: Path, manifest: Manifest, session: Session, *, read_data: bool
) -> Iterator[Problem]:
    """Yield the problems with the files of one generation."""
    is_whole, records = True, manifest.files()
    for done, record in enumerate(records):
        session.at("verifying files", done, len(records))
        try:
            descriptor = files.open_verified(store, record)
            try:
                files.verify(store, record, descriptor)
            finally:
                os.close(descriptor)
        except DamagedStore as error:
            is_whole = False
            yield Problem(record.relative, str(error))
    if not read_data or not is_whole:
        return
    try:
        with Snapshot(store, manifest) as snapshot:
            snapshot.live_mask()
            read_failures(store, manifest)
            if manifest.metadata is not None:
                try:
                    snapshot.metadata()
                except DamagedStore as error:  # the rows are whole without it
                    yield Problem(manifest.metadata.relative, str(error))
            seen: set[int] = set()
            for done, shard in enumerate(snapshot.shards):
                session.at("reading shards", done, len(snapshot.shards))
                _check_rows(store, shard, seen)
    except DamagedStore as error:
        yield Problem("shards", str(error))


def _check_rows(store: Path, shard: Shard, seen: set[int]) -> None:
    for table in shard.columns(["row", "vector"]):
        rows = numbers(table.column("row"))
        if not seen.isdisjoint(rows.tolist()) or len(np.unique(rows)) != len(rows):
            raise files.damaged(store, shard.record.relative, "has a row number twice")
        seen.update(rows.tolist())
        norms = np.linalg.norm(vector_array(table.column("vector")).astype(np.float32), axis=1)
        if not np.all(np.abs(norms - 1.0) < 2e-3):  # float16 keeps a unit norm to 1e-3
            raise files.damaged(
                store, shard.record.relative, "has vectors that are not unit vectors"
            )


def foreign_files(store: Path) -> Iterator[str]:
    """Yield relative paths in the store that embedsearch did not write."""
    for name in files.listed(store, "."):
        if name not in _OWN_NAMES and not files.is_of_the_system(name):
            yield name
    for folder in sorted(set(files.FOLDERS.values())):
        for name in files.listed(store, folder):
            if not files.is_own_name(name) and not files.is_of_the_system(name):
                yield f"{folder}/{name}"
