"""Parts of units, the work steps of a cluster; in: decoded chunks and vectors, out: units.

A chunk is a run of a unit's images that machines pass on together. Its result is a part, a file
in `units/parts/`. A part that is on the disk is not computed again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from embedsearch.core.records import Failure, ImageRef, Reason, Stage
from embedsearch.indexing.distributed.run import finish_unit
from embedsearch.store.files import replace
from embedsearch.store.units import (
    UNITS_NAME,
    Unit,
    UnitPlan,
    missing_units,
    read_record,
    read_refs,
)

CHUNK = 256  # images: 38 MB of pixels at 224 × 224
PARTS_NAME = "parts"


@dataclass(frozen=True)
class Chunk:
    """The images of a unit that start at CHUNK * `number`."""

    unit: int
    number: int
    images: int


def chunks_left(store: Path, opened: UnitPlan) -> list[Chunk]:
    """Return the chunks of a plan that have no part yet, of units that are not done."""
    return [
        chunk
        for unit in missing_units(store, opened, opened.units)
        for chunk in _chunks(unit)
        if not _path(store, chunk).exists()
    ]


def chunk_refs(store: Path, opened: UnitPlan, chunk: Chunk) -> list[ImageRef]:
    """Return the refs of a chunk. Raises DamagedStore."""
    listed = read_refs(store, opened.units[chunk.unit])
    return [ref for ref, _ in listed[chunk.number * CHUNK : (chunk.number + 1) * CHUNK]]


def write_part(store: Path, chunk: Chunk, tables: list[pa.Table], failures: list[Failure]) -> None:
    """Write the result of a chunk, completely or not at all. Raises StorageError."""
    sink = io.BytesIO()
    table = pa.concat_tables(tables) if tables else pa.table({})
    encoded = json.dumps([asdict(failure) for failure in failures])
    with pa.ipc.new_file(sink, table.schema.with_metadata({"failures": encoded})) as writer:
        writer.write_table(table)
    path = _path(store, chunk)
    with suppress(OSError):  # it exists, or cannot be made: then writing fails below
        path.parent.mkdir(mode=0o700)
    replace(store / UNITS_NAME, f"{PARTS_NAME}/{path.name}", sink.getvalue())


def pack(store: Path, opened: UnitPlan, unit: Unit) -> None:
    """Make an unfinished unit from its parts if all exist. Raises StorageError."""
    paths = [_path(store, chunk) for chunk in _chunks(unit)]
    if read_record(store, opened, unit.number) is not None or not all(p.exists() for p in paths):
        return
    tables, failures = [], []
    for path in paths:
        table, lost = _read_part(path)
        failures += lost
        if len(table):
            tables.append(table)
    finish_unit(store, opened, unit, read_refs(store, unit), tables, failures)
    for path in paths:
        with suppress(OSError):  # the whole folder is removed later
            path.unlink()


def _chunks(unit: Unit) -> Iterator[Chunk]:
    for number, start in enumerate(range(0, unit.images, CHUNK)):
        yield Chunk(unit.number, number, min(CHUNK, unit.images - start))


def _path(store: Path, chunk: Chunk) -> Path:
    return store / UNITS_NAME / PARTS_NAME / f"p-{chunk.unit:08d}-{chunk.number:08d}.arrow"


def _read_part(path: Path) -> tuple[pa.Table, list[Failure]]:
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    failures = [
        Failure(**{**item, "stage": Stage(item["stage"]), "reason": Reason(item["reason"])})
        for item in json.loads(table.schema.metadata[b"failures"])
    ]
    return table.replace_schema_metadata(None), failures
