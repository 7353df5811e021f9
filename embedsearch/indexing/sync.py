"""Folders of images to a store, as a sync; in: folders and a config, out: an IndexReport.

prepare → lock → find changes → embed, with checkpoints → user columns → commit → finish → report.
Whatever ends the run, the store stands at its last commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import Interrupted, NothingIndexed
from embedsearch.core.options import IndexOptions, configured
from embedsearch.core.session import Session
from embedsearch.indexing.bottleneck import StageClock
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.embed import ExtractorFactory, OnProgress, embed
from embedsearch.indexing.images_table import refresh_images_table
from embedsearch.indexing.job import Job, Request, open_job, prepare, store_model
from embedsearch.indexing.report import IndexReport, Outcome, make_report, run_record
from embedsearch.indexing.scope import Sources
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.indexing.user_columns import check_table, join_user_columns
from embedsearch.network.runtime import load_stream_extractor
from embedsearch.network.weights import check_named
from embedsearch.store.snapshot import open_snapshot, read_failures

# What a run may change beside rows and failures.
_KEPT = ("roots", "excludes", "follow_links", "model")


@checked
def index(
    folders: str | Path | Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: OnProgress | None = None,
    extractor_factory: ExtractorFactory = load_stream_extractor,
    **options: Unpack[IndexOptions],
) -> IndexReport:
    """Bring a store into step with folders of images: embed what is new or changed.

    Without folders, all folders that the store knows are scanned again. `options` are fields of
    IndexConfig: `index("photos", store="photos.es", model="resnet50")`. Raises EmbedSearchError;
    the store then stands at its last committed generation.
    """
    config = configured(config or IndexConfig(), options)
    clock = StageClock()
    with Sources(config.limits.max_bytes) as sources:
        request = prepare(folders, store, config, session or Session(), sources)
        if config.dry_run:
            return _preview(request, clock)
        with open_job(request) as job:
            changes, update = job.begin(clock)
            check_table(job, changes)
            outcome = embed(job, changes, update, clock, extractor_factory, on_progress)
            metadata = None if outcome.stopped_by else join_user_columns(job, update)
            _commit(job, changes, update, outcome)
            _finish(job, changes, update, outcome, clock)
            _refresh_table(job)
            return make_report(
                job,
                changes,
                outcome,
                clock,
                model=job.model.name,
                manifest=job.writer.manifest,
                images=update.images,
                metadata=metadata,
            )


def commit_if_changed(
    job: Job, changes: Changes, update: StoreUpdate, outcome: Outcome, *, rows_change: bool
) -> None:
    """Commit unless rows, roots and failures are those of the current generation."""
    base = job.base
    failures = [*changes.failures, *outcome.failures]
    if (
        base is None
        or rows_change
        or any(getattr(update.manifest, name) != getattr(base, name) for name in _KEPT)
        or base.pending != len(changes.embed) - outcome.handled
        or set(failures) != set(read_failures(job.store, base))
    ):
        update.set_failures(failures)
        update.commit(run_record(job, changes, outcome))


def _preview(request: Request, clock: StageClock) -> IndexReport:
    """Return what a run would do; nothing is written and no network is loaded."""
    manifest, config = request.manifest, request.config
    with clock.measure("scan"):
        if manifest is None or config.rebuild:
            changes = request.find_changes(None)
        else:
            with open_snapshot(request.store) as snapshot:
                changes = request.find_changes(snapshot)
    changed = len(changes.replaced)
    outcome = Outcome(added=len(changes.embed) - changed, changed=changed)
    images, model = 0, config.model
    if manifest is not None:
        images = manifest.live
        model = store_model(request.store, config, manifest, request.session).name
    else:
        check_named(config.model)
    return make_report(
        request, changes, outcome, clock, model=model, manifest=manifest, images=images
    )


def _commit(job: Job, changes: Changes, update: StoreUpdate, outcome: Outcome) -> None:
    """Commit the rows. Raises Interrupted if a signal ended the run early."""
    stopped_by = outcome.stopped_by
    update.set_roots(job.scope.roots if stopped_by else job.sources.synced(job.scope))
    if stopped_by and job.replaces:
        raise Interrupted(
            f"interrupted; the rebuild was dropped, generation {job.writer.next_generation - 1} "
            "stays as it was",
            stopped_by,
        )
    rows_change = bool(
        len(changes.embed)
        or changes.kept
        or changes.doubles
        or changes.deleted
        or update.brings_columns
    )
    commit_if_changed(job, changes, update, outcome, rows_change=rows_change)
    if stopped_by:
        raise Interrupted(
            f"interrupted; generation {job.writer.next_generation - 1} with {update.images} "
            "images is committed, the same command goes on from there",
            stopped_by,
        )


def _refresh_table(job: Job) -> None:
    """Write the table for other programs where a killed run, or an older program, left none."""
    if job.writer.manifest is not None:
        refresh_images_table(job.store, job.writer.manifest)


def _finish(
    job: Job, changes: Changes, update: StoreUpdate, outcome: Outcome, clock: StageClock
) -> None:
    """Merge, tune and commit. Raises NothingIndexed if the store holds no image afterwards."""
    written_s = update.write_s
    with clock.measure("tune"):
        budget = job.config.budget(update.manifest.search.budget)
        update.finish(budget, run_record(job, changes, outcome), job.session)
    clock.seconds["tune"] -= update.write_s - written_s
    clock.seconds["write"] = update.write_s
    if not update.images:
        why = f"all {changes.found} files failed, see embedsearch failures --store {job.store}"
        raise NothingIndexed(
            f"the store holds no image: {why if changes.found else 'the folders hold none'}"
        )
