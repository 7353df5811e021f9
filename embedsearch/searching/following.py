"""The generation of a store that answers; in: a store, out: the newest one, open while used."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError, IncompatibleStore, StoreNotFound, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.searching.generation import Generation
from embedsearch.searching.query_vectors import QueryEmbedder
from embedsearch.store.current import current_pointer, read_current
from embedsearch.store.locate import locate_store, url_of
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import open_snapshot

if TYPE_CHECKING:
    from embedsearch.images.original_file import OriginalFiles
    from embedsearch.images.thumbnails import Thumbnailer
    from embedsearch.searching.vectordb.database import VectorDatabase
    from embedsearch.store.mirror import Mirror

_CHECK_EVERY_S = 2.0  # for a newer generation
_CHECK_SERVER_EVERY_S = 30.0  # for one at a URL


@dataclass(frozen=True)
class Settings:
    """What `open_store` was asked for; `for_images`: the first query will be an image."""

    store: str | None
    device: str
    precision: str
    follow: bool
    serve_from: str | None
    for_images: bool = False
    model: str | None = None  # a file of the store's weights, where they are not in the cache


class Decoders:
    """The embedder and decoders for all generations with one model and the same limits."""

    def __init__(
        self, spec: ModelSpec, limits: DecodeLimits, device: str, precision: str, session: Session
    ) -> None:
        self.embedder = QueryEmbedder(spec, limits, device, precision, session)
        self._limits = limits
        self._making = threading.Lock()
        self._thumbnailer: Thumbnailer | None = None
        self._originals: OriginalFiles | None = None

    @property
    def originals(self) -> OriginalFiles:
        """Return what opens original files, created on first use."""
        from embedsearch.images.original_file import OriginalFiles

        with self._making:
            if self._originals is None:
                self._originals = OriginalFiles(self._limits.max_bytes)
            return self._originals

    @property
    def thumbnailer(self) -> Thumbnailer:
        """Return the Thumbnailer, created on first use."""
        from embedsearch.images.thumbnails import Thumbnailer

        with self._making:
            if self._thumbnailer is None:
                self._thumbnailer = Thumbnailer(self._limits)
            return self._thumbnailer

    def close(self) -> None:
        """End the workers."""
        self.embedder.close()
        if self._thumbnailer is not None:
            self._thumbnailer.close()
        if self._originals is not None:
            self._originals.close()


@dataclass(eq=False)
class OpenGeneration:
    """A generation, its decoders, and how many calls use them."""

    generation: Generation
    decoders: Decoders
    users: int = 0


class OpenGenerations:
    """The newest generation of a store, and older ones until the calls that use them end.

    With `follow`, a newer one is opened in the background, and answers once it is open.
    """

    def __init__(
        self,
        store: Path,
        device: str,
        precision: str,
        follow: bool,
        session: Session,
        mirror: Mirror | None = None,
        database: VectorDatabase | None = None,
        *,
        for_images: bool = False,
    ) -> None:
        """Open the newest generation; mirror and database are closed with this.

        With `for_images`, the network is loaded meanwhile.
        """
        self.store = store
        self._device = device
        self._precision = precision
        self._session = session
        self._mirror = mirror  # keeps the folder in sync with a URL
        self._database = database
        # Reentrant: the garbage collector may end an abandoned `answers` at any time.
        self._lock = threading.RLock()
        self._reloading = threading.Lock()  # held while a generation is opened
        self._is_open = True
        self._looked_at = time.monotonic() if follow else None
        self._trouble: str | None = None
        self._seen = current_pointer(store)
        self._current = self._open(None, for_images)

    @property
    def current(self) -> Generation:
        """Return the generation that answers; check for a newer one if that is due."""
        self._look()
        return self._current.generation

    @property
    def trouble(self) -> str | None:
        """Return why a newer generation could not be opened, None if there was no problem."""
        self._look()
        return self._trouble

    @contextmanager
    def using(self) -> Iterator[OpenGeneration]:
        """Yield the generation that answers; it stays open during the block."""
        self._look()
        with self._lock:
            self.check_open()
            opened = self._current
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                is_over = not (self._is_open and opened is self._current)
                is_last = is_over and not opened.users
            if is_last:
                self._release(opened)

    def refresh(self) -> bool:
        """Open the newest generation; return whether it is a new one.

        On StoreNotFound, DamagedStore or IncompatibleStore the old one stays open.
        """
        with self._reloading:
            try:
                if self._mirror is not None:
                    self._mirror.update()
                if (seen := current_pointer(self.store)) == self._seen and self._trouble is None:
                    return False
                opened = self._open(self._current)
            except Exception as error:
                self._trouble = _trouble_of(error)
                raise
            with self._lock:
                stale = opened
                if self._is_open:
                    stale, self._current = self._current, opened
                    self._seen, self._trouble = seen, None
                is_idle = not stale.users
            if is_idle:
                self._release(stale)
            return stale is not opened

    def close(self) -> None:
        """Close everything once the calls in progress have ended. A second close does nothing."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            is_idle = not self._current.users
        if self._mirror is not None:
            self._mirror.close()
        if is_idle:
            self._release(self._current)

    def check_open(self) -> None:
        """Raise StoreNotFound after `close`."""
        if not self._is_open:
            raise StoreNotFound("this Searcher is closed: open the store again")

    def _open(self, before: OpenGeneration | None, for_images: bool = False) -> OpenGeneration:
        """Open the newest generation; reuse the previous decoders if they still fit."""
        snapshot = open_snapshot(self.store)
        spec, limits = snapshot.manifest.model, _limits(snapshot.manifest)
        if before is not None and before.decoders.embedder.fits(spec, limits):
            decoders = before.decoders
        else:
            decoders = Decoders(spec, limits, self._device, self._precision, self._session)
        if for_images and snapshot.manifest.live and not spec.is_foreign:
            decoders.embedder.prepare()
        return OpenGeneration(Generation(snapshot, self._session, self._database), decoders)

    def _release(self, opened: OpenGeneration) -> None:
        """Close a generation that no call will use again."""
        opened.generation.close()
        if self._database is not None and not self._is_open and opened is self._current:
            self._database.close()
        if not self._is_open or opened.decoders is not self._current.decoders:
            opened.decoders.close()

    def _look(self) -> None:
        """If a check is due and there is a newer generation, start to open it."""
        with self._lock:
            now = time.monotonic()
            every_s = _CHECK_EVERY_S if self._mirror is None else _CHECK_SERVER_EVERY_S
            if self._looked_at is None or now - self._looked_at < every_s:
                return
            self._looked_at = now
            if self._reloading.locked():
                return
        is_due = self._mirror is not None or self._trouble is not None
        if is_due or current_pointer(self.store) != self._seen:
            with contextlib.suppress(RuntimeError):  # no thread can be started now: the next look
                follow = threading.Thread(
                    target=self._follow, name="embedsearch-follow", daemon=True
                )
                follow.start()

    def _follow(self) -> None:
        before = self._trouble
        try:
            self.refresh()
        except Exception as error:  # whatever it is: the next look tries again
            if (trouble := _trouble_of(error)) != before:
                self._session.notice(f"still answering from the previous generation: {trouble}")


