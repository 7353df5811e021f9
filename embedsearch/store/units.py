"""Work that many processes share: a plan of units, and the result of each unit.

The files are in the folder `units/` of a store, which has the layout of a store: PLAN, the refs of
each unit in `shards/r-*.parquet`, and for a finished unit its shard `shards/s-*.parquet` and its
record `u-NNNNNNNN.json`, written in this order. None of it counts before a commit.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core.errors import DamagedStore, IncompatibleStore, StorageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import Failure, ImageRef, Root
from embedsearch.core.strict_json import strict_json
from embedsearch.store import files
from embedsearch.store.manifest import ShardRecord, root_of
from embedsearch.store.shards import failure_table, failures_of, write_small

UNITS_NAME = "units"
_PLAN_NAME = "PLAN"
_VERSION = 1
_REF_FIELDS: list[pa.Field[Any]] = [
    pa.field("root", pa.int32(), nullable=False),
    pa.field("key", pa.binary(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("mtime_ns", pa.int64(), nullable=False),
    pa.field("replaced", pa.int64(), nullable=False),  # the row of a changed image, or -1
]
_REF_SCHEMA = pa.schema(_REF_FIELDS)


@dataclass(frozen=True)
class Unit:
    """A unit of a plan: a number of images, whose rows are numbered from `first_row`."""

    number: int
    images: int
    first_row: int
    refs: files.FileRecord


@dataclass(frozen=True)
class UnitPlan:
    """The images to embed, split into units; `base` is the generation that the plan adds to."""

    id: str
    base: int
    model: ModelSpec
    roots: tuple[Root, ...]  # as they will be after the commit
    limits: Mapping[str, Any]  # DecodeLimits.verdict_key, the same for all units
    run: Mapping[str, Any]  # the manifest's record of the run
    units: tuple[Unit, ...]

    @property
    def images(self) -> int:
        """Return the number of images to embed."""
        return sum(unit.images for unit in self.units)

    @property
    def next_row(self) -> int:
        """Return the number after the last row's number."""
        return self.units[-1].first_row + self.units[-1].images


@dataclass(frozen=True)
class UnitRecord:
    """The result of a unit: each of its images is a row of the shard or a failure."""

    number: int
    shard: ShardRecord | None  # None if all failed
    failures: files.FileRecord | None
    replaced: Sequence[tuple[int, int]]  # rows of changed images: the old, and the new or -1


def new_plan_id() -> str:
    """Return a unique name for a plan."""
    return secrets.token_hex(8)


def write_refs(
    store: Path, number: int, first_row: int, refs: Sequence[tuple[ImageRef, int]]
) -> Unit:
    """Write the refs of a unit, each with the row that it replaces, or -1; return the unit."""
    columns = [
        [ref.root for ref, _ in refs],
        [os.fsencode(ref.key) for ref, _ in refs],
        [ref.size for ref, _ in refs],
        [ref.mtime_ns for ref, _ in refs],
        [replaced for _, replaced in refs],
    ]
    typed: Iterable[tuple[Any, pa.Field[Any]]] = zip(columns, _REF_SCHEMA, strict=True)
    arrays = [pa.array(values, field.type) for values, field in typed]
    table = pa.Table.from_arrays(arrays, schema=_REF_SCHEMA)
    return Unit(number, len(refs), first_row, write_small(store / UNITS_NAME, "r", number, table))


def read_refs(store: Path, unit: Unit) -> list[tuple[ImageRef, int]]:
    """Return the refs of a unit, each with the row that it replaces, or -1."""
    columns = (column.to_pylist() for column in _table(store, unit.refs).columns)
    return [
        (ImageRef(root, os.fsdecode(key), size, mtime_ns), replaced)
        for root, key, size, mtime_ns, replaced in zip(*columns, strict=True)
    ]


def make_folder(store: Path) -> None:
    """Create the empty folder of a plan. Raises StorageError."""
    drop(store)
    folder = store / UNITS_NAME
    try:
        for name in (files.TMP_NAME, files.FOLDERS["s"]):
            (folder / name).mkdir(mode=0o700, parents=True)
        files.sync_folder(store)
    except OSError as error:
        raise files.storage_error(store, error) from error


def write_plan(store: Path, plan: UnitPlan) -> None:
    """Write a plan and so open it: from here on its units can be run. Raises StorageError."""
    values = {f.name: getattr(plan, f.name) for f in fields(plan)}
    values |= {
        "version": _VERSION,
        "model": plan.model.to_dict(),
        "roots": [asdict(root) for root in plan.roots],
        "units": [asdict(unit) for unit in plan.units],
    }
    files.replace(store / UNITS_NAME, _PLAN_NAME, json.dumps(values, allow_nan=False).encode())


