"""The units of a plan: run by any number of processes, added to the store by one commit.

plan splits the work → run_units makes a shard and a record of each unit → commit makes them a
generation. The processes share only the folder of the store. A lost unit is run again, and
running a unit twice is harmless.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig, SearchBudget
from embedsearch.core.errors import IncompatibleStore, Interrupted, PlanOpen, UsageError
from embedsearch.core.records import EmbeddingBatch, Failure, ImageRef, JsonRecord, Progress
from embedsearch.core.session import Session
from embedsearch.images.decode.process import DecodeJob
from embedsearch.indexing.distributed.plan import check_shareable, plan
from embedsearch.indexing.embed import ExtractorFactory, OnProgress
from embedsearch.indexing.job import listed_folders, requested_model
from embedsearch.indexing.pipeline import Embedded, Pipeline
from embedsearch.indexing.scope import Sources, resolve_scope
from embedsearch.network.runtime import load_stream_extractor, stream_feed
from embedsearch.store.locate import locate_store
from embedsearch.store.shards import batch_table, row_schema, write_shard
from embedsearch.store.units import (
    UNITS_NAME,
    Unit,
    UnitPlan,
    UnitRecord,
    missing_units,
    read_plan,
    read_refs,
    write_failures,
    write_record,
)

PLAN_WAIT_S = 3600.0  # for the process that makes the plan, as all of them start at once


@dataclass(frozen=True)
class UnitsReport(JsonRecord):
    """What one process did of a plan; if there is nothing to embed, there are no units."""

    store: str
    units: int  # of the plan
    missing: int  # how many of these are not done yet
    ran: int
    images: int  # embedded by this process
    failed: int
    device: str


@checked
def index_share(
    folders: str | Path | Iterable[str | Path],
    share: tuple[int, int],
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: OnProgress | None = None,
) -> UnitsReport:
    """Run the units of a share (i, n): those whose number modulo n is i.

    The first process makes the plan, the others use it. i may count from 0 or from 1.
    Raises what `plan` and `run_units` raise.
    """
    config, session = config or IndexConfig(), session or Session()
    number, shares = share
    if shares < 1 or not 0 <= number <= shares:
        raise UsageError(
            f"unit {number}/{shares}: a share is one of 0/{shares} to {shares}/{shares}", "unit"
        )
    path = locate_store(store, create=bool(folders) or config.files is not None)
    if (opened := open_or_make_plan(path, folders, shares, config, session)) is None:
        return UnitsReport(str(path), units=0, missing=0, ran=0, images=0, failed=0, device="")
    planned = opened.run.get("shares")
    if planned is not None and planned != shares:
        raise UsageError(
            f"unit {number}/{shares}: the open plan was made for {planned} shares: run "
            f"1/{planned} to {planned}/{planned}, or discard it with embedsearch commit --drop",
            "unit",
        )
    numbers = [unit.number for unit in opened.units if unit.number % shares == number % shares]
    return run_units(path, numbers, config=config, session=session, on_progress=on_progress)


def open_or_make_plan(
    store: Path,
    folders: str | Path | Iterable[str | Path],
    shares: int,
    config: IndexConfig,
    session: Session,
) -> UnitPlan | None:
    """Return the open plan, or a new one; None if nothing must be embedded.

    Raises what `plan` raises, and UsageError if the open one does not cover the folders.
    """
    check_shareable(config)
    listed = listed_folders(folders)
    if (opened := read_plan(store)) is None:
        waits = replace(config, wait_s=config.wait_s or PLAN_WAIT_S)
        try:
            return plan(listed, store=store, shares=shares, config=waits, session=session)
        except PlanOpen:  # another process has made it while this one waited
            opened = open_plan(store)
    known = {root.path for root in opened.roots}
    if extra := {root.path for root in resolve_scope(listed, opened.roots).roots} - known:
        raise UsageError(
            f"the plan of {store} does not cover {', '.join(sorted(extra))}: finish it with "
            "embedsearch commit, then make a new one"
        )
    return opened


@checked
def run_units(
    store: str | Path,
    numbers: Iterable[int],
    *,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: OnProgress | None = None,
    extractor_factory: ExtractorFactory = load_stream_extractor,
) -> UnitsReport:
    """Decode and embed units of the open plan by their numbers; finished ones are skipped.

    A unit is done once its shard and its record are on the disk. Raises UsageError if no plan is
    open or has no such unit, IncompatibleStore for another model than the plan's, StorageError, and
    Interrupted; finished units stay.
    """
    config, session = config or IndexConfig(), session or Session()
    store = locate_store(store)
    opened = open_plan(store)
    check_same(opened, config, session)
    todo = missing_units(store, opened, [_unit(opened, number) for number in numbers])
    collector = _UnitCollector(store, opened)
    total = sum(unit.images for unit in todo)
    if todo:
        with Sources(config.limits.max_bytes) as sources, collector:
            refs = (ref for unit in todo for ref in collector.refs_of(unit))
            jobs = (DecodeJob(ref, where) for ref, where in sources.places(refs, opened.roots))
            model, stop = opened.model, session.stop
            feed = stream_feed(model, config.device, config.precision, session)
            side, framing = model.input_side, model.framing
            with Pipeline(side, config, jobs, total, stop, framing=framing, feed=feed) as pipeline:
                extractor = extractor_factory(model, config.device, config.precision, session)
                collector.device = extractor.device
                session.keep()
                started = time.monotonic()
                for batch in pipeline.embed(extractor):
                    sources.answered(batch.images, batch.failures)
                    collector.take(batch)
                    if on_progress is not None:
                        elapsed_s = time.monotonic() - started
                        done = f"{collector.finished} of {len(todo)} units"
                        handled = collector.images + collector.failed
                        on_progress(Progress(handled, total, collector.failed, elapsed_s, done))
        if number := session.stop():
            raise Interrupted(
                f"interrupted; {collector.finished} units of {len(todo)} are done, the same "
                "command goes on with the others",
                number,
            )
    return UnitsReport(
        store=str(store),
        units=len(opened.units),
        missing=len(missing_units(store, opened, opened.units)),
        ran=collector.finished,
        images=collector.images,
        failed=collector.failed,
        device=collector.device,
    )


def _unit(opened: UnitPlan, number: int) -> Unit:
    """Return a unit of a plan. Raises UsageError."""
    if not 0 <= number < len(opened.units):
        last = len(opened.units) - 1
        raise UsageError(f"the plan has units 0 to {last}, not {number}", "numbers")
    return opened.units[number]


def open_plan(store: Path) -> UnitPlan:
    """Return the open plan. Raises UsageError if there is none."""
    if (opened := read_plan(store)) is None:
        raise UsageError(f"{store} has no open plan: embedsearch index FOLDER --unit 0/4 makes one")
    return opened


def check_same(opened: UnitPlan, config: IndexConfig, session: Session) -> None:
    """Raise unless a config agrees with the plan in its model, limits and budget."""
    own = opened.model
    if (requested := requested_model(config, own, session)).fingerprint != own.fingerprint:
        raise IncompatibleStore(
            f"the plan is for {own.name}, not {requested.name} "
            f"({'; '.join(requested.differences(own))})"
        )
    if (limits := config.limits.verdict_key()) != dict(opened.limits):
        names = [name for name in limits if limits[name] != opened.limits[name]]
        raise UsageError(f"the plan was made with another {', '.join(names)}", *names)
    planned = planned_budget(opened)
    if (budget := config.budget(planned)) != planned:
        pairs = zip(vars(planned).items(), vars(budget).values(), strict=True)
        names = ["ann" if n == "factory" else n for (n, old), new in pairs if old != new]
        raise UsageError(f"the plan was made with another {', '.join(names)}", *names)


def planned_budget(opened: UnitPlan) -> SearchBudget:
    """Return what a search may cost after the commit of a plan."""
    return SearchBudget(**opened.run["budget"])


@dataclass(eq=False)
class _OpenUnit:
    """A unit that is being worked on."""

    unit: Unit
    refs: list[tuple[ImageRef, int]]
    left: int
    tables: list[pa.Table] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class _UnitCollector:
    """Sorts the output of the pipeline by unit, and writes finished units in the background."""

    def __init__(self, store: Path, opened: UnitPlan) -> None:
        self._store = store
        self._plan = opened
        self._open: dict[int, _OpenUnit] = {}
        self._unit_of: dict[tuple[int, str], _OpenUnit] = {}
        self._thread = ThreadPoolExecutor(1, "unit-writer")
        self._written: list[Future[None]] = []
        self.device = ""
        self.images = self.failed = self.finished = 0

    def __enter__(self) -> _UnitCollector:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    def refs_of(self, unit: Unit) -> Iterator[ImageRef]:
        """Open a unit and return its refs."""
        refs = read_refs(self._store, unit)
        opened = self._open[unit.number] = _OpenUnit(unit, refs, len(refs))
        self._unit_of.update(((ref.root, ref.key), opened) for ref, _ in refs)
        return (ref for ref, _ in refs)

    def take(self, batch: Embedded) -> None:
        """Add one batch, images and failures; write the units that it completes."""
        images = batch.images
        homes = [self._unit_of.pop((ref.root, ref.key)) for ref in images.refs]
        for home in dict.fromkeys(homes):
            positions = [position for position, unit in enumerate(homes) if unit is home]
            home.tables.append(batch_table(_selected(images, positions), 0))
            home.left -= len(positions)
        for failure in batch.failures:
            home = self._unit_of.pop((failure.root, failure.key))
            home.failures.append(failure)
            home.left -= 1
        self.images += len(images.refs)
        self.failed += len(batch.failures)
        # Meanwhile the thread of the decoders opens other units.
        for home in [home for home in list(self._open.values()) if not home.left]:
            del self._open[home.unit.number]
            self._wait(1)
            self._written.append(self._thread.submit(self._write, home))
            self.finished += 1

    def _wait(self, left: int) -> None:
        """Wait until at most `left` units are still to be written; raise what failed."""
        while len(self._written) > left:
            self._written.pop(0).result()

    def _write(self, home: _OpenUnit) -> None:
        finish_unit(self._store, self._plan, home.unit, home.refs, home.tables, home.failures)


def finish_unit(
    store: Path,
    opened: UnitPlan,
    unit: Unit,
    refs: Iterable[tuple[ImageRef, int]],
    tables: Iterable[pa.Table],
    failures: list[Failure],
) -> None:
    """Write the shard of a unit, its rows numbered, and then its record. Raises StorageError."""
    old_rows = {(ref.root, os.fsencode(ref.key)): old for ref, old in refs if old >= 0}
    broken = (failure for failure in failures if not failure.reason.is_passing)
    lost = [(failure.root, os.fsencode(failure.key)) for failure in broken]
    replaced = [(old_rows[name], -1) for name in lost if name in old_rows]
    numbered, row = [], unit.first_row
    for table in tables:
        numbers = range(row, row + len(table))
        row += len(table)
        index = table.schema.get_field_index("row")
        numbered.append(table.set_column(index, table.field(index), pa.array(numbers)))
        if old_rows:
            names = zip(*(table.column(name).to_pylist() for name in ("root", "key")), strict=True)
            pairs = zip(names, numbers, strict=True)
            replaced += [(old_rows[name], new) for name, new in pairs if name in old_rows]
    shard = None
    if row > unit.first_row:
        schema = row_schema(opened.model.dim)
        shard = write_shard(store / UNITS_NAME, opened.base + 1, numbered, schema)
    listed = write_failures(store, unit.number, failures) if failures else None
    write_record(store, opened, UnitRecord(unit.number, shard, listed, replaced))


def _selected(images: EmbeddingBatch, positions: list[int]) -> EmbeddingBatch:
    """Return the images of a batch at these positions."""
    if len(positions) == len(images.refs):
        return images
    return EmbeddingBatch(
        [images.refs[position] for position in positions],
        [images.facts[position] for position in positions],
        images.vectors[np.array(positions)],
    )
