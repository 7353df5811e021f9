"""The units of a plan: run by any number of processes, taken in by one commit.

indexing.plan cuts the work → run_units makes a shard of each unit and its record → commit makes
them a generation. Processes need nothing of each other but the folder of the store: a unit that
was lost is run again, and two runs of one are harmless.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedsearch.config import IndexConfig
from embedsearch.decode.process import DecodeJob
from embedsearch.errors import (
    IncompatibleStore,
    Interrupted,
    NothingIndexed,
    PlanOpen,
    UnitsMissing,
    UsageError,
)
from embedsearch.indexing import ExtractorFactory, check_shareable, plan
from embedsearch.ledger import Ledger
from embedsearch.network.catalog import AUTO
from embedsearch.network.runtime import load_stream_extractor
from embedsearch.network.weights import resolve
from embedsearch.pipeline import Embedded, Pipeline
from embedsearch.records import (
    CommitReport,
    EmbeddingBatch,
    Failure,
    ImageRef,
    Progress,
    UnitsReport,
)
from embedsearch.scope import Sources, resolve_scope
from embedsearch.session import Session
from embedsearch.settling import settle
from embedsearch.store.current import check_format
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest, ShardRecord
from embedsearch.store.shards import batch_table, row_schema, write_shard
from embedsearch.store.snapshot import read_failures
from embedsearch.store.units import (
    UNITS_NAME,
    Unit,
    UnitPlan,
    UnitRecord,
    adopt,
    drop,
    read_plan,
    read_record,
    read_refs,
    read_unit_failures,
    write_failures,
    write_record,
)
from embedsearch.store.writer import StoreWriter

PLAN_WAIT_S = 3600.0  # for the process that makes the plan: all of them begin at once
_SHOWN = 20  # missing units that a message names


def index_share(
    folders: str | Path | Iterable[str | Path],
    share: tuple[int, int],
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> UnitsReport:
    """Run the units of a share, (i, n): of all units those whose number is i modulo n.

    The first process makes the plan, the others take it up. `share` may count from 0 or from 1.
    Raises what `plan` and `run_units` raise.
    """
    config, session = config or IndexConfig(), session or Session()
    number, shares = share
    if shares < 1 or not 0 <= number <= shares:
        raise UsageError(
            f"--unit {number}/{shares}: a share is one of 0/{shares} to {shares}/{shares}"
        )
    path = locate_store(store, create=bool(folders) or config.files is not None)
    opened = taken_up(path, folders, shares, config, session)
    if opened is None:
        return UnitsReport(str(path), units=0, missing=0, ran=0, images=0, failed=0, device="")
    mine = [unit.number for unit in opened.units if unit.number % shares == number % shares]
    return run_units(path, mine, config=config, session=session, on_progress=on_progress)


def taken_up(
    store: Path,
    folders: str | Path | Iterable[str | Path],
    shares: int,
    config: IndexConfig,
    session: Session,
) -> UnitPlan | None:
    """Return the open plan, or a new one; None where nothing is to be embedded.

    Raises what `plan` raises, and UsageError where the open one does not cover the folders.
    """
    check_shareable(config)
    places = [folders] if isinstance(folders, str | Path) else list(folders)
    listed = [os.fspath(place) for place in places]
    opened = read_plan(store)
    if opened is None:
        waits = replace(config, wait_s=config.wait_s or PLAN_WAIT_S)
        try:
            return plan(listed, store=store, shares=shares, config=waits, session=session)
        except PlanOpen:  # another process has made it while this one waited
            opened = open_plan(store)
    known = {root.path for root in opened.roots}
    extra = {root.path for root in resolve_scope(listed, opened.roots).roots} - known
    if extra:
        raise UsageError(
            f"the plan of {store} does not cover {', '.join(sorted(extra))}: embedsearch commit "
            "takes it in, a new one can be made then"
        )
    return opened


def run_units(
    store: str | Path,
    numbers: Iterable[int],
    *,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    extractor_factory: ExtractorFactory = load_stream_extractor,
) -> UnitsReport:
    """Decode and embed units of the open plan by their numbers; those that are done are left.

    A unit is done once its shard and its record are on the disk. Raises UsageError where no plan
    is open, IncompatibleStore for another model than the plan's, StorageError, and Interrupted,
    after which finished units stay.
    """
    config, session = config or IndexConfig(), session or Session()
    store = locate_store(store)
    opened = open_plan(store)
    check_same(opened, config, session)
    todo = [opened.units[n] for n in numbers if read_record(store, opened, n) is None]
    desk = _Desk(store, opened)
    total = sum(unit.images for unit in todo)
    if todo:
        with Sources(config.limits.max_bytes) as sources, desk:
            refs = (ref for unit in todo for ref in desk.lay_out(unit))
            jobs = (DecodeJob(ref, place) for ref, place in sources.places(refs, opened.roots))
            side = opened.model.input_side
            with Pipeline(side, config, jobs, total, session.stop) as pipeline:
                extractor = extractor_factory(
                    opened.model, config.device, config.precision, session
                )
                desk.device = extractor.device
                started = time.monotonic()
                for batch in pipeline.embed(extractor):
                    desk.take(batch)
                    if on_progress is not None:
                        elapsed_s = time.monotonic() - started
                        done = f"{desk.finished} of {len(todo)} units"
                        handled = desk.images + desk.failed
                        on_progress(Progress(handled, total, desk.failed, elapsed_s, done))
        if number := session.stop():
            raise Interrupted(
                f"interrupted; {desk.finished} units of {len(todo)} are done, the same command "
                "goes on with the others",
                number,
            )
    missing = sum(read_record(store, opened, unit.number) is None for unit in opened.units)
    return UnitsReport(
        store=str(store),
        units=len(opened.units),
        missing=missing,
        ran=desk.finished,
        images=desk.images,
        failed=desk.failed,
        device=desk.device,
    )


def commit(
    store: str | Path | None = None, *, wait_s: float = 0.0, session: Session | None = None
) -> CommitReport:
    """Make the units of the open plan a generation: all of them, or none.

    Raises UsageError where no plan is open, UnitsMissing naming the units that are still to be
    run, StoreLocked, StorageError. A commit that was killed is made up for by another.
    """
    session = session or Session()
    path = locate_store(store)
    check_format(path)
    opened = open_plan(path)
    with StoreWriter(path, wait_s, session.check, for_units=True) as writer:
        before = writer.manifest
        if before is not None and before.run.get("plan") == opened.id:
            drop(path)  # all that a killed commit had left to do
            return _committed(path, before, opened)
        if before is None or before.generation != opened.base:
            raise IncompatibleStore(
                f"the plan of {path} adds to generation {opened.base}, which is not the current "
                "one: give it up with embedsearch commit --drop, and index again"
            )
        records = _Gathered.of(path, opened, session)
        adopt(path, records.shards)
        ledger = Ledger(writer, opened.model, opened.roots, rebuild=False)
        ledger.take_over(records.shards, opened.next_row)
        for old, new in records.replaced:
            if new < 0:
                ledger.delete([old])
            else:
                ledger.replace(old, new)
        ledger.set_failures([*read_failures(path, before), *records.failures])
        run = {
            **opened.run,
            "added": opened.images - len(records.failures) - records.changed,
            "changed": records.changed,
            "failed": opened.run["failed"] + len(records.failures),
            "plan": opened.id,
        }
        ledger.commit(run)
        drop(path)
        settle(ledger, before.search.budget, run, session)
        if not ledger.images:
            raise NothingIndexed(f"the store holds no image: all {opened.images} files failed")
        assert writer.manifest is not None, "it has just been committed"
        return _committed(path, writer.manifest, opened)


def give_up(store: str | Path | None = None, *, wait_s: float = 0.0) -> None:
    """Remove the open plan and what was done of it. Raises StoreLocked and StorageError."""
    path = locate_store(store)
    check_format(path)
    with StoreWriter(path, wait_s, for_units=True):
        drop(path)


def open_plan(store: Path) -> UnitPlan:
    """Return the plan that is open. Raises UsageError where none is."""
    opened = read_plan(store)
    if opened is None:
        raise UsageError(f"{store} has no open plan: embedsearch index FOLDER --unit 0/4 makes one")
    return opened


def check_same(opened: UnitPlan, config: IndexConfig, session: Session) -> None:
    """Raise unless a config makes what the plan's other processes make."""
    own = opened.model
    asked = own if config.model == AUTO else resolve(config.model, session)
    asked = asked.asked(config.input_side, config.flip)
    if asked.fingerprint != own.fingerprint:
        raise IncompatibleStore(
            f"the plan is for {own.name}, not {asked.name} ({'; '.join(asked.differences(own))})"
        )
    limits = config.limits.verdict_key()
    if limits != dict(opened.limits):
        names = ", ".join(
            f"--{n.replace('_', '-')}" for n in limits if limits[n] != opened.limits[n]
        )
        raise UsageError(f"the plan was made with another {names}")


