"""What a run of `index` works on; in: folders and a config, out: a frozen Job under the lock."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsearch._version import __version__
from embedsearch.core.config import AUTO_ANN, EXACT_ANN, IndexConfig
from embedsearch.core.errors import (
    IncompatibleStore,
    NothingIndexed,
    StoreNotFound,
    UsageError,
    WeightsUnavailable,
)
from embedsearch.core.model_spec import DECODING, ModelSpec
from embedsearch.core.paths import is_url, local_path
from embedsearch.core.records import RootKind
from embedsearch.core.session import Session
from embedsearch.core.unknown_fields import replaced
from embedsearch.core.walks import Excludes
from embedsearch.images.sources.exclusion import WalkRules, below_roots
from embedsearch.images.sources.kinds import optional_readers
from embedsearch.images.sources.passed_over import FIELDS, passed_over
from embedsearch.images.tables.text_file import WAY_OUT
from embedsearch.indexing.bottleneck import StageClock
from embedsearch.indexing.changes import Changes, find_changes
from embedsearch.indexing.same_files import is_walked
from embedsearch.indexing.scope import ScanTarget, Scope, Sources, passed_over_by, resolve_scope
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.network.catalog import AUTO
from embedsearch.network.runtime import check_runs
from embedsearch.network.weights import resolve
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import FORMAT_NAME
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot, open_snapshot
from embedsearch.store.writer import StoreWriter, check_creatable, create_store

if TYPE_CHECKING:
    from embedsearch.images.tables.table import UserTable


@dataclass(frozen=True)
class Request:
    """What a run was requested to do, and the state of the store before it was locked."""

    store: Path
    config: IndexConfig
    session: Session
    sources: Sources
    folders: tuple[str, ...]
    files: tuple[str, ...] | None
    manifest: Manifest | None
    scope: Scope

    @property
    def replaces(self) -> bool:
        """Return whether the run replaces all rows of a store."""
        return self.config.rebuild and self.manifest is not None

    def find_changes(self, snapshot: Snapshot | None) -> Changes:
        """Compare the scope with the rows of a snapshot; a rebuild and a new store have none."""
        roots = () if self.manifest is None else self.manifest.roots
        retry = snapshot is not None and (
            snapshot.manifest.run.get("verdicts") != verdict_key(self.config)
        )
        return find_changes(
            snapshot,
            self.scope,
            self.sources,
            self.session,
            known_roots=frozenset(root.id for root in roots),
            rebuild=self.replaces,
            retry_failures=retry,
            allow_empty=self.config.allow_empty,
        )


@dataclass(frozen=True)
class Job(Request):
    """A request whose store is locked: `manifest` is the current one."""

    writer: StoreWriter
    model: ModelSpec
    table: UserTable | None  # the user's columns

    @property
    def base(self) -> Manifest | None:
        """Return the generation that the run adds to; a rebuild adds to none."""
        return None if self.config.rebuild else self.manifest

    def open_base(self) -> AbstractContextManager[Snapshot | None]:
        """Open the rows that the run adds to, if there are any."""
        return nullcontext() if self.base is None else open_snapshot(self.store)

    def begin(self, clock: StageClock) -> tuple[Changes, StoreUpdate]:
        """Find the changes, and apply those that need no network to a new update."""
        with self.open_base() as snapshot:
            with clock.measure("scan"):
                changes = self.find_changes(snapshot)
            check_embeddable(self.model, len(changes.embed))
            update = StoreUpdate(
                self.writer,
                self.model,
                self.scope.roots,
                rebuild=self.config.rebuild,
                center=self.config.center,
            )
            update.set_rules(self.sources.rules)
            update.apply(changes, snapshot)
        return changes, update


def prepare(
    folders: str | Path | Iterable[str | Path],
    store: str | Path | None,
    config: IndexConfig,
    session: Session,
    sources: Sources,
) -> Request:
    """Check what can be checked before anything is written. Raises EmbedSearchError."""
    listed = listed_folders(folders)
    path = locate_store(store, create=bool(listed) or config.files is not None)
    check_creatable(path)
    manifest = _manifest_or_none(path)
    files = _read_files(config)
    if not listed and files is None and manifest is None:
        raise StoreNotFound(f"nothing was committed to {path} yet: name the folders to index")
    scope = _resolve(path, config, listed, files, manifest, sources)
    if manifest is None and (ignored := passed_over_by(scope, sources)) is not None:
        where = ", ".join(listed) or f"files {config.files}"
        why = "".join(f" ({complaint})" for complaint in sources.complaints())
        held = f"; passed over: {words}" if (words := passed_over(ignored)) else ""
        fields = [field for field in FIELDS if f"{field}=" in held]
        named = fields if listed else ["files", *fields]
        raise NothingIndexed(f"no images found in {where}{why}; no store was made{held}", *named)
    return Request(path, config, session, sources, tuple(listed), files, manifest, scope)


@contextmanager
def open_job(request: Request, *, for_units: bool = False) -> Iterator[Job]:
    """Lock the store for as long as the block lasts; create it if necessary.

    For units, on many machines, raises WeightsUnavailable where only the packaged network is left:
    nobody would see the notice.
    """
    config, session = request.config, request.session
    model = store_model(request.store, config, request.manifest, session)
    if for_units and model.stands_in_for:
        raise WeightsUnavailable(
            f"{model.stands_in_for} could not be had, and all units would be embedded with the "
            f"small packaged network: get it with embedsearch prepare {model.stands_in_for}, or "
            "choose model=packaged",
            "model",
        )
    _check_factory(config, model)
    table = _read_table(config, session)
    create_store(request.store)
    with StoreWriter(request.store, config.wait_s, session) as writer:
        scope = request.scope
        if writer.manifest != request.manifest:  # another run committed while this one waited
            scope = _resolve(
                *(request.store, config, request.folders, request.files, writer.manifest),
                request.sources,
            )
            model = store_model(request.store, config, writer.manifest, session)
        locked = vars(request) | {"manifest": writer.manifest, "scope": scope}
        yield Job(**locked, writer=writer, model=model, table=table)


def listed_folders(folders: str | Path | Iterable[str | Path]) -> list[str]:
    """Return one folder or several as a list of paths."""
    several = [folders] if isinstance(folders, str | Path) else folders
    return [os.fspath(folder) for folder in several]


def requested_model(config: IndexConfig, own: ModelSpec | None, session: Session) -> ModelSpec:
    """Return the model that a config requests; `own` is that of a store or a plan."""
    if own is None or config.model != AUTO:
        named = resolve(config.model, session)
        if own is None or config.rebuild or named.weights_sha256 != own.weights_sha256:
            own = named  # else the store keeps the input and the pooling that it was made with
        own = replaced(own, stands_in_for=named.stands_in_for)  # named: it is what is wanted
    return own.asked(config.input_side, config.flip)


def store_model(
    store: Path, config: IndexConfig, manifest: Manifest | None, session: Session
) -> ModelSpec:
    """Return the model of a store, or the requested one for a new store.

    Raises IncompatibleStore if they differ.
    """
    own = None if manifest is None else manifest.model
    requested = requested_model(config, own, session)
    check_runs(requested, config.device, config.precision)
    if own is None or config.rebuild:
        return requested if requested.is_foreign else replace(requested, decoding=DECODING)
    if requested.fingerprint != own.fingerprint:
        raise IncompatibleStore(
            f"{store} was made with {own.name}, and what is asked for now differs "
            f"({'; '.join(requested.differences(own))}): leave out the options that differ, or "
            "re-embed everything with rebuild=True",
            "rebuild",
        )
    if own.decoding != DECODING and not own.is_foreign:
        session.notice(
            f"{store} was made by an older version, which saw some pictures otherwise (color "
            "profiles, 10 to 14 bits, transparency): `embedsearch index --rebuild` re-embeds them"
        )
    return replaced(own, stands_in_for=requested.stands_in_for)


def check_embeddable(model: ModelSpec, images: int) -> None:
    """Raise IncompatibleStore if images must be embedded and no network here can do it."""
    if images and model.is_foreign:
        raise IncompatibleStore(
            f"{images} images need vectors of {model.name}, which no network here can compute; "
            "rebuild=True with another model re-embeds everything",
            "rebuild",
        )


def verdict_key(config: IndexConfig) -> dict[str, Any]:
    """Return the settings that recorded failures depend on, besides the file itself."""
    facts = {"version": __version__, "decoding": DECODING, "readers": optional_readers()}
    return {**config.limits.verdict_key(), **facts}


def _manifest_or_none(store: Path) -> Manifest | None:
    if not (store / FORMAT_NAME).exists():
        return None
    check_format(store)
    try:
        return read_current(store)
    except StoreNotFound:
        return None


def _read_files(config: IndexConfig) -> tuple[str, ...] | None:
    """Read the list of files to its end: it may come through a pipe."""
    if config.files is None:
        return None
    from embedsearch.images.sources.listing import read_paths

    if config.files == "-":
        return tuple(read_paths(sys.stdin.buffer))
    try:
        with open(local_path(config.files), "rb") as file:
            return tuple(read_paths(file))
    except OSError as error:
        raise UsageError(f"files {config.files}: {error.strerror or error}", "files") from error


def _read_table(config: IndexConfig, session: Session) -> UserTable | None:
    """Read the user's table before anything is done: it may be the wrong file."""
    if config.metadata is None:
        return None
    from embedsearch.images.tables.table import read_user_table, user_table_of
    from embedsearch.searching.columns import BUILT_IN

    if not isinstance(config.metadata, str):
        return user_table_of(config.metadata, BUILT_IN)
    table = read_user_table(Path(local_path(config.metadata)), BUILT_IN)
    if table.encoding:
        session.notice(
            f"{config.metadata} is not UTF-8 and was read as {table.encoding}; if letters look "
            f"wrong, convert it and index again: {WAY_OUT}"
        )
    return table


