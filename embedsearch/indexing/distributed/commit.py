"""The units of a plan as one generation: all of them, or none; in: a store, out: a report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.arguments import checked
from embedsearch.core.errors import (
    DamagedStore,
    IncompatibleStore,
    NothingIndexed,
    UnitsMissing,
)
from embedsearch.core.records import Failure, JsonRecord
from embedsearch.core.session import Session
from embedsearch.indexing.distributed.run import open_plan, planned_budget
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.store.current import check_format
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest, ShardRecord
from embedsearch.store.snapshot import read_failures
from embedsearch.store.units import UnitPlan, adopt, drop, read_record, read_unit_failures
from embedsearch.store.writer import StoreWriter

_SHOWN = 20  # missing units that a message names


@checked
def commit(
    store: str | Path | None = None, *, wait_s: float = 0.0, session: Session | None = None
) -> CommitReport:
    """Make the units of the open plan a generation: all of them, or none.

    Raises UsageError if no plan is open, UnitsMissing naming the units that have not run yet,
    StoreLocked, StorageError. After a killed commit, commit again.
    """
    session = session or Session()
    path = locate_store(store)
    check_format(path)
    opened = open_plan(path)
    with StoreWriter(path, wait_s, session, for_units=True) as writer:
        before = writer.manifest
        if before is not None and before.run.get("plan") == opened.id:
            drop(path)  # the last step, which a killed commit left undone
            return _committed(path, before, opened)
        if before is None or before.generation != opened.base:
            raise IncompatibleStore(
                f"the plan of {path} adds to generation {opened.base}, which is not the current "
                "one: discard it with embedsearch commit --drop, and index again"
            )
        records = _Gathered.of(path, opened, session)
        adopt(path, records.shards)
        center = opened.run.get("center")
        update = StoreUpdate(writer, opened.model, opened.roots, rebuild=False, center=center)
        update.add_shards(records.shards, opened.next_row)
        for old, new in records.replaced:
            if new < 0:
                update.delete([old])
            else:
                update.replace(old, new)
        update.set_failures([*read_failures(path, before), *records.failures])
        run = {
            **opened.run,
            "added": opened.images - len(records.failures) - records.changed,
            "changed": records.changed,
            "failed": opened.run["failed"] + len(records.failures),
            "pending": 0,
            "plan": opened.id,
        }
        update.commit(run)
        drop(path)
        update.finish(planned_budget(opened), run, session)
        if not update.images:
            raise NothingIndexed(f"the store holds no image: all {opened.images} files failed")
        assert writer.manifest is not None, "it has just been committed"
        return _committed(path, writer.manifest, opened)


@checked
def discard_plan(store: str | Path | None = None, *, wait_s: float = 0.0) -> None:
    """Remove the open plan and its finished units.

    Raises UsageError if no plan is open, StoreLocked and StorageError.
    """
    path = locate_store(store)
    check_format(path)
    with suppress(DamagedStore):  # a damaged one goes, too
        open_plan(path)
    with StoreWriter(path, wait_s, for_units=True):
        drop(path)


@dataclass
class _Gathered:
    """The results of all units of a plan."""

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
            if (record := read_record(store, opened, unit.number)) is None:
                missing.append(unit.number)
                continue
            if record.shard is not None:
                found.shards.append(record.shard)
            found.failures += read_unit_failures(store, record)
            found.replaced += record.replaced
            found.changed += sum(new >= 0 for _, new in record.replaced)
        if missing:
            names = _listed(missing)
            raise UnitsMissing(
                f"{len(missing)} of {len(opened.units)} units are not done ({names}): "
                f"{_again(opened, missing)}"
            )
        return found


def _again(opened: UnitPlan, missing: list[int]) -> str:
    """Return which shares to run again, as they were counted when the plan was made."""
    if not (shares := opened.run.get("shares")):
        return "run their shares again, embedsearch index --unit I/N does the missing ones"
    # Share N/N is also share 0/N, for those who count from 0.
    numbers = sorted({number % shares or shares for number in missing})
    return "run again " + _listed([f"embedsearch index --unit {n}/{shares}" for n in numbers])


def _listed(items: Sequence[object]) -> str:
    """Return the first of some items."""
    return ", ".join(map(str, items[:_SHOWN])) + ("…" if len(items) > _SHOWN else "")


def _committed(store: Path, manifest: Manifest, opened: UnitPlan) -> CommitReport:
    return CommitReport(
        store=str(store),
        generation=manifest.generation,
        images=manifest.live,
        units=len(opened.units),
        **{name: int(manifest.run[name]) for name in ("added", "changed", "failed")},
    )


@dataclass(frozen=True)
class CommitReport(JsonRecord):
    """What a commit of a plan's units changed in a store."""

    store: str
    generation: int
    images: int  # rows of the store
    units: int
    added: int
    changed: int
    failed: int
