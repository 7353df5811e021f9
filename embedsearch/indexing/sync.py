"""Folders of images to a store, as a sync; in: folders and a config, out: an IndexReport.

plan (planning.py) → decode and embed, overlapped (pipeline.py) → rows and commits
(ledger.py). Whatever ends the run, the store stands at its last commit.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsearch._version import __version__
from embedsearch.core.config import AUTO_ANN, EXACT_ANN, IndexConfig
from embedsearch.core.errors import (
    IncompatibleStore,
    Interrupted,
    NothingIndexed,
    StoreNotFound,
    UsageError,
)
from embedsearch.core.records import (
    Failure,
    IndexReport,
    Kind,
    MetadataReport,
    ModelSpec,
    Progress,
    Root,
)
from embedsearch.core.session import Session
from embedsearch.images.decode.process import DecodeJob
from embedsearch.indexing.bottleneck import Setup, advice, shares, slowest_stage
from embedsearch.indexing.bottleneck import words as stage_words
from embedsearch.indexing.changes import Plan, make_plan
from embedsearch.indexing.distributed.plan import cut_plan
from embedsearch.indexing.pipeline import Embedded, Pipeline
from embedsearch.indexing.scope import Scope, Sources, Target, holds_image, resolve_scope
from embedsearch.indexing.settling import settle
from embedsearch.indexing.store_update import Ledger
from embedsearch.network.catalog import AUTO
from embedsearch.network.runtime import PixelExtractor, load_stream_extractor
from embedsearch.network.weights import resolve
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import FORMAT_NAME
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot, open_snapshot, read_failures
from embedsearch.store.units import UnitPlan
from embedsearch.store.writer import StoreWriter, check_creatable, create_store

if TYPE_CHECKING:
    from embedsearch.images.sources.source import Source
    from embedsearch.images.sources.table import UserTable

ExtractorFactory = Callable[[ModelSpec, str, str, Session], PixelExtractor]


def index(
    folders: str | Path | Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    extractor_factory: ExtractorFactory = load_stream_extractor,
    **options: Any,
) -> IndexReport:
    """Bring a store into step with folders of images: embed what is new or changed.

    Without folders, all folders that the store knows are looked through again. `options` are
    fields of IndexConfig: `index("photos", store="photos.es", model="resnet50")`. Raises
    EmbedSearchError; the store then stands at its last committed generation.
    """
    config = replace(config or IndexConfig(), **options)
    listed = listed_folders(folders)
    path = locate_store(store, create=bool(listed) or config.files is not None)
    run = _Run(path, config, session or Session(), on_progress, extractor_factory)
    return run.index(listed)


def plan(
    folders: str | Path | Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    shares: int,
    config: IndexConfig | None = None,
    session: Session | None = None,
    **options: Any,
) -> UnitPlan | None:
    """Cut what `index` would embed into units for `shares` processes or more; see `run_units`.

    What needs no network is done and committed: moved, touched and deleted files. Returns the
    plan, which is open until `commit`, or None where nothing is to be embedded. Raises what
    `index` raises, and StoreLocked while another plan is open.
    """
    config = replace(config or IndexConfig(), **options)
    if shares < 1:
        raise UsageError("a plan is for at least one share")
    check_shareable(config)
    listed = listed_folders(folders)
    path = locate_store(store, create=bool(listed) or config.files is not None)
    run = _Run(path, config, session or Session(), None, load_stream_extractor)
    return run.share_out(listed, shares)


def listed_folders(folders: str | Path | Iterable[str | Path]) -> list[str]:
    """Return what may be one folder or several, as paths."""
    several = [folders] if isinstance(folders, str | Path) else folders
    return [os.fspath(folder) for folder in several]


def asked_model(config: IndexConfig, own: ModelSpec | None, session: Session) -> ModelSpec:
    """Return the model that a config asks for; `own` is what a store or a plan has already."""
    if own is None or config.model != AUTO:
        own = resolve(config.model, session)
    return own.asked(config.input_side, config.flip)


def check_shareable(config: IndexConfig) -> None:
    """Raise UsageError for what the processes of a plan cannot do."""
    if config.rebuild or config.dry_run or config.metadata is not None or config.sidecars:
        raise UsageError(
            "shared work goes with neither --rebuild, which takes a store of its own, nor "
            "--dry-run, nor --metadata and --sidecars, which an index after the commit takes"
        )


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
        self.workers = 0  # decoding processes
        self.side: int | None = None
        self.failures: list[Failure] = []
        self.files: list[str] | None = None
        self.outcome: Counter[str] = Counter()
        self.old_manifest: Manifest | None = None
        self.old_verdicts: Any = None
        self.table: UserTable | None = None
        self.metadata: MetadataReport | None = None

    def index(self, folders: list[str]) -> IndexReport:
        """Check before anything is made, then plan and work under the writer's lock."""
        with self._looking(folders) as (manifest, scope):
            if self.config.dry_run:
                return self._dry_run(manifest, scope)
            with self._writing(folders, manifest, scope) as (writer, now, model):
                return self._sync(writer, now, model)

    def share_out(self, folders: list[str], shares: int) -> UnitPlan | None:
        """Do what needs no network, and leave the rest as a plan; None where nothing is left."""
        with (
            self._looking(folders) as (manifest, scope),
            self._writing(folders, manifest, scope) as (writer, now, model),
        ):
            return self._share_out(writer, now, model, shares)

    @contextmanager
    def _looking(self, folders: list[str]) -> Iterator[tuple[Manifest | None, Scope]]:
        """Give what there is, and what is to be looked through."""
        check_creatable(self.store)
        manifest = self._manifest_or_none()
        self._read_files()
        if not folders and self.files is None and manifest is None:
            raise StoreNotFound(
                f"nothing was committed to {self.store} yet: name the folders to index"
            )
        with Sources(self.config.limits.max_bytes) as self.sources:
            scope = self._scope(folders, manifest)
            if manifest is None and not holds_image(scope, self.sources):
                where = ", ".join(folders) or f"--files {self.config.files}"
                why = "".join(f" ({words})" for words in self.sources.complaints())
                raise NothingIndexed(f"no images found in {where}{why}; no store was made")
            yield manifest, scope

    @contextmanager
    def _writing(
        self, folders: list[str], manifest: Manifest | None, scope: Scope
    ) -> Iterator[tuple[StoreWriter, Scope, ModelSpec]]:
        """Give the writer of the store, made if need be, and what holds under its lock."""
        model = self._model(manifest)
        self._check_factory(model)
        self._read_table()
        create_store(self.store)
        with StoreWriter(self.store, self.config.wait_s, self.session.check) as writer:
            if writer.manifest != manifest:  # another run committed while this one waited
                scope = self._scope(folders, writer.manifest)
                model = self._model(writer.manifest)
            yield writer, scope, model

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
        if not self.config.rebuild or not known:
            return resolve_scope(folders, known, self.files)
        # Rows of two models must not stand side by side: all that is known is embedded anew.
        whole = [*folders, *(root.path for root in known if root.kind is not Kind.LIST)]
        scope = resolve_scope(whole if folders else [], known)
        others = (target for target in scope.targets if target.root.kind is not Kind.LIST)
        return replace(scope, targets=(*others, *self._listed(known)))

    def _listed(self, known: Sequence[Root]) -> Iterator[Target]:
        """Yield the files that lists have named, which the store alone remembers."""
        for root in known:
            if root.kind is Kind.LIST:
                with open_snapshot(self.store) as snapshot:
                    mine = [key for _, home, key in snapshot.live_keys() if home == root.id]
                yield Target(root, files=frozenset(map(os.fsdecode, mine)))

    def _model(self, manifest: Manifest | None) -> ModelSpec:
        """Return the store's model, or the one asked for. Raises IncompatibleStore."""
        own = None if manifest is None else manifest.model
        asked = asked_model(self.config, own, self.session)
        if manifest is None or self.config.rebuild:
            return asked
        if asked.fingerprint != manifest.model.fingerprint:
            raise IncompatibleStore(
                f"{self.store} was made with {manifest.model.name}, not {asked.name} "
                f"({'; '.join(asked.differences(manifest.model))}): leave that out, or embed "
                "everything anew with --rebuild"
            )
        return manifest.model

    def _check_factory(self, model: ModelSpec) -> None:
        """Raise UsageError for a kind of index that there is not, before anything is done."""
        if self.config.ann in (None, AUTO_ANN, EXACT_ANN):
            return
        from embedsearch.searching.ann.build import untrained

        try:
            untrained(self.config.ann, model.dim)
        except ValueError as error:
            raise UsageError(f"--ann {self.config.ann}: {error}") from error

    def _read_files(self) -> None:
        """Read the list of files, all of it: it may come through a pipe."""
        if self.config.files is None:
            return
        from embedsearch.images.sources.listing import read_paths

        if self.config.files == "-":
            self.files = list(read_paths(sys.stdin.buffer))
            return
        try:
            with open(self.config.files, "rb") as file:
                self.files = list(read_paths(file))
        except OSError as error:
            words = error.strerror or error
            raise UsageError(f"--files {self.config.files}: {words}") from error

    def _read_table(self) -> None:
        """Read the user's table before anything is done: it may well be another file than meant."""
        if self.config.metadata is not None:
            from embedsearch.images.sources.table import read_user_table
            from embedsearch.searching.columns import BUILT_IN

            self.table = read_user_table(Path(self.config.metadata), BUILT_IN)

    def _join_table(self, ledger: Ledger, base: Manifest | None) -> None:
        """Give the user's columns to the rows that they name."""
        old = self.old_manifest
        keeps = base is None and old is not None and old.metadata is not None
        if self.table is None and not self.config.sidecars and not keeps:
            return
        from embedsearch.indexing.user_columns import beside, carried, join
        from embedsearch.searching.columns import BUILT_IN

        with Snapshot(self.store, ledger.manifest) as snapshot:
            known = snapshot.metadata()
            if keeps and old is not None:  # the rows of a rebuild have new numbers
                with Snapshot(self.store, old) as before:
                    kept = carried(before)
                if kept is not None:
                    known, _ = join(snapshot, kept, None)
            if self.config.sidecars:
                self.table = beside(snapshot, self._source_of, BUILT_IN)
            if self.table is not None:
                known, self.metadata = join(snapshot, self.table, known)
        if known is not None:
            ledger.set_metadata(known)

    def _source_of(self, root: Root) -> Source:
        return self.sources.open(Target(root))

    def _plan(self, snapshot: Snapshot | None, scope: Scope) -> Plan:
        started = time.monotonic()
        retry = False
        if snapshot is not None:
            self.old_verdicts = snapshot.manifest.run.get("verdicts")
            retry = self.old_verdicts != self._verdict_key()
        known = self.old_manifest
        plan = make_plan(
            snapshot,
            scope,
            self.sources,
            self.session,
            known_roots=() if known is None else {root.id for root in known.roots},
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

    def _planned(
        self, writer: StoreWriter, scope: Scope, model: ModelSpec
    ) -> tuple[Plan, Ledger, Manifest | None]:
        """Return the plan, a ledger with what needs no network, and what it all adds to."""
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
        return plan, ledger, base

    def _share_out(
        self, writer: StoreWriter, scope: Scope, model: ModelSpec, shares: int
    ) -> UnitPlan | None:
        plan, ledger, base = self._planned(writer, scope, model)
        count = len(plan.embed)
        self._check_embeds(model, count)
        roots = self.sources.synced(scope)
        ledger.set_roots(scope.roots if count else roots)
        rows_change = bool(plan.moved or plan.touched or plan.deleted)
        self._commit_if_changed(plan, ledger, base, rows_change=rows_change)
        if not count:
            settle(
                ledger,
                self.config.budget(ledger.manifest.search.budget),
                self._run_record(plan),
                self.session,
            )
            return None
        assert writer.manifest is not None, "it has been committed"
        return cut_plan(
            self.store,
            ((ref, plan.replaced.get((ref.root, ref.key), -1)) for ref in plan.embed),
            count,
            shares,
            writer.manifest,
            roots=roots,
            limits=self.config.limits.verdict_key(),
            run=self._run_record(plan),
            check=self.session.check,
        )

    def _commit_if_changed(
        self, plan: Plan, ledger: Ledger, base: Manifest | None, *, rows_change: bool
    ) -> None:
        old_failures = [] if base is None else read_failures(self.store, base)
        if (
            base is None
            or rows_change
            or ledger.manifest.roots != base.roots
            or set(self.failures) != set(old_failures)
        ):
            ledger.set_failures(self.failures)
            ledger.commit(self._run_record(plan))

    def _sync(self, writer: StoreWriter, scope: Scope, model: ModelSpec) -> IndexReport:
        plan, ledger, base = self._planned(writer, scope, model)
        stopped_by = self._embed(plan, ledger, model, scope)
        ledger.set_roots(scope.roots if stopped_by else self.sources.synced(scope))
        if stopped_by and self._replaces:
            raise Interrupted(
                f"interrupted; the rebuild was dropped, generation {writer.next_generation - 1} "
                "stays as it was",
                stopped_by,
            )
        self._commit_if_changed(plan, ledger, base, rows_change=plan.changes_store)
        if stopped_by:
            raise Interrupted(
                f"interrupted; generation {writer.next_generation - 1} with {ledger.images} "
                "images is committed, the same command goes on from there",
                stopped_by,
            )
        self._join_table(ledger, base)
        started, written_s = time.monotonic(), ledger.write_s
        budget = self.config.budget(ledger.manifest.search.budget)
        settle(ledger, budget, self._run_record(plan), self.session)
        written_s = ledger.write_s - written_s
        self.seconds["tune"] = time.monotonic() - started - written_s
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
        self._check_embeds(model, total)
        if not total:
            return 0
        places = self.sources.places(plan.embed, scope.roots)
        jobs = (DecodeJob(ref, place) for ref, place in places)
        self.side, stop = model.input_side, self.session.stop
        with Pipeline(model.input_side, self.config, jobs, total, stop) as pipeline:
            # The workers start and decode while this process loads the network.
            started = time.monotonic()
            self.extractor = self.extractor_factory(
                model, self.config.device, self.config.precision, self.session
            )
            streaming_since = time.monotonic()
            self.seconds["load"] = streaming_since - started
            for batch in pipeline.embed(self.extractor):
                self._take(batch, plan, ledger)
                self.workers = pipeline.workers
                self.seconds |= pipeline.busy_s()
                self.seconds["write"] = ledger.write_s
                self._tell(total, time.monotonic() - streaming_since)
                # A rebuild commits once: readers keep the old rows until the new are all there.
                if not self._replaces and self._is_due(ledger):
                    ledger.set_failures(self.failures)
                    ledger.commit(self._run_record(plan))
            return self.session.stop()

    def _check_embeds(self, model: ModelSpec, images: int) -> None:
        if images and model.is_foreign:
            raise IncompatibleStore(
                f"no network here makes the vectors of {model.name}, which {images} images need; "
                "--rebuild --model NAME embeds everything anew"
            )

    def _tell(self, total: int, elapsed_s: float) -> None:
        if self.on_progress is None:
            return
        stages = ("read", "decode", "embed", "write")
        busy_s = {name: self.seconds[name] for name in stages}
        done = self.outcome["embedded"] + self.outcome["failed"]
        note = stage_words(busy_s, elapsed_s, self._setup())
        self.on_progress(Progress(done, total, self.outcome["failed"], elapsed_s, note))

    def _setup(self) -> Setup:
        assert self.extractor is not None and self.side is not None
        return Setup(self.extractor.device, self.extractor.precision, self.workers, self.side)

    def _is_due(self, ledger: Ledger) -> bool:
        late = time.monotonic() - ledger.committed_at >= self.config.checkpoint_s
        return late or ledger.images_since_commit >= self.config.checkpoint_images

    def _take(self, batch: Embedded, plan: Plan, ledger: Ledger) -> None:
        """Enter one batch into the ledger, with its failures."""
        refs = batch.images.refs
        if len(refs):
            first = ledger.add(batch.images)
            for row, ref in enumerate(refs, start=first):
                if (old := plan.replaced.get((ref.root, ref.key))) is not None:
                    ledger.replace(old, row)
        self.outcome["embedded"] += len(refs)
        changed = sum((ref.root, ref.key) in plan.replaced for ref in refs)
        self.outcome["changed"] += changed
        self.outcome["added"] += len(refs) - changed
        self.failures += batch.failures
        self.outcome["failed"] += len(batch.failures)
        lost = [(failure.root, failure.key) for failure in batch.failures]
        ledger.delete(plan.replaced[key] for key in lost if key in plan.replaced)

    def _verdict_key(self) -> dict[str, Any]:
        """Return what recorded failures depend on besides the file itself."""
        return {**self.config.limits.verdict_key(), "version": __version__}

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
        handled = self.outcome["embedded"] + self.outcome["failed"]
        stages = ("scan", "load", "read", "decode", "embed", "write", "tune")
        seconds = {stage: self.seconds[stage] for stage in stages}
        elapsed_s = time.monotonic() - self.started
        slowest = slowest_stage(seconds)
        rates = {
            stage: (plan.found if stage == "scan" else handled) / value
            for stage, value in seconds.items()
            if value > 0 and stage not in {"load", "tune"}
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
            scan_failures=plan.scan_failures,
            embedded=self.outcome["embedded"],
            elapsed_s=round(elapsed_s, 3),
            stage_s={stage: round(value, 3) for stage, value in seconds.items()},
            stage_rate={stage: round(value, 1) for stage, value in rates.items()},
            stage_share=shares(seconds, elapsed_s),
            slowest_stage=slowest,
            advice="" if self.extractor is None else advice(slowest, self._setup()),
            workers=self.workers,
            committed=manifest != self.old_manifest,
            metadata=self.metadata,
            dry_run=self.config.dry_run,
        )
