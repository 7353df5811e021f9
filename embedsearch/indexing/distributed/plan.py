"""Split what must be embedded into units for several processes; in: folders, out: a UnitPlan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.options import IndexOptions, configured
from embedsearch.core.records import ImageRef, Root, RootKind
from embedsearch.core.session import Session
from embedsearch.indexing.bottleneck import StageClock
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.job import Job, open_job, prepare
from embedsearch.indexing.report import Outcome, run_record
from embedsearch.indexing.scope import Sources
from embedsearch.indexing.sync import commit_if_changed
from embedsearch.store.merge import rows_per_shard
from embedsearch.store.units import Unit, UnitPlan, make_folder, new_plan_id, write_plan, write_refs


@checked
def plan(
    folders: str | Path | Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    shares: int,
    config: IndexConfig | None = None,
    session: Session | None = None,
    **options: Unpack[IndexOptions],
) -> UnitPlan | None:
    """Split what `index` would embed into units for `shares` processes or more; see `run_units`.

    Changes that need no network are committed: moved, touched and deleted files. Returns the
    plan, which is open until `commit`, or None if nothing must be embedded. Raises what `index`
    raises, and StoreLocked while another plan is open.
    """
    config = configured(config or IndexConfig(), options)
    if shares < 1:
        raise UsageError("shares must be at least 1")
    check_shareable(config)
    with Sources(config.limits.max_bytes) as sources:
        request = prepare(folders, store, config, session or Session(), sources)
        with open_job(request, for_units=True) as job:
            changes, update = job.begin(StageClock())
            roots = sources.synced(job.scope)
            update.set_roots(job.scope.roots if len(changes.embed) else roots)
            rows_change = bool(changes.kept or changes.doubles or changes.deleted)
            nothing_yet = Outcome()
            commit_if_changed(job, changes, update, nothing_yet, rows_change=rows_change)
            budget = config.budget(update.manifest.search.budget)
            run = {**run_record(job, changes, nothing_yet), "center": config.center}
            run |= {"shares": shares, "budget": asdict(budget)}
            if not len(changes.embed):
                update.finish(budget, run, job.session)
                return None
            return _cut_plan(job, changes, shares, roots, run)


def check_shareable(config: IndexConfig) -> None:
    """Raise UsageError for what the processes of a plan cannot do."""
    if config.rebuild or config.dry_run or config.metadata is not None or config.sidecars:
        raise UsageError(
            "shared work excludes rebuild (index into a new store instead), dry_run, and metadata "
            "and sidecars (index with them after the commit)",
            *("rebuild", "dry_run", "metadata", "sidecars"),
        )


def _cut_plan(
    job: Job, changes: Changes, shares: int, roots: tuple[Root, ...], run: Mapping[str, Any]
) -> UnitPlan:
    """Write the plan; it is open when this returns. Raises StorageError."""
    base, store = job.writer.manifest, job.store
    assert base is not None, "it has been committed"
    max_images = unit_images(len(changes.embed), shares, rows_per_shard(base.model.dim))
    packed = {root.id for root in roots if root.kind not in {RootKind.FOLDER, RootKind.LIST}}
    refs = ((ref, changes.replaced.get((ref.root, ref.key), -1)) for ref in changes.embed)
    make_folder(store)
    units: list[Unit] = []
    row = base.next_row
    for chunk in cut(refs, max_images, packed):
        job.session.check()
        units.append(write_refs(store, len(units), row, chunk))
        row += len(chunk)
    made = UnitPlan(
        id=new_plan_id(),
        base=base.generation,
        model=base.model,
        roots=roots,
        limits=job.config.limits.verdict_key(),
        run=run,
        units=tuple(units),
    )
    write_plan(store, made)
    return made


def unit_images(count: int, shares: int, max_images: int) -> int:
    """Return the images per unit, at most `max_images`, so that shares are equal."""
    rounds = math.ceil(count / (shares * max_images))
    return max(1, math.ceil(count / (shares * rounds)))


def cut(
    refs: Iterable[tuple[ImageRef, int]], max_images: int, packed: set[int]
) -> Iterator[list[tuple[ImageRef, int]]]:
    """Yield units of at most `max_images` refs.

    A unit that is at least half full ends where an archive (a root in `packed`) ends, so that the
    process of the next unit need not open that archive.
    """
    unit: list[tuple[ImageRef, int]] = []
    for ref, replaced in refs:
        is_end = unit and unit[-1][0].root != ref.root and unit[-1][0].root in packed
        if len(unit) == max_images or (is_end and 2 * len(unit) >= max_images):
            yield unit
            unit = []
        unit.append((ref, replaced))
    if unit:
        yield unit
