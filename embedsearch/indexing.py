"""Folders of images to a store, as a sync; in: folders and a config, out: an IndexReport.

plan (planning.py) → decode (worker processes) → embed (this process) → rows and commits
(ledger.py). Whatever ends the run, the store stands at its last commit.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import embedsearch
from embedsearch.config import IndexConfig
from embedsearch.decode.pool import DecodedBatch, DecodePool
from embedsearch.decode.process import DecodeJob
from embedsearch.errors import (
    IncompatibleStore,
    Interrupted,
    NothingIndexed,
    StoreNotFound,
)
from embedsearch.ledger import Ledger
from embedsearch.network.catalog import AUTO
from embedsearch.network.runtime import PixelExtractor, load_extractor
from embedsearch.network.weights import resolve
from embedsearch.planning import Plan, make_plan
from embedsearch.records import (
    EmbeddingBatch,
    Failure,
    ImageBatch,
    IndexReport,
    ModelSpec,
    Progress,
    Reason,
    Stage,
    check_unit_rows,
)
from embedsearch.scope import Scope, holds_image, resolve_scope
from embedsearch.session import Session
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import FORMAT_NAME
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot, open_snapshot, read_failures
from embedsearch.store.writer import StoreWriter, check_creatable, create_store

ExtractorFactory = Callable[[ModelSpec, str, str, Session], PixelExtractor]


def index(
    folders: str | Path | Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    extractor_factory: ExtractorFactory = load_extractor,
    **options: Any,
) -> IndexReport:
    """Bring a store into step with folders of images: embed what is new or changed.

    Without folders, all folders that the store knows are looked through again. `options` are
    fields of IndexConfig: `index("photos", store="photos.es", model="resnet50")`. Raises
    EmbedSearchError; the store then stands at its last committed generation.
    """
    config = replace(config or IndexConfig(), **options)
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    path = locate_store(store, create=bool(listed))
    run = _Run(path, config, session or Session(), on_progress, extractor_factory)
    return run.index([os.fspath(folder) for folder in listed])


class _Run:
    """One run of `index`: holds what its steps share."""

    def __init__(
        self,
        store: Path,
        config: IndexConfig,
        session: Session,
        on_progress: Callable[[Progress], None] | None,
        extractor_factory: ExtractorFactory,
    ) -> None:
        self.store = store
        self.config = config
        self.session = session
        self.on_progress = on_progress
        self.extractor_factory = extractor_factory
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)  # busy seconds a stage
        self.extractor: PixelExtractor | None = None
        self.failures: list[Failure] = []
        self.outcome: Counter[str] = Counter()
        self.old_manifest: Manifest | None = None
        self.old_verdicts: Any = None

    def index(self, folders: list[str]) -> IndexReport:
        """Check before anything is made, then plan and work under the writer's lock."""
        check_creatable(self.store)
        manifest = self._manifest_or_none()
        if not folders and manifest is None:
            raise StoreNotFound(
                f"nothing was committed to {self.store} yet: name the folders to index"
            )
        scope = self._scope(folders, manifest)
        if manifest is None and not holds_image(scope):
            raise NothingIndexed(f"no images found in {', '.join(folders)}; no store was made")
        if self.config.dry_run:
            return self._dry_run(manifest, scope)
        model = self._model(manifest)
        create_store(self.store)
        with StoreWriter(self.store, self.config.wait_s, self.session.check) as writer:
            if writer.manifest != manifest:  # another run committed while this one waited
                scope = self._scope(folders, writer.manifest)
                model = self._model(writer.manifest)
            return self._sync(writer, scope, model)

    @property
    def _replaces(self) -> bool:
        """Return whether this run puts new rows in the place of all old ones."""
        return self.config.rebuild and self.old_manifest is not None

    def _manifest_or_none(self) -> Manifest | None:
        if not (self.store / FORMAT_NAME).exists():
            return None
        check_format(self.store)
        try:
            return read_current(self.store)
        except StoreNotFound:
            return None

    def _scope(self, folders: list[str], manifest: Manifest | None) -> Scope:
        known = () if manifest is None else manifest.roots
        scope = resolve_scope(folders, known)
        if self.config.rebuild and folders:  # rows of two models must not stand side by side
            whole = [*folders, *(root.path for root in known)]
            return resolve_scope(whole, known)
        return scope

    def _model(self, manifest: Manifest | None) -> ModelSpec:
        """Return the store's model, or the one asked for. Raises IncompatibleStore."""
        config = self.config
        if manifest is not None and config.model == AUTO:
            asked = manifest.model
        else:
            asked = resolve(config.model, self.session)
        asked = replace(
            asked,
            input_side=config.input_side or asked.input_side,
            flip=config.flip or asked.flip,
        )
        if manifest is None or self.config.rebuild:
            return asked
        if asked.fingerprint != manifest.model.fingerprint:
            raise IncompatibleStore(
                f"{self.store} was made with {manifest.model.name}, not {asked.name} "
                f"({'; '.join(asked.differences(manifest.model))}): leave that out, or embed "
                "everything anew with --rebuild"
            )
        return manifest.model

    def _plan(self, snapshot: Snapshot | None, scope: Scope) -> Plan:
        started = time.monotonic()
        retry = False
        if snapshot is not None:
            self.old_verdicts = snapshot.manifest.run.get("verdicts")
            retry = self.old_verdicts != self._verdict_key()
        plan = make_plan(
            snapshot,
            scope,
            self.session,
            rebuild=self._replaces,
            retry_failures=retry,
            allow_empty=self.config.allow_empty,
        )
        self.seconds["scan"] = time.monotonic() - started
        return plan

    def _dry_run(self, manifest: Manifest | None, scope: Scope) -> IndexReport:
        if manifest is None:
            return self._report(self._plan(None, scope), self.config.model, None, 0)
        self.old_manifest = manifest
        name = self._model(manifest).name
        if self.config.rebuild:
            return self._report(self._plan(None, scope), name, manifest, manifest.live)
        with open_snapshot(self.store) as snapshot:
            return self._report(self._plan(snapshot, scope), name, manifest, manifest.live)

    def _sync(self, writer: StoreWriter, scope: Scope, model: ModelSpec) -> IndexReport:
        self.old_manifest = writer.manifest
        base = None if self.config.rebuild else writer.manifest  # a rebuild mends damage, too
        snapshot = None if base is None else open_snapshot(self.store)
        try:
            plan = self._plan(snapshot, scope)
            ledger = Ledger(writer, model, scope.roots, rebuild=self.config.rebuild)
            ledger.delete(plan.deleted)
            if snapshot is not None:
                ledger.carry([*plan.moved, *plan.touched], snapshot)
        finally:
            if snapshot is not None:
                snapshot.close()
        self.failures = plan.failures
        stopped_by = self._embed(plan, ledger, model, scope)
        if stopped_by and self._replaces:
            raise Interrupted(
                f"interrupted; the rebuild was dropped, generation {writer.next_generation - 1} "
                "stays as it was",
                stopped_by,
            )
        old_failures = [] if base is None else read_failures(self.store, base)
        if (
            base is None
            or plan.changes_store
            or scope.roots != base.roots
            or set(self.failures) != set(old_failures)
        ):
            ledger.set_failures(self.failures)
            ledger.commit(self._run_record(plan))
        if stopped_by:
            raise Interrupted(
                f"interrupted; generation {writer.next_generation - 1} with {ledger.images} "
                "images is committed, the same command goes on from there",
                stopped_by,
            )
        ledger.tidy()
        if not ledger.is_tidy:
            ledger.commit(self._run_record(plan))
        self.seconds["write"] = ledger.write_s
        if not ledger.images:
            why = f"all {plan.found} files failed, see embedsearch failures --store {self.store}"
            raise NothingIndexed(
                f"the store holds no image: {why if plan.found else 'the folders hold none'}"
            )
        return self._report(plan, model.name, writer.manifest, ledger.images)

    def _embed(self, plan: Plan, ledger: Ledger, model: ModelSpec, scope: Scope) -> int:
        """Decode and embed what the plan names; return the signal that stopped it, or 0."""
        total = len(plan.embed)
        if not total:
            return 0
        paths = {root.id: root.path for root in scope.roots}
        jobs = (DecodeJob(ref, paths[ref.root]) for ref in plan.embed)
        side, limits = model.input_side, self.config.limits
        with DecodePool(side, limits, workers=self._workers(plan)) as pool:
            batches = pool.run(jobs, self.session.stop)
            # The workers start and decode while this process loads the network.
            started = time.monotonic()
            self.extractor = self.extractor_factory(
                model, self.config.device, self.config.precision, self.session
            )
            self.seconds["load"] = time.monotonic() - started
            for batch in batches:
                self._take(batch, plan, ledger)
                if self.on_progress is not None:
                    done = self.outcome["embedded"] + self.outcome["failed"]
                    elapsed = time.monotonic() - self.started
                    self.on_progress(Progress(done, total, self.outcome["failed"], elapsed))
                # A rebuild commits once: readers keep the old rows until the new are all there.
                if not self._replaces and self._is_due(ledger):
                    ledger.set_failures(self.failures)
                    ledger.commit(self._run_record(plan))
            return self.session.stop()

    def _workers(self, plan: Plan) -> int:
        return max(1, min(self.config.worker_count(), len(plan.embed)))

    def _is_due(self, ledger: Ledger) -> bool:
        late = time.monotonic() - ledger.committed_at >= self.config.checkpoint_s
        return late or ledger.images_since_commit >= self.config.checkpoint_images

    def _take(self, batch: DecodedBatch, plan: Plan, ledger: Ledger) -> None:
        """Embed one batch and enter it into the ledger, with its failures."""
        self.seconds["read"] += batch.read_s
        self.seconds["decode"] += batch.decode_s
        failures = list(batch.failures)
        if len(batch.images.refs):
            started = time.monotonic()
            embedded, unusable = self._vectors(batch.images)
            self.seconds["embed"] += time.monotonic() - started
            failures += unusable
            ledger.add(embedded)
            self.outcome["embedded"] += len(embedded.refs)
            for ref in embedded.refs:
                kind = "changed" if (ref.root, ref.key) in plan.replaced else "added"
                self.outcome[kind] += 1
        self.failures += failures
        self.outcome["failed"] += len(failures)
        done = [(ref.root, ref.key) for ref in batch.images.refs]
        done += [(failure.root, failure.key) for failure in batch.failures]
        ledger.delete(plan.replaced[key] for key in done if key in plan.replaced)

    def _vectors(self, images: ImageBatch) -> tuple[EmbeddingBatch, list[Failure]]:
        """Return the embeddings, and failures for images of which the network made no vector."""
        assert self.extractor is not None
        vectors = self.extractor(images.pixels)
        try:
            return EmbeddingBatch(images.refs, images.facts, vectors), []
        except ValueError:
            good = [_is_unit(vectors[i : i + 1]) for i in range(len(vectors))]
        detail = "the network gave no finite unit vector"
        failures = [
            Failure(r.root, r.key, Stage.EMBED, Reason.NOT_FINITE, detail, r.size, r.mtime_ns)
            for r, usable in zip(images.refs, good, strict=True)
            if not usable
        ]
        refs = [ref for ref, usable in zip(images.refs, good, strict=True) if usable]
        facts = [fact for fact, usable in zip(images.facts, good, strict=True) if usable]
        return EmbeddingBatch(refs, facts, vectors[np.array(good)]), failures

    def _verdict_key(self) -> dict[str, Any]:
        """Return what recorded failures depend on besides the file itself."""
        return {**self.config.limits.verdict_key(), "version": embedsearch.__version__}

    def _run_record(self, plan: Plan) -> dict[str, Any]:
        """Return what the manifest says of this run."""
        return {
            "found": plan.found,
            **self._counts(plan),
            "deleted": len(plan.deleted),
            "limits": self._widest_limits(),
            # Failures carried from elsewhere were judged by the old limits: they are retried.
            "verdicts": self.old_verdicts if plan.failures_elsewhere else self._verdict_key(),
        }

    def _widest_limits(self) -> dict[str, Any]:
        """Return the widest limits under which a row of the store may have come in."""
        own = self.config.limits.verdict_key()
        if self.old_manifest is None or self.config.rebuild:
            return own
        old = self.old_manifest.run.get("limits", {})
        return {name: max(value, old.get(name, value)) for name, value in own.items()}

    def _counts(self, plan: Plan) -> dict[str, int]:
        pending = len(plan.embed)
        changed, added = self.outcome["changed"], self.outcome["added"]
        if self.config.dry_run:
            changed = len(plan.replaced)
            added = pending - changed
        return {
            "added": added,
            "changed": changed,
            "moved": len(plan.moved),
            "unchanged": plan.unchanged,
            "failed": plan.known_failed + self.outcome["failed"],
        }

    def _report(
        self, plan: Plan, model: str, manifest: Manifest | None, images: int
    ) -> IndexReport:
        workers = self._workers(plan)
        handled = self.outcome["embedded"] + self.outcome["failed"]
        seconds = {
            "scan": self.seconds["scan"],
            "load": self.seconds["load"],
            "read": self.seconds["read"] / workers,
            "decode": self.seconds["decode"] / workers,
            "embed": self.seconds["embed"],
            "write": self.seconds["write"],
        }
        rates = {
            stage: (plan.found if stage == "scan" else handled) / value
            for stage, value in seconds.items()
            if value > 0 and stage != "load"
        }
        return IndexReport(
            store=str(self.store),
            model=model,
            device="" if self.extractor is None else self.extractor.device,
            precision="" if self.extractor is None else self.extractor.precision,
            generation=0 if manifest is None else manifest.generation,
            images=images,
            found=plan.found,
            **self._counts(plan),
            deleted=len(plan.deleted),
            ignored=plan.ignored,
            unreadable_folders=plan.unreadable_folders,
            embedded=self.outcome["embedded"],
            elapsed_s=round(time.monotonic() - self.started, 3),
            stage_s={stage: round(value, 3) for stage, value in seconds.items()},
            stage_rate={stage: round(value, 1) for stage, value in rates.items()},
            slowest_stage=max(seconds, key=lambda stage: seconds[stage]),
            dry_run=self.config.dry_run,
        )


def _is_unit(vectors: Any) -> bool:
    try:
        check_unit_rows(vectors)
    except ValueError:
        return False
    return True