def read_plan(store: Path) -> UnitPlan | None:
    """Return the open plan, None if there is none.

    Raises DamagedStore, IncompatibleStore and StorageError.
    """
    if (values := _read_json(store, _PLAN_NAME)) is None:
        return None
    if values.pop("version", None) != _VERSION:
        raise IncompatibleStore(f"{store}: its plan of units is of another version of embedsearch")
    try:
        units = [
            Unit(**{**unit, "refs": files.FileRecord(**unit["refs"])}) for unit in values["units"]
        ]
        return UnitPlan(
            **{
                **values,
                "model": ModelSpec.from_dict(values["model"]),
                "roots": tuple(root_of(root) for root in values["roots"]),
                "units": tuple(units),
            }
        )
    except (TypeError, KeyError, ValueError) as error:
        raise _malformed(store, _PLAN_NAME) from error


def has_plan(store: Path) -> bool:
    """Return whether a plan is open."""
    return (store / UNITS_NAME / _PLAN_NAME).exists()


def write_record(store: Path, plan: UnitPlan, record: UnitRecord) -> None:
    """Record that a unit is done; its shard is already on the disk. Raises StorageError."""
    data = json.dumps({"plan": plan.id, **asdict(record)}, allow_nan=False).encode()
    files.replace(store / UNITS_NAME, _record_name(record.number), data)


def read_record(store: Path, plan: UnitPlan, number: int) -> UnitRecord | None:
    """Return the result of a unit, None if it is not done or a file of it is incomplete.

    Raises DamagedStore for a malformed record.
    """
    name = _record_name(number)
    values = _read_json(store, name)
    if values is None or values.pop("plan", None) != plan.id:
        return None
    try:
        shard = None if values["shard"] is None else ShardRecord(**values["shard"])
        failures = None if values["failures"] is None else files.FileRecord(**values["failures"])
        pairs = [(int(old), int(new)) for old, new in values["replaced"]]
        record = UnitRecord(**{**values, "shard": shard, "failures": failures, "replaced": pairs})
    except (TypeError, KeyError, ValueError) as error:
        raise _malformed(store, name) from error
    for file in (shard, failures):
        if file is not None:
            try:
                os.close(files.open_verified(store / UNITS_NAME, file))
            except DamagedStore:
                return None
    return record


def missing_units(store: Path, plan: UnitPlan, units: Iterable[Unit]) -> list[Unit]:
    """Return the units that are not done. Raises DamagedStore."""
    return [unit for unit in units if read_record(store, plan, unit.number) is None]


def write_failures(store: Path, unit: int, failures: Iterable[Failure]) -> files.FileRecord:
    """Write the failures of a unit. Raises StorageError."""
    return write_small(store / UNITS_NAME, "f", unit, failure_table(failures))


def read_unit_failures(store: Path, record: UnitRecord) -> list[Failure]:
    """Return the failures of a unit. Raises DamagedStore."""
    return [] if record.failures is None else failures_of(_table(store, record.failures))


def adopt(store: Path, shards: Iterable[ShardRecord]) -> None:
    """Link the shards of units into the store's shard folder, so that a commit can name them.

    They also stay in `units/`: until the commit, a sweep may remove the links. Raises StorageError.
    """
    try:
        for shard in shards:
            source = store / UNITS_NAME / shard.relative
            try:
                os.link(source, store / shard.relative)
            except FileExistsError:  # left by a killed commit
                pass
            except OSError:  # a file system without links
                with source.open("rb") as file:
                    files.write_copy(store, shard, files.pieces(file.fileno()), str(source))
        files.sync_folder(store / files.FOLDERS["s"])
    except OSError as error:
        raise files.storage_error(store, error) from error


def drop(store: Path) -> None:
    """Remove a plan and its finished units. Raises StorageError."""
    folder = store / UNITS_NAME
    try:
        (folder / _PLAN_NAME).unlink(missing_ok=True)  # first, so that no incomplete plan is left
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise files.storage_error(store, error) from error


def _record_name(number: int) -> str:
    return f"u-{number:08d}.json"


def _table(store: Path, record: files.FileRecord) -> pa.Table:
    try:
        data = files.read_verified(store / UNITS_NAME, record)
    except DamagedStore as error:
        raise _malformed(store, record.relative) from error
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()


def _read_json(store: Path, name: str) -> dict[str, Any] | None:
    path = store / UNITS_NAME / name
    try:
        values = strict_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise _malformed(store, name) from error
    if not isinstance(values, dict):
        raise _malformed(store, name)
    return values


def _malformed(store: Path, name: str) -> DamagedStore:
    return DamagedStore(
        f"{store / UNITS_NAME / name} is damaged; discard the plan: "
        f"embedsearch commit --drop --store {store}"
    )
