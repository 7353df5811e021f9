"""Power cuts: every state that a disk may be in afterwards, made and opened.

A run is recorded, call by call. After each call a disk may hold what was flushed and nothing
else, or names without their bytes, or bytes without their names, or any part of either.
In: a scene; out: each of those states, examined as after a kill.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.finding import Finding, Trial
from tests.soak.forge import Report, forked
from tests.soak.kills import run_again
from tests.soak.scenes import Scene, all_scenes
from tests.soak.witness import examine

_RANDOM_STATES = 4  # more of each moment: any of what is not flushed, by chance
_BATCH = 40  # states a child examines
_AGAIN = 25  # of so many states one is run again to its end
Call = tuple[Any, ...]


@dataclass
class _File:
    """Bytes as written, and as they are on the disk for sure."""

    now: bytes = b""
    safe: bytes = b""


@dataclass
class _Disk:
    """What a file system holds, and what of it would outlast a power cut.

    Folders map names to files, or to None for folders, by path; `pending` are changes of names
    that their folder was not flushed after, in their order.
    """

    now: dict[str, _File | None] = field(default_factory=dict)
    safe: dict[str, _File | None] = field(default_factory=dict)
    pending: list[tuple[str, str, _File | None]] = field(default_factory=list)
    open_files: dict[int, _File] = field(default_factory=dict)
    open_folders: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> _Disk:
        """Return a disk on which all of a folder is safe."""
        disk = cls()
        for path in sorted(folder.rglob("*")):
            data = None if path.is_dir() else _File(path.read_bytes(), path.read_bytes())
            disk.now[str(path.relative_to(folder))] = data
        disk.safe = dict(disk.now)
        return disk

    def apply(self, call: Call) -> None:
        """Let one recorded call happen."""
        name, *arguments = call
        getattr(self, f"_{name}")(*arguments)

    def _open(self, path: str, descriptor: int, is_new: bool, is_folder: bool) -> None:
        if is_folder:
            self.open_folders[descriptor] = path
            return
        if is_new:
            self._set(path, _File())
        file = self.now[path]
        assert file is not None, "a folder is not written to"
        self.open_files[descriptor] = file

    def _write(self, descriptor: int, offset: int | None, data: bytes) -> None:
        file = self.open_files[descriptor]
        at = len(file.now) if offset is None else offset
        file.now = file.now[:at].ljust(at, b"\0") + data + file.now[at + len(data) :]

    def _truncate(self, descriptor: int, size: int) -> None:
        file = self.open_files[descriptor]
        file.now = file.now[:size].ljust(size, b"\0")

    def _fsync(self, descriptor: int) -> None:
        if descriptor in self.open_folders:
            self._flush_folder(self.open_folders[descriptor])
        else:
            self.open_files[descriptor].safe = self.open_files[descriptor].now

    def _close(self, descriptor: int) -> None:
        self.open_files.pop(descriptor, None)
        self.open_folders.pop(descriptor, None)

    def _rename(self, old: str, new: str) -> None:
        file = self.now.pop(old)
        self.now[new] = file
        self.pending.append(("rename", f"{old}\0{new}", file))

    def _unlink(self, path: str) -> None:
        self._set(path, self.now[path], gone=True)

    def _mkdir(self, path: str) -> None:
        self._set(path, None)

    def _set(self, path: str, file: _File | None, *, gone: bool = False) -> None:
        if gone:
            del self.now[path]
        else:
            self.now[path] = file
        self.pending.append(("gone" if gone else "set", path, file))

    def _flush_folder(self, folder: str) -> None:
        """Flush the names of one folder; a rename belongs to both its folders."""
        left = []
        for change in self.pending:
            paths = change[1].split("\0")
            if any(os.path.dirname(path) == folder for path in paths):
                _change(self.safe, change)
            else:
                left.append(change)
        self.pending = left

    def states(self, rng: random.Random) -> Iterator[dict[str, bytes | None]]:
        """Yield what may be found on the disk after a power cut now."""
        yield _contents(self.safe, lambda file: file.safe)
        yield _contents(self.now, lambda file: file.safe)
        yield _contents(self.safe, lambda file: file.now)
        yield _contents(self.now, lambda file: file.now[: max(len(file.safe), len(file.now) // 2)])
        for _ in range(_RANDOM_STATES):
            names = dict(self.safe)
            for change in self.pending:
                if rng.random() < 0.5:
                    _change(names, change)
            yield _contents(names, lambda file: _torn(file, rng))


def _change(names: dict[str, _File | None], change: tuple[str, str, _File | None]) -> None:
    kind, path, file = change
    if kind == "gone":
        names.pop(path, None)
    elif kind == "set":
        names[path] = file
    else:
        old, new = path.split("\0")
        names.pop(old, None)
        names[new] = file


def _torn(file: _File, rng: random.Random) -> bytes:
    """Return the safe bytes, all bytes, or some of those that are not safe, in pages."""
    if file.now == file.safe or rng.random() < 0.3:
        return file.safe
    data = bytearray(file.now)
    for start in range(0, len(data), 4096):
        if rng.random() < 0.3:
            page = file.safe[start : start + 4096].ljust(4096, b"\0")
            data[start : start + 4096] = page[: len(data) - start]
    return bytes(data)


def _contents(
    names: dict[str, _File | None], data: Callable[[_File], bytes]
) -> dict[str, bytes | None]:
    """Return the files that can be reached: one in a lost folder is lost with it."""
    found: dict[str, bytes | None] = {}
    for path, file in sorted(names.items()):
        parent = os.path.dirname(path)
        if not parent or (parent in found and found[parent] is None):
            found[path] = None if file is None else data(file)
    return found


class _Recorder:
    """Note what a process does to the files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[Call] = []
        self._folder = str(folder) + "/"
        self._ours: set[int] = set()
        for name in ("open", "write", "pwrite", "ftruncate", "fsync", "close"):
            setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
        for name in ("rename", "replace", "unlink", "remove", "mkdir"):
            setattr(os, name, self._names(name, getattr(os, name)))

    def acknowledged(self, value: object) -> None:
        self.calls.append(("acknowledged", value))

    def _inside(self, path: Any) -> str | None:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        is_inside = (text + "/").startswith(self._folder)
        return (text + "/").removeprefix(self._folder).rstrip("/") if is_inside else None

    def _open(self, real: Any) -> Any:
        def call(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            mine = self._inside(path)
            is_new = mine is not None and bool(flags & os.O_CREAT) and not os.path.exists(path)
            descriptor: int = real(path, flags, *rest, **named)
            if mine is not None and (flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY)):
                self._ours.add(descriptor)
                folder = bool(flags & os.O_DIRECTORY)
                self.calls.append(("open", mine, descriptor, is_new, folder))
            return descriptor

        return call

    def _write(self, real: Any) -> Any:
        def call(descriptor: int, data: Any) -> int:
            count: int = real(descriptor, data)
            if descriptor in self._ours:
                self.calls.append(("write", descriptor, None, bytes(data)[:count]))
            return count

        return call

    def _pwrite(self, real: Any) -> Any:
        def call(descriptor: int, data: Any, offset: int) -> int:
            count: int = real(descriptor, data, offset)
            if descriptor in self._ours:
                self.calls.append(("write", descriptor, offset, bytes(data)[:count]))
            return count

        return call

    def _ftruncate(self, real: Any) -> Any:
        def call(descriptor: int, size: int) -> None:
            real(descriptor, size)
            if descriptor in self._ours:
                self.calls.append(("truncate", descriptor, size))

        return call

    def _fsync(self, real: Any) -> Any:
        def call(descriptor: int) -> None:
            real(descriptor)
            if descriptor in self._ours:
                self.calls.append(("fsync", descriptor))

        return call

    def _close(self, real: Any) -> Any:
        def call(descriptor: int) -> None:
            real(descriptor)
            if descriptor in self._ours:
                self._ours.discard(descriptor)
                self.calls.append(("close", descriptor))

        return call

    def _names(self, name: str, real: Any) -> Any:
        kind = {"replace": "rename", "remove": "unlink"}.get(name, name)

        def call(*paths: Any, **named: Any) -> None:
            real(*paths, **named)
            inside = [self._inside(path) for path in paths if not isinstance(path, int)]
            if inside[0] is not None:
                self.calls.append((kind, *inside))

        return call