def open_generations(settings: Settings, session: Session) -> OpenGenerations:
    """Open the newest generation of a store, with what it needs."""
    with ExitStack() as opened:
        mirror = database = None
        if (url := url_of(settings.store)) is not None:
            from embedsearch.store.mirror import Mirror  # a store on the disk needs no bucket

            mirror = opened.enter_context(Mirror(url, session))
            mirror.open()
        if settings.serve_from is not None:
            from embedsearch.searching.vectordb.open import open_database

            database = open_database(settings.serve_from)
            opened.callback(database.close)
        path = locate_store(settings.store) if mirror is None else mirror.folder
        if settings.model is not None:
            _take_weights(settings.model, path, session)
        generations = OpenGenerations(
            path,
            settings.device,
            settings.precision,
            settings.follow,
            session,
            mirror,
            database,
            for_images=settings.for_images,
        )
        opened.pop_all()  # they are closed with the generations
    return generations


def _take_weights(model: str, store: Path, session: Session) -> None:
    """Bring the weights of a store into the cache. Raises IncompatibleStore for other weights."""
    from embedsearch.network.weights import resolve

    own = read_current(store).model
    if own.is_foreign:
        raise UsageError(
            f"model={model}: the store holds vectors of {own.name}, which no network here can "
            "compute",
            "model",
        )
    if (given := resolve(model, session)).weights_sha256 != own.weights_sha256:
        raise IncompatibleStore(
            f"model={model}: these are not the weights of {own.name}, which the store was made "
            f"with (sha256 {given.weights_sha256[:16]}… instead of {own.weights_sha256[:16]}…)",
            "model",
        )


def _trouble_of(error: Exception) -> str:
    """Return why a generation could not be opened, on one line."""
    if isinstance(error, EmbedSearchError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _limits(manifest: Manifest) -> DecodeLimits:
    """Return the limits, raised as in `index` runs, so that any indexed image can be a query."""
    default, recorded = DecodeLimits(), manifest.run.get("limits", {})
    return DecodeLimits(
        max_pixels=max(default.max_pixels, recorded.get("max_pixels", 0)),
        max_bytes=max(default.max_bytes, recorded.get("max_bytes", 0)),
        allow_truncated=recorded.get("allow_truncated", False),
    )
