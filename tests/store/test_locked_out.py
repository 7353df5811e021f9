"""What a file system lacks, or has beside a store, keeps nobody out of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from pathlib import Path

import pytest

import embedsearch
from embedsearch.core import atomic
from embedsearch.core.errors import StorageError, StoreLocked, UsageError
from embedsearch.core.session import Session
from embedsearch.store import lock
from embedsearch.store.check import check_store
from embedsearch.store.lock import WriterLock
from embedsearch.store.writer import create_store
from tests.support.library import Library, counts


def note_of_another_host(store: Path, age_s: float = 60.0) -> None:
    note = {"pid": 7, "host": "elsewhere", "time": time.time() - age_s}
    (store / "writer.lock").write_text(json.dumps(note))


def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, device: str = "") -> None:
    """Have the system say that all is one file system of a kind."""
    number = os.stat(tmp_path).st_dev
    device = device or f"{os.major(number)}:{os.minor(number)}"
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 {device} / / rw,relatime shared:1 - {kind} /dev/x rw\nodd line\n")
    monkeypatch.setattr(lock, "_MOUNTS", table)


@pytest.mark.parametrize("device", ["", "0:99"])  # a subvolume has a device of its own
def test_on_a_local_disk_the_kernel_decides(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_store(store := tmp_path / "s.es")
    note_of_another_host(store)
    mounts(monkeypatch, tmp_path, "ext4", device)
    WriterLock(store).release()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p", "virtiofs", ""])
def test_elsewhere_the_message_names_the_way_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_store(store := tmp_path / "s.es")
    note_of_another_host(store)
    mounts(monkeypatch, tmp_path, kind)
    if not kind:
        monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "nothing")
    said: list[str] = []
    with pytest.raises(StoreLocked, match=r"elsewhere.*delete .*writer\.lock") as caught:
        WriterLock(store, 0.3, notice=said.append)
    assert len(said) == 1 and said[0].startswith("waiting: ")
    assert "wait_s" in str(caught.value)
    (store / "writer.lock").unlink()
    WriterLock(store).release()


def test_a_lock_file_that_was_deleted_excludes_nobody_and_all(tmp_path: Path) -> None:
    create_store(tmp_path)
    first = WriterLock(tmp_path)
    (tmp_path / "writer.lock").unlink()
    second = WriterLock(tmp_path)  # the first had ended, says whoever deleted the file
    with pytest.raises(StoreLocked):
        WriterLock(tmp_path)
    second.release()
    first.release()


@pytest.mark.parametrize("time_", [1e300, -1e300, float("nan")])
def test_a_note_of_no_time(time_: float, tmp_path: Path) -> None:
    create_store(tmp_path)
    held = WriterLock(tmp_path)
    (tmp_path / "writer.lock").write_text(json.dumps({"pid": 7, "host": "x", "time": time_}))
    with pytest.raises(StoreLocked):
        WriterLock(tmp_path)
    held.release()


def test_who_waits_for_a_plan_says_so(library: Library, photos: Path) -> None:
    library.index(photos)
    held = WriterLock(library.store)
    said: list[str] = []

    def stop() -> int:
        return 15 if said else 0

    with pytest.raises(embedsearch.Interrupted):
        embedsearch.index_share(
            [str(photos)], (0, 2), store=library.store, session=Session(said.append, stop)
        )
    held.release()
    assert len(said) == 1 and said[0].startswith("waiting: ")


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL])
def test_without_locks_a_store_is_refused_and_nothing_is_left(
    number: int, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    library.store = library.store.parent / "new" / "s.es"
    with pytest.raises(StorageError, match=r"s\.es: its file system gives no locks .*another disk"):
        library.index(photos)
    assert not library.store.parent.exists()


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


def test_modes_and_links_are_no_condition(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, _refuse)
    monkeypatch.setattr(Path, "chmod", _refuse)
    monkeypatch.setattr(os, "link", _no_links)
    assert counts(library.index(photos))[:2] == (12, 12)
    store = library.store.with_name("units.es")
    for number in (0, 1):
        embedsearch.index_share(
            [str(photos)],
            (number, 2),
            store=store,
            config=embedsearch.IndexConfig(model="packaged", device="cpu"),
        )
    assert embedsearch.commit(store).images == 12
    _, problems = check_store(store, read_data=True)
    assert not problems


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_what_cannot_be_flushed_is_written_all_the_same(
    number: int, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", without)
    assert counts(library.index(photos))[:2] == (12, 12)


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        create_store(tmp_path / "s.es")


def test_a_mac_without_full_flushes_flushes_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", _no_links)
    monkeypatch.setattr(os, "fsync", flushed.append)
    atomic.sync(3)
    assert flushed == [3]
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: 0)
    atomic.sync(3)
    assert flushed == [3]


SYSTEM = [
    *("lost+found/", ".Trash-1000/", "$RECYCLE.BIN/", "System Volume Information/", ".DS_Store"),
    *(".gitkeep", "@eaDir/", "Thumbs.db", "._.DS_Store", ".Spotlight-V100/", ".nfs0000000001"),
    *("#recycle/", ".stfolder/", "desktop.ini", ".fseventsd/", ".snapshot/"),
]


def test_what_systems_leave_in_a_folder_is_in_nobodys_way(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    def put(folder: Path) -> None:
        for name in SYSTEM:
            if name.endswith("/"):
                (folder / name).mkdir(parents=True)
            else:
                folder.mkdir(exist_ok=True)
                (folder / name).write_bytes(b"x")

    put(library.store)
    assert counts(library.index(photos, model="packaged"))[:2] == (12, 12)
    put(library.store / "shards")
    _, problems = check_store(library.store, read_data=True)
    assert not problems
    (library.store / "mine.txt").write_text("")
    _, problems = check_store(library.store, read_data=True)
    assert [problem.file for problem in problems] == ["mine.txt"]
    assert all((library.store / name).exists() for name in SYSTEM)


def test_the_message_names_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "thesis\n.odt").write_text("")
    with pytest.raises(UsageError, match=r"it holds thesis\\n\.odt, so name an empty folder"):
        create_store(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="it holds a and 1 more"):
        create_store(tmp_path)


def test_a_store_that_was_killed_while_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "writer.lock").write_text("")
    create_store(tmp_path)