@dataclass
class _Open:
    """A unit that is being worked on."""

    unit: Unit
    replaced: dict[tuple[int, str], int]  # old rows of changed images
    started: float
    left: int
    rows: int = 0
    tables: list[pa.Table] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)


class _Desk:
    """Sorts what comes out of the pipeline by unit, and has finished units written beside."""

    def __init__(self, store: Path, opened: UnitPlan) -> None:
        self._store = store
        self._plan = opened
        self._open: dict[int, _Open] = {}
        self._unit_of: dict[tuple[int, str], _Open] = {}
        self._thread = ThreadPoolExecutor(1, "unit-writer")
        self._written: list[Future[None]] = []
        self.device = ""
        self.images = self.failed = self.finished = 0

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    def lay_out(self, unit: Unit) -> Iterator[ImageRef]:
        """Yield the refs of a unit that is about to be worked on."""
        listed = read_refs(self._store, unit)
        replaced = {(ref.root, ref.key): old for ref, old in listed if old >= 0}
        mine = _Open(unit, replaced, time.monotonic(), len(listed))
        self._open[unit.number] = mine
        self._unit_of.update(((ref.root, ref.key), mine) for ref, _ in listed)
        return (ref for ref, _ in listed)

    def take(self, batch: Embedded) -> None:
        """Enter one batch, images and failures; write the units that it completes."""
        images = batch.images
        homes = [self._unit_of.pop((ref.root, ref.key)) for ref in images.refs]
        for mine in dict.fromkeys(map(id, homes)):
            places = [n for n, home in enumerate(homes) if id(home) == mine]
            self._enter(homes[places[0]], _some_of(images, places))
        for failure in batch.failures:
            home = self._unit_of.pop((failure.root, failure.key))
            home.failures.append(failure)
            if (old := home.replaced.get((failure.root, failure.key))) is not None:
                home.pairs.append((old, -1))
            home.left -= 1
        self.images += len(images.refs)
        self.failed += len(batch.failures)
        for mine_ in [home for home in self._open.values() if not home.left]:
            del self._open[mine_.unit.number]
            self._wait(1)
            self._written.append(self._thread.submit(self._write, mine_))
            self.finished += 1

    def _enter(self, home: _Open, images: EmbeddingBatch) -> None:
        first = home.unit.first_row + home.rows
        home.tables.append(batch_table(images, first))
        for row, ref in enumerate(images.refs, start=first):
            if (old := home.replaced.get((ref.root, ref.key))) is not None:
                home.pairs.append((old, row))
        home.rows += len(images.refs)
        home.left -= len(images.refs)

    def _wait(self, left: int) -> None:
        """Wait until at most so many units are still to be written; raise what failed."""
        while len(self._written) > left:
            self._written.pop(0).result()

    def _write(self, home: _Open) -> None:
        made = UnitOutcome(home.tables, home.failures, home.pairs)
        seconds = time.monotonic() - home.started
        finish_unit(self._store, self._plan, home.unit, made, seconds, self.device)


