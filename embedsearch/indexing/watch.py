"""A store kept in sync with folders; in: file system events, out: a run after each quiet period.

watchfiles reports that something changed; the run itself finds what changed, as after a reboot.
A spurious event costs one scan; a missed one is caught by the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsearch.core.config import QUIET_S, IndexConfig
from embedsearch.core.errors import (
    Interrupted,
    MissingLibrary,
    NothingIndexed,
    StoreLocked,
    UsageError,
)
from embedsearch.core.install import pip_install
from embedsearch.core.paths import local_path
from embedsearch.core.records import RootKind
from embedsearch.core.session import Session
from embedsearch.images.sources.folder import SUFFIXES
from embedsearch.images.sources.sidecars import SIDECAR_SUFFIXES
from embedsearch.indexing import sync
from embedsearch.indexing.report import IndexReport
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.locate import locate_store

_MAX_WAIT_S = 60.0  # while changes keep coming
_POLL_MS = 250
_SCAN_S = 10  # between runs where folders can neither be watched nor polled
_RETRY_S = (5.0, 600.0)  # after a temporary read failure: first and longest delay


def watch(
    folders: Sequence[str | Path] = (),
    *,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    quiet_s: float = QUIET_S,
    session: Session | None = None,
    on_report: Callable[[IndexReport], None] = lambda report: None,
) -> None:
    """Index folders, or all that the store knows, and index them again whenever they change.

    `on_report` is called after the first run and after each run that changed the store. Raises
    Interrupted when the session is stopped, MissingLibrary, and what `index` raises; but it waits
    for a folder that vanished and for another writer.
    """
    config = config or IndexConfig()
    if config.dry_run or config.rebuild:
        raise UsageError("watching excludes dry_run and rebuild", "dry_run", "rebuild")
    if not quiet_s > 0:
        raise UsageError("quiet_s must be above 0 seconds", "quiet_s")
    path = locate_store(store, create=bool(folders))
    _Watch(path, config, quiet_s, session or Session(), on_report).run(folders)


@dataclass(frozen=True)
class _Folder:
    """A folder as it was when watching began; a new folder at the same path is another one."""

    path: str
    identity: tuple[int, int] | None  # None: no such folder

    @classmethod
    def at(cls, path: str) -> _Folder:
        try:
            facts = os.stat(path)
        except OSError:
            return cls(path, None)
        return cls(path, (facts.st_dev, facts.st_ino))


@dataclass(eq=False)
class _Watch:
    """The state of one watch."""

    _store: Path
    _config: IndexConfig
    _quiet_s: float
    _session: Session
    _on_report: Callable[[IndexReport], None]
    _polls: bool = False  # files are looked at, as events do not come
    _scans: bool = False  # nor does that work
    _first_change: float | None = None  # since the last run
    _last_change: float = 0.0
    _retry_at: float | None = None
    _retry_s: float = _RETRY_S[0]
    _is_locked: bool = False

    def __post_init__(self) -> None:
        self._table = self._table_state()

    def run(self, folders: Sequence[str | Path]) -> None:
        """Run until the session is stopped."""
        paths = [os.path.realpath(local_path(folder)) for folder in folders]
        self._sync(paths, is_first=True)
        roots = read_current(self._store).roots
        paths = paths or [r.path for r in roots if r.kind is not RootKind.LIST and not r.is_remote]
        while True:
            watched = [_Folder.at(path) for path in paths]
            for folder in watched:
                if folder.identity is None:
                    self._session.notice(
                        f"{folder.path} has vanished: its images stay as they are until it is back"
                    )
            there = [folder.path for folder in watched if folder.identity is not None]
            for _ in self._changes(there):
                if [_Folder.at(path) for path in paths] != watched:
                    self._note_change()
                    break
                if self._is_due():
                    self._sync(there)

    def _changes(self, there: list[str]) -> Iterator[None]:
        """Note changes in folders, and yield every quarter of a second."""
        if not there:
            while True:
                self._check()
                time.sleep(_POLL_MS / 1e3)
                yield
        if self._scans:
            yield from self._scan_times()
        watch_files = _watch_files()
        try:
            for changes in watch_files(
                *there,
                watch_filter=None,
                debounce=2 * _POLL_MS,
                step=_POLL_MS // 2,
                rust_timeout=_POLL_MS,
                yield_on_timeout=True,
                raise_interrupt=False,
                force_polling=self._polls or None,
                ignore_permission_denied=True,
            ):
                self._check()
                if any(self._counts(path, there) for _, path in changes):
                    self._note_change()
                if (table := self._table_state()) != self._table:
                    self._table = table
                    self._note_change()
                yield
        except FileNotFoundError:  # a folder vanished before it was watched
            self._note_change()
        except (OSError, RuntimeError) as error:
            self._note_change()  # what came while nobody watched
            every_s = _SCAN_S if self._polls else 1
            self._session.notice(f"scanning the folders every {every_s} s: {error}")
            self._polls, self._scans = True, self._polls

    def _scan_times(self) -> Iterator[None]:
        """Note a change every _SCAN_S seconds: the run itself finds what changed."""
        next_scan = time.monotonic() + _SCAN_S
        while True:
            self._check()
            time.sleep(_POLL_MS / 1e3)
            if time.monotonic() >= next_scan:
                self._note_change()
                next_scan = time.monotonic() + _SCAN_S
            yield

    def _check(self) -> None:
        if number := self._session.stop():
            raise Interrupted("no longer watching", number)

    def _counts(self, path: str, roots: list[str]) -> bool:
        """Return whether a change of this path may affect an image or a whole folder."""
        if path in roots and not os.path.isdir(path):  # a file that holds images
            return True
        if path == str(self._store) or path.startswith(f"{self._store}/"):
            return False
        inside = next((path[len(root) :] for root in roots if path.startswith(root + "/")), "")
        if any(part.startswith(".") and not part.startswith("..") for part in inside.split("/")):
            return False
        if os.fsencode(suffix := path.rpartition(".")[2].strip().lower()) in SUFFIXES:
            return True
        if self._config.sidecars and suffix in SIDECAR_SUFFIXES:
            return True
        return os.path.isdir(path) or not os.path.lexists(path)  # it may have been a folder

    def _table_state(self) -> tuple[int, int] | None:
        if self._config.metadata is None:
            return None
        try:
            facts = os.stat(self._config.metadata)
        except OSError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def _note_change(self) -> None:
        self._last_change = time.monotonic()
        if self._first_change is None:
            self._first_change = self._last_change

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._first_change is not None:
            is_quiet = now - self._last_change >= self._quiet_s
            return is_quiet or now - self._first_change >= _MAX_WAIT_S
        return self._retry_at is not None and now >= self._retry_at

    def _sync(self, folders: list[str], *, is_first: bool = False) -> None:
        """Sync the store, and note when to scan again."""
        self._first_change = self._retry_at = None
        try:
            report = sync.index(
                folders, store=self._store, config=self._config, session=self._session
            )
        except StoreLocked as error:
            if is_first:
                raise
            if not self._is_locked:
                self._session.notice(f"waiting: {error}")
            self._is_locked = True
            self._note_change()
            return
        except NothingIndexed:  # all images are gone, or there is none yet
            return
        except UsageError as error:  # a folder vanished meanwhile, or is suddenly empty
            if is_first:
                raise
            self._session.notice(f"the store was left unchanged: {error}")
            return
        self._is_locked = False
        if is_first or report.committed:
            self._on_report(report)
        passing = [item for _, item in failures(self._store) if item.reason.is_passing]
        if passing or report.scan_failures:
            self._retry_s = _RETRY_S[0] if report.committed else min(2 * self._retry_s, _RETRY_S[1])
            self._retry_at = time.monotonic() + self._retry_s


def _watch_files() -> Any:
    try:
        from watchfiles import watch as watch_files
    except ImportError as error:
        raise MissingLibrary(f"watch needs a library: {pip_install('watchfiles')}") from error
    return watch_files
