"""A store kept in sync with folders; in: file system events, out: a run after each quiet period.

watchfiles reports that something changed; the run itself finds what changed, as after a reboot.
A spurious event costs one scan; a missed one is caught by the next look through the folders. That
no event comes does not mean that nothing changed: what others write on a network file system, or
below an overlay, is told to nobody.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsearch.core.arguments import checked
from embedsearch.core.config import QUIET_S, IndexConfig
from embedsearch.core.errors import (
    Interrupted,
    MissingLibrary,
    NothingIndexed,
    StoreLocked,
    UsageError,
)
from embedsearch.core.install import install_command
from embedsearch.core.paths import is_url, local_path, printable
from embedsearch.core.records import RootKind
from embedsearch.core.session import Session
from embedsearch.images.sources.kinds import Kind, kind_of, suffix_of
from embedsearch.images.sources.sidecars import SIDECAR_SUFFIXES
from embedsearch.indexing import sync
from embedsearch.indexing.report import IndexReport
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.locate import locate_store
from embedsearch.store.lock import file_system

_MAX_WAIT_S = 60.0  # while changes keep coming
_POLL_MS = 250
_SCAN_S = 10.0  # between looks where folders can neither be watched nor polled
_LOOK_S, _BLIND_LOOK_S = 300.0, 5.0  # between looks; where others' changes bring no events
_LOOK_SHARE = 0.1  # of the time, at most, that goes into looks
# File systems whose files others change without an event here, besides all of FUSE.
_BLIND = frozenset(
    b"9p afs beegfs ceph cifs coda drvfs fakeowner fuse gfs2 glusterfs gpfs lustre ncpfs nfs nfs4"
    b" ocfs2 orangefs overlay prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs".split()
)
_RETRY_S = (5.0, 600.0)  # after a temporary read failure: first and longest delay


@checked
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
    _watch_files()  # a first run may take hours: what is missing is said before it
    if remote := [str(folder) for folder in folders if is_url(local_path(folder))]:
        raise UsageError(f"{remote[0]} cannot be watched: only folders of this machine can")
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
    _look_at: float = 0.0  # when to look through the folders, whether or not events came
    _run_s: float = 0.0  # how long the last run took that changed nothing
    _is_blind: bool = False  # changes may bring no events

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
            self._plan_look(there)
            for _ in self._changes(there):
                if [_Folder.at(path) for path in paths] != watched:
                    self._note_change()
                    break
                if self._is_due():
                    self._sync(there)
                    self._plan_look(there)

    def _changes(self, there: list[str]) -> Iterator[None]:
        """Note changes in folders, and yield every quarter of a second."""
        while not there or self._scans:
            self._check()
            time.sleep(_POLL_MS / 1e3)
            yield
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
            every_s = _SCAN_S if self._polls else 1.0
            self._session.notice(f"scanning the folders every {every_s:g} s: {error}")
            self._polls, self._scans = True, self._polls

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
        name = os.fsencode(os.path.basename(path))
        if kind_of(name) in {Kind.IMAGE, Kind.UNKNOWN}:
            return True
        if self._config.sidecars and suffix_of(name).decode(errors="replace") in SIDECAR_SUFFIXES:
            return True
        return os.path.isdir(path) or not os.path.lexists(path)  # it may have been a folder

    def _table_state(self) -> tuple[int, int] | None:
        if not isinstance(self._config.metadata, str):
            return None
        try:
            facts = os.stat(local_path(self._config.metadata))
        except OSError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def _plan_look(self, folders: list[str]) -> None:
        """Choose when to look next: soon where changes may bring no events."""
        if not folders:  # all have vanished: that they are back is noticed by itself
            self._look_at = math.inf
            return
        kinds = {folder: file_system(Path(folder)) for folder in folders}
        blind = {folder: kind.decode() for folder, kind in kinds.items() if _is_blind(kind)}
        every_s = _BLIND_LOOK_S if blind else _SCAN_S if self._scans else _LOOK_S
        if self._config.poll_s is not None:
            every_s = self._config.poll_s
        elif blind and not self._is_blind:
            folder, kind = next(iter(blind.items()))
            self._session.notice(
                f"{printable(folder)} is on a file system ({kind}) that does not tell of all "
                f"changes: it is looked through every {every_s:g} s, or as often as a look takes "
                "a tenth of the time"
            )
        self._is_blind = bool(blind)
        slow_s = 0.0 if self._config.poll_s is not None else self._run_s / _LOOK_SHARE
        self._look_at = time.monotonic() + max(every_s, slow_s)

    def _note_change(self) -> None:
        self._last_change = time.monotonic()
        if self._first_change is None:
            self._first_change = self._last_change

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now >= self._look_at:
            return True
        if self._first_change is not None:
            is_quiet = now - self._last_change >= self._quiet_s
            return is_quiet or now - self._first_change >= _MAX_WAIT_S
        return self._retry_at is not None and now >= self._retry_at

    def _sync(self, folders: list[str], *, is_first: bool = False) -> None:
        """Sync the store, and note when to scan again."""
        self._first_change = self._retry_at = None
        started = time.monotonic()
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
        if not report.committed:
            self._run_s = time.monotonic() - started
        self._is_locked = False
        if is_first or report.committed:
            self._on_report(report)
        passing = [item for _, item in failures(self._store) if item.reason.is_passing]
        if passing or report.scan_failures:
            self._retry_s = _RETRY_S[0] if report.committed else min(2 * self._retry_s, _RETRY_S[1])
            self._retry_at = time.monotonic() + self._retry_s


def _is_blind(kind: bytes) -> bool:
    """Return whether changes on a file system may bring no events."""
    return kind in _BLIND or kind.startswith(b"fuse.")


def _watch_files() -> Any:
    try:
        from watchfiles import watch as watch_files
    except ImportError as error:
        raise MissingLibrary(f"watch needs a library: {install_command('watchfiles')}") from error
    return watch_files