@dataclass(frozen=True)
class UnitOutcome:
    """What the images of a unit have become: rows, numbered, failures, and rows replaced."""

    tables: list[pa.Table]
    failures: list[Failure]
    pairs: list[tuple[int, int]]  # rows of changed images: the old, and the new or -1


def finish_unit(
    store: Path, opened: UnitPlan, unit: Unit, made: UnitOutcome, seconds: float, device: str
) -> None:
    """Write the shard of a unit and then its record. Raises StorageError."""
    shard = None
    if made.tables:
        schema = row_schema(opened.model.dim)
        shard = write_shard(store / UNITS_NAME, opened.base + 1, made.tables, schema)
    failures = write_failures(store, unit.number, made.failures) if made.failures else None
    record = UnitRecord(
        number=unit.number,
        images=unit.images,
        shard=shard,
        failures=failures,
        failed=len(made.failures),
        replaced=made.pairs,
        seconds=round(seconds, 3),
        device=device,
    )
    write_record(store, opened, record)


def _some_of(images: EmbeddingBatch, places: list[int]) -> EmbeddingBatch:
    """Return some images of a batch."""
    if len(places) == len(images.refs):
        return images
    return EmbeddingBatch(
        [images.refs[place] for place in places],
        [images.facts[place] for place in places],
        images.vectors[np.array(places)],
    )


@dataclass
class _Gathered:
    """What all units of a plan have become."""

    shards: list[ShardRecord]
    failures: list[Failure]
    replaced: list[tuple[int, int]]
    changed: int

    @classmethod
    def of(cls, store: Path, opened: UnitPlan, session: Session) -> _Gathered:
        """Read the records. Raises UnitsMissing and DamagedStore."""
        found = cls([], [], [], 0)
        missing = []
        for unit in opened.units:
            session.check()
            record = read_record(store, opened, unit.number)
            if record is None:
                missing.append(unit.number)
                continue
            if record.shard is not None:
                found.shards.append(record.shard)
            found.failures += read_unit_failures(store, record)
            found.replaced += record.replaced
            found.changed += sum(new >= 0 for _, new in record.replaced)
        if missing:
            names = ", ".join(map(str, missing[:_SHOWN])) + ("…" if len(missing) > _SHOWN else "")
            raise UnitsMissing(
                f"{len(missing)} of {len(opened.units)} units are not done ({names}): run their "
                "shares again, embedsearch index --unit I/N does what is left"
            )
        return found


def _committed(store: Path, manifest: Manifest, opened: UnitPlan) -> CommitReport:
    counts = {name: int(manifest.run[name]) for name in ("added", "changed", "failed")}
    return CommitReport(
        store=str(store),
        generation=manifest.generation,
        images=manifest.live,
        units=len(opened.units),
        **counts,
    )