@dataclass(frozen=True)
class _State:
    """What a disk may hold after a cut: files, None for folders; and what was acknowledged."""

    where: str
    files: dict[str, bytes | None]
    acknowledged: list[tuple[int, int]]

    def lay(self, folder: Path) -> None:
        """Write it out."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path, data in self.files.items():
            if data is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(data)


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Cut the power after `share` of the calls of every scene."""
    for scene in all_scenes(folder, trial.scenes):
        _cut(trial, finding, scene, folder)


def _cut(trial: Trial, finding: Finding, scene: Scene, folder: Path) -> None:
    disk_folder = folder / "disk"
    shutil.rmtree(disk_folder, ignore_errors=True)
    disk_folder.mkdir()
    scene.copy(disk_folder / "s.es")
    disk = _Disk.of(disk_folder)

    def record(report: Report) -> list[Call]:
        recorder = _Recorder(disk_folder)
        scene.run(disk_folder / "s.es", trial.mutant, recorder.acknowledged)
        return recorder.calls

    ended = forked(record)
    if ended.has_failed:
        finding.accuse(f"{scene.name}: {ended.words} {ended.trace}")
        return
    rng = trial.random()
    acknowledged: list[tuple[int, int]] = []
    states: list[_State] = []
    for number, call in enumerate(ended.value):
        if call[0] == "acknowledged":
            acknowledged = [*acknowledged, call[1]]
        else:
            disk.apply(call)
        if number % trial.every() == trial.seed % trial.every() or call[0] == "acknowledged":
            for kind, state in enumerate(disk.states(rng)):
                where = f"{scene.name}, cut {number} ({call[0]} {str(call[1])[:60]}), state {kind}"
                states.append(_State(where, state, acknowledged))
            finding.count("power cuts")
    for start in range(0, len(states), _BATCH):
        some = states[start : start + _BATCH]

        def examined(_: Report, some: list[_State] = some) -> list[str]:
            return _examine(some, scene, folder / "state")

        done = forked(examined)
        finding.count("states", len(some))
        if done.has_failed:
            finding.accuse(f"{some[0].where} and after: {done.words} {done.trace}")
        for words in done.value or []:
            finding.accuse(words)
    for again in states[::_AGAIN]:
        finding.count("states run again")
        again.lay(folder / "state")
        run_again(finding, scene, folder / "state" / "s.es", again.where)


def _examine(states: list[_State], scene: Scene, folder: Path) -> list[str]:
    """In a child: return what is wrong with each state."""
    found = []
    for state in states:
        state.lay(folder)
        try:
            account = examine(folder / "s.es", without_cache=scene.without_cache)
        except Exception as error:
            found.append(f"{state.where}: {type(error).__name__}: {error}")
            continue
        if words := scene.judge(account, state.acknowledged):
            found.append(f"{state.where}: {words}")
    return found
