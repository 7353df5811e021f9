"""Embed what changed, with checkpoints; in: a Job and its Changes, out: an Outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from embedsearch.core.config import IndexConfig
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.images.decode.process import DecodeJob
from embedsearch.indexing.bottleneck import Setup, StageClock, summary
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.job import Job
from embedsearch.indexing.pipeline import Embedded, Pipeline
from embedsearch.indexing.report import Outcome, run_record
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.network.runtime import PixelExtractor, int8_pays, stream_feed

ExtractorFactory = Callable[[ModelSpec, str, str, Session], PixelExtractor]
OnProgress = Callable[[Progress], None]
_SHOWN_STAGES = ("read", "decode", "embed", "write")


def embed(
    job: Job,
    changes: Changes,
    update: StoreUpdate,
    clock: StageClock,
    extractor_factory: ExtractorFactory,
    on_progress: OnProgress | None,
) -> Outcome:
    """Decode and embed the new and changed files. Whatever ends this, committed rows stay."""
    outcome, total = Outcome(), len(changes.embed)
    if not total:
        return outcome
    located = job.sources.places(changes.embed, job.scope.roots)
    jobs = (DecodeJob(ref, location) for ref, location in located)
    config, model = job.config, job.model
    worth = total if config.tune else 0
    with clock.measure("load"):
        feed = stream_feed(model, config.device, config.precision, job.session, worth)
    with Pipeline(
        model.input_side, config, jobs, total, job.session.stop, framing=model.framing, feed=feed
    ) as pipeline:
        with clock.measure("load"):  # meanwhile the workers start and decode
            extractor = extractor_factory(model, config.device, config.precision, job.session)
        device, precision = extractor.device, extractor.precision
        outcome.setup = Setup(
            device,
            precision,
            pipeline.workers,
            model.input_side if model.is_of_pooled_maps else 0,
            int8_pays(model, device, precision),
            model.is_of_towers,
        )
        job.session.keep()
        streaming_since = time.monotonic()
        for batch in pipeline.embed(extractor):
            job.sources.answered(batch.images, batch.failures)
            _take(batch, changes, update, outcome)
            outcome.setup = replace(outcome.setup, workers=pipeline.workers)
            clock.seconds |= pipeline.busy_s() | {"write": update.write_s}
            if on_progress is not None:
                on_progress(_progress(outcome, total, clock, time.monotonic() - streaming_since))
            # A rebuild commits once: readers keep the old rows until all new ones are there.
            if not job.replaces and _is_checkpoint(update, config):
                update.set_failures([*changes.failures, *outcome.failures])
                update.commit(run_record(job, changes, outcome))
        outcome.streaming_s = time.monotonic() - streaming_since
        outcome.cpu_s = pipeline.cpu_s()
        outcome.stopped_by = job.session.stop()
    return outcome


def _take(batch: Embedded, changes: Changes, update: StoreUpdate, outcome: Outcome) -> None:
    """Add the rows of one batch; a changed file that is no image now loses its old row."""
    if old_rows := [changes.replaced.get((ref.root, ref.key)) for ref in batch.images.refs]:
        for row, old in enumerate(old_rows, start=update.add(batch.images)):
            if old is not None:
                update.replace(old, row)
    broken = (f for f in batch.failures if not f.reason.is_passing)
    lost = (changes.replaced.get((f.root, f.key)) for f in broken)
    update.delete(row for row in lost if row is not None)
    outcome.failures += batch.failures
    outcome.embedded += len(old_rows)
    outcome.added += old_rows.count(None)
    outcome.changed += len(old_rows) - old_rows.count(None)


def _is_checkpoint(update: StoreUpdate, config: IndexConfig) -> bool:
    is_late = time.monotonic() - update.committed_at >= config.checkpoint_s
    return is_late or update.images_since_commit >= config.checkpoint_images


def _progress(outcome: Outcome, total: int, clock: StageClock, elapsed_s: float) -> Progress:
    assert outcome.setup is not None, "the network is loaded"
    busy_s = {stage: clock.seconds[stage] for stage in _SHOWN_STAGES}
    note = summary(busy_s, elapsed_s, outcome.setup)
    return Progress(outcome.handled, total, len(outcome.failures), elapsed_s, note)