def _check_factory(config: IndexConfig, model: ModelSpec) -> None:
    """Raise UsageError for a kind of search index that does not exist."""
    if config.ann in (None, AUTO_ANN, EXACT_ANN):
        return
    from embedsearch.searching.ann.build import untrained

    try:
        untrained(config.ann, model.dim)
    except ValueError as error:
        raise UsageError(f"ann {config.ann}: {error}", "ann") from error


def _resolve(
    store: Path,
    config: IndexConfig,
    folders: Sequence[str],
    files: Sequence[str] | None,
    manifest: Manifest | None,
    sources: Sources,
) -> Scope:
    """Return what to scan, and set how; a rebuild scans all that the store knows."""
    known = () if manifest is None else manifest.roots
    before = Excludes() if manifest is None else manifest.excludes
    places = [*(root.path for root in known), *map(_whole, folders)]
    real = map(os.path.realpath, filter(os.path.isabs, places))
    patterns = below_roots(config.exclude, {*places, *real})
    excludes = replace(config, exclude=patterns).excludes(before)
    follow = config.follow_links
    if follow is None:
        follow = manifest is None or manifest.follow_links
    rules = WalkRules(follow, excludes=excludes)
    if excludes != before:  # an archive that did not change has other images now
        known = tuple(replaced(root, synced="") for root in known)
    if not config.rebuild or not known:
        scope = resolve_scope(folders, known, files, rules)
    else:  # rows of two models must not be mixed
        whole = [*folders, *(root.path for root in known if root.kind is not RootKind.LIST)]
        scope = resolve_scope(whole if folders else [], known, None, rules)
        scope = replace(scope, targets=tuple(_with_listed(store, scope, rules)))
    walked = tuple(root.path for root in scope.roots if root.is_folder_here)
    sources.rules = replace(rules, folders=walked)
    return scope


def _whole(folder: str) -> str:
    path = local_path(folder)
    return path if is_url(path) else os.path.abspath(path)


def _with_listed(store: Path, scope: Scope, rules: WalkRules) -> Iterator[ScanTarget]:
    """Yield the targets, and with those of lists what only the store remembers.

    What a folder of the store comes to is there already.
    """
    yield from (target for target in scope.targets if target.root.kind is not RootKind.LIST)
    for root in scope.roots:
        if root.kind is RootKind.LIST:
            with open_snapshot(store) as snapshot:
                keys = [
                    key
                    for _, home, key in snapshot.live_keys()
                    if home == root.id and not is_walked("/" + os.fsdecode(key), scope, rules)
                ]
            named = (t.files for t in scope.targets if t.root == root and t.files is not None)
            yield ScanTarget(root, files=frozenset(map(os.fsdecode, keys)).union(*named))
