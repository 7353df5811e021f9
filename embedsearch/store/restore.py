"""A CURRENT that is damaged; in: a store, out: one that names a complete generation again."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import ArrowException

from embedsearch.core.errors import DamagedStore, IncompatibleStore
from embedsearch.store.current import read_current
from embedsearch.store.files import FOLDERS, FileRecord, listed, write_new
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import manifests_of, point, read_manifest

_NEXT_ROW = re.compile(rb'"next_row":\s*(\d{1,18})\b')
_LEAP = 1_000_000  # rows, for a generation of which nothing can be read


@dataclass(frozen=True)
class Restored:
    """The generation that CURRENT names again, and whether later ones are lost."""

    generation: int
    has_lost: bool


def restore_pointer(store: Path) -> Restored | None:
    """If CURRENT is damaged, point it at the newest generation with complete shards.

    Returns what it did, or None if CURRENT was not damaged. Row numbers of what is lost are
    not given again. Raises DamagedStore if there is no complete generation left, IncompatibleStore
    if a later version wrote the current one. The caller holds the writer's lock.
    """
    with contextlib.suppress(DamagedStore):
        read_current(store)
        return None
    paths = manifests_of(store)
    for path in reversed(paths):
        data = read_manifest(path)
        try:
            record = FileRecord(path.name, len(data), hashlib.sha256(data).hexdigest())
            manifest = Manifest.from_bytes(data)
            Snapshot(store, manifest).close()
        except (ValueError, DamagedStore):
            continue
        generation = manifest.generation
        newest = max(int(path.name[2:10]) for path in paths)
        next_row = _next_row(store, manifest, paths)
        if next_row > manifest.next_row:
            manifest = replace(
                manifest, generation=newest + 1, parent=generation, next_row=next_row
            )
            record = write_new(store, "m", manifest.generation, "json", [manifest.to_bytes()])
        point(store, manifest.generation, record)
        return Restored(generation, newest > generation)
    raise DamagedStore(f"{store} holds no complete generation: delete it and index again")


def _next_row(store: Path, kept: Manifest, paths: list[Path]) -> int:
    """Return a number above all row numbers that any generation on the disk has given."""
    found = kept.next_row
    for path in paths:
        data = read_manifest(path)
        try:
            found = max(found, Manifest.from_bytes(data).next_row)
        except (ValueError, IncompatibleStore):
            if int(path.name[2:10]) > kept.generation:
                stated = _NEXT_ROW.search(data)
                found = max(found, int(stated[1]) if stated else found + _LEAP)
    known = {shard.name for shard in kept.shards}
    for name in listed(store, FOLDERS["s"]):
        if name.startswith("s-") and name not in known:
            with contextlib.suppress(OSError, ArrowException, ValueError):
                found = max(found, _rows_below(store / FOLDERS["s"] / name))
    return found


def _rows_below(shard: Path) -> int:
    """Return the number after the last row's number of a shard. Raises what its footer raises."""
    footer = pq.read_metadata(shard)
    column = footer.schema.to_arrow_schema().get_field_index("row")
    groups = [footer.row_group(n).column(column).statistics for n in range(footer.num_row_groups)]
    found = (group.max for group in groups if group and group.has_min_max)
    return max((int(last) + 1 for last in found if last is not None), default=0)
