"""The store on disk: written whole or not at all, read only if whole, one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import (
    DamagedStore,
    EmbedSearchError,
    IncompatibleStore,
    StorageError,
    StoreLocked,
    StoreNotFound,
    UsageError,
)
from embedsearch.core.strict_json import strict_json
from embedsearch.indexing.upkeep import generations, repair, roll_back
from embedsearch.store import files
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.files import FileRecord, write_new
from embedsearch.store.lock import WriterLock
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import StoreWriter, create_store
from tests.support.library import REPOSITORY, paint, run_cli
from tests.support.stores import contents, rows_of


@pytest.fixture
def store(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Path:
    """A store of twelve images at generation 2, with FAISS file, failures and deleted rows."""
    path = tmp_path / "s.es"
    embedsearch.index(photos, store=path, model="packaged", extractor_factory=extractor)
    (photos / "a" / "01.png").unlink()
    (photos / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    embedsearch.index(photos, store=path, extractor_factory=extractor)
    return path


def test_shards_are_ordinary_parquet(store: Path, photos: Path) -> None:
    manifest = read_current(store)
    (shard,) = manifest.shards
    table = pq.read_table(store / shard.relative, page_checksum_verification=True)
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: halffloat")
    assert table.schema.field("vector").type.list_size == 512
    column = pq.ParquetFile(store / shard.relative).metadata.row_group(0).column(18)
    assert column.path_in_schema == "vector.list.element"
    assert "BYTE_STREAM_SPLIT" not in column.encodings, "DuckDB reads none of float16"
    assert column.compression == "ZSTD"
    row = next(r for r in table.to_pylist() if r["key"] == b"b/02.png")
    assert row["path"] == "b/02.png" and (row["width"], row["height"]) == (48, 40)
    assert row["mtime_ns"] == (photos / "b/02.png").stat().st_mtime_ns
    assert row["digest"] == hashlib.sha256((photos / "b/02.png").read_bytes()).digest()
    assert len(rows_of(store)) == 11


def test_manifest_survives_its_round_trip(store: Path) -> None:
    manifest = read_current(store)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    newer = manifest.to_bytes().replace(b'"min_reader_version": 1', b'"min_reader_version": 2')
    with pytest.raises(IncompatibleStore, match="upgrade"):
        Manifest.from_bytes(newer)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"min_reader_version": 1}',
    ],
)
def test_malformed_manifests_are_value_errors(text: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.from_bytes(text)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "x-00000001.json", "s-1.parquet"]
)
def test_file_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        FileRecord(name, 1, "")


def test_strict_json_reads_plain_json() -> None:
    assert strict_json(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


def answer_or_error(store: Path, image: Path) -> list[tuple[str, float]] | EmbedSearchError:
    """Return what a reader gets: hits, or the error; anything else fails the test."""
    try:
        check = check_store(store, read_data=True)[1]
        with embedsearch.open_store(store) as searcher:
            vector = np.zeros(512, dtype=np.float32)
            vector[0] = 1.0
            hits = [(hit.key, hit.score) for hit in searcher.query(vector, k=20)]
        if check:
            return DamagedStore(check[0].words)
        return hits
    except EmbedSearchError as error:
        return error


def test_files_of_another_generation_are_refused(store: Path) -> None:
    generation = read_current(store).generation
    here, before = (store / f"manifests/m-{g:08d}.json" for g in (generation, generation - 1))
    here.chmod(0o600)
    shutil.copy(before, here)
    with pytest.raises(DamagedStore, match=r"bytes|sha256"):
        read_current(store)


def test_links_and_pipes_in_place_of_files_are_refused(store: Path, tmp_path: Path) -> None:
    (shard,) = read_current(store).shards
    path = store / shard.relative
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedStore):
        embedsearch.open_store(store)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedStore):
        embedsearch.open_store(store)


def test_check_names_the_file_and_foreign_files(store: Path) -> None:
    manifest, problems = check_store(store, read_data=True)
    assert problems == [] and manifest.live == 11
    (store / "shards" / "evil.pkl").write_bytes(b"x")
    (store / "notes.txt").write_text("mine")
    _, problems = check_store(store, read_data=True)
    assert [problem.file for problem in problems] == ["notes.txt", "shards/evil.pkl"]
    for name in ("notes.txt", "shards/evil.pkl"):
        (store / name).unlink()
    for record in manifest.files():
        path = store / record.relative
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        _, problems = check_store(store, read_data=True)
        assert [problem.file for problem in problems] == [record.relative]
        done = run_cli("check", "--store", store)
        assert done.returncode == 5 and path.name in done.stderr
        path.write_bytes(data)


def test_repair_builds_the_faiss_file_again(store: Path, photos: Path) -> None:
    good = answer_or_error(store, photos)
    (record,) = read_current(store).exact
    (store / record.relative).chmod(0o600)
    (store / record.relative).write_bytes(b"garbage")
    done = run_cli("query", photos / "a/03.png", "--store", store)
    assert done.returncode == 5 and "repair" in done.stderr
    assert repair(store) == ["the FAISS files were built again from the shards"]
    assert answer_or_error(store, photos) == good
    assert repair(store) == []


def test_repair_falls_back_to_a_whole_generation(store: Path, photos: Path) -> None:
    before = read_current(store)
    (store / "CURRENT").write_bytes(b"garbage")
    done = run_cli("info", "--store", store)
    assert done.returncode == 5 and "repair" in done.stderr
    with pytest.raises(DamagedStore):  # index does not guess, either
        embedsearch.index(photos, store=store)
    assert repair(store)[0].startswith(f"CURRENT names generation {before.generation} again, of")
    assert read_current(store) == before


def test_repair_does_not_make_up_shards(store: Path) -> None:
    (shard,) = read_current(store).shards
    (store / shard.relative).chmod(0o600)
    (store / shard.relative).write_bytes(b"x" * shard.bytes)
    with pytest.raises(DamagedStore, match="--rebuild"):
        repair(store)


def test_formats_and_folders_that_are_no_store(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(StoreNotFound, match="no store"):
        embedsearch.open_store(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    for arguments in (["index", photos], ["index", photos, "--dry-run"]):
        done = run_cli(*arguments, "--store", other, "--model", "packaged")
        assert done.returncode == 2 and "something else" in done.stderr
        assert [path.name for path in other.iterdir()] == ["precious.txt"]
    done = run_cli("index", photos, "--store", other / "precious.txt")
    assert done.returncode == 2 and "is a file" in done.stderr
    (other / "FORMAT").write_text("embedsearch 99\n")
    with pytest.raises(IncompatibleStore, match="format 99"):
        embedsearch.open_store(other)
    (other / "FORMAT").write_text("hello\n")
    with pytest.raises(UsageError):
        create_store(other)


def test_an_empty_folder_becomes_a_store_and_a_started_one_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "s.es" / "tmp").mkdir(parents=True)
    (tmp_path / "s.es" / "tmp" / "123-0123456789abcdef").write_text("debris of a kill")
    create_store(tmp_path / "s.es")
    with StoreWriter(tmp_path / "s.es") as writer:
        assert writer.manifest is None
    assert list((tmp_path / "s.es" / "tmp").iterdir()) == []
    with pytest.raises(StoreNotFound, match="nothing was committed"):
        read_current(tmp_path / "s.es")


class Faults:
    """Make the n-th call of a kind that `files` makes fail, once or from then on."""

    CALLS = ("open", "write", "fsync", "rename", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch, error: int, at: int, lasting: bool) -> None:
        self.count = 0
        self._at, self._error, self._lasting = at, error, lasting
        for name in ("open", "write", "fsync"):
            patch.setattr(files.os, name, self._wrap(getattr(os, name), name), raising=True)
        patch.setattr(Path, "rename", self._wrap(Path.rename, "rename"))

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or (len(args) > 1 and args[1] & os.O_CREAT)
            if writes and self._is_ours(args):
                self.count += 1
                if self.count == self._at or (self._lasting and self.count >= self._at):
                    raise OSError(self._error, os.strerror(self._error))
            return real(*args, **kwargs)

        return call

    @staticmethod
    def _is_ours(args: tuple[Any, ...]) -> bool:
        """Pipes and terminals of the test run are not ours to break."""
        if isinstance(args[0], int):
            return ".es" in str(Path(f"/proc/self/fd/{args[0]}").readlink())
        return ".es" in os.fspath(args[0])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks descriptors up in /proc")
def test_each_failing_call_leaves_the_old_generation(
    store: Path, photos: Path, extractor: Callable[..., Any], error: int, lasting: bool
) -> None:
    paint(photos / "a" / "new.png", 99)
    before, old_rows = contents(store), rows_of(store)
    points = 0
    while True:
        points += 1
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, error, points, lasting)
            try:
                embedsearch.index(photos, store=store, extractor_factory=extractor)
                failed = False
            except StorageError as caught:
                failed = True
                assert ("disk is full" in str(caught)) == (error == errno.ENOSPC)
            reached = faults.count >= points
        if not reached:
            break
        assert check_store(store, read_data=True)[1] == []
        now = rows_of(store)
        assert {key: now[key] for key in old_rows} == old_rows, "a committed row was lost"
        if failed and read_current(store).generation == json.loads(before["CURRENT"])["generation"]:
            kept = {name: data for name, data in contents(store).items() if name in before}
            assert kept == before, "a failed run changed a file of the committed generation"
        shutil.rmtree(store)
        for name, data in before.items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(data)
        (store / "tmp").mkdir()
    assert points > 15, f"only {points} calls were seen: the injection does not reach the writer"


def test_the_fault_harness_catches_a_writer_in_place(
    store: Path, photos: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: CURRENT overwritten in place is destroyed by a full disk."""

    def in_place(store: Path, name: str, content: bytes) -> None:
        with (store / name).open("wb") as file:
            file.flush()
            raise StorageError("full")

    paint(photos / "a" / "new.png", 99)
    monkeypatch.setattr("embedsearch.store.writer.replace_file", in_place)
    with pytest.raises(StorageError):
        embedsearch.index(photos, store=store, extractor_factory=extractor)
    with pytest.raises(DamagedStore):
        check_store(store, read_data=True)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store(tmp_path / "s.es")
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    record = write_new(tmp_path / "s.es", "s", 1, "parquet", [b"0123456789" * 10, b"end"])
    assert (tmp_path / "s.es" / record.relative).read_bytes() == b"0123456789" * 10 + b"end"
    assert record.bytes == 103


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_really_full_disk(photos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = run_cli("index", photos, "--store", disk / "s.es", "--model", "packaged")
        assert done.returncode == 4, done.stdout + done.stderr
        assert "disk is full" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert run_cli("query", photos / "a/01.png", "--store", disk / "s.es").returncode in {0, 7}
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        done = run_cli("index", photos, "--store", disk / "s.es", "--model", "packaged")
        assert done.returncode == 0, done.stderr
        assert run_cli("check", "--store", disk / "s.es").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


HOLD = """
import sys, time
from pathlib import Path
from embedsearch.store.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    store = tmp_path / "locked.es"
    create_store(store)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield store, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_told_who_holds_the_lock(
    holder: tuple[Path, subprocess.Popen[str]], photos: Path
) -> None:
    store, process = holder
    done = run_cli("index", photos, "--store", store, "--model", "packaged")
    assert done.returncode == 3
    assert f"process {process.pid} on" in done.stderr and "--wait" in done.stderr
    os.kill(process.pid, 19)  # SIGSTOP: a stopped holder still excludes
    with pytest.raises(StoreLocked):
        WriterLock(store)
    process.kill()
    process.wait()
    WriterLock(store, wait_s=5.0).release()  # the kernel freed it, whatever the file says


def test_waiting_for_the_lock(holder: tuple[Path, subprocess.Popen[str]]) -> None:
    store, _ = holder
    started = time.monotonic()
    with pytest.raises(StoreLocked):
        WriterLock(store, wait_s=0.5)
    assert 0.4 < time.monotonic() - started < 3


def test_a_young_note_of_another_host_is_respected(tmp_path: Path) -> None:
    create_store(tmp_path)
    note = {"pid": 1, "host": "elsewhere", "time": time.time() - 60}
    (tmp_path / "writer.lock").write_text(json.dumps(note))
    with pytest.raises(StoreLocked, match="elsewhere"):
        WriterLock(tmp_path)
    note["time"] = time.time() - 3600
    (tmp_path / "writer.lock").write_text(json.dumps(note))
    WriterLock(tmp_path).release()
    assert (tmp_path / "writer.lock").read_text() == ""


def test_going_back_and_forth_again(
    store: Path, photos: Path, extractor: Callable[..., Any]
) -> None:
    """A generation that was undone is there to go back to; its rows keep their numbers."""
    now, before = generations(store)
    assert (now.images, before.images) == (11, 12) and now.is_current and before.is_here
    rows = rows_of(store)
    assert roll_back(store, before.generation)[0].startswith(
        f"generation {now.generation + 1} holds"
    )
    assert len(rows_of(store)) == 12 and check_store(store, read_data=True)[1] == []
    assert read_current(store).next_row >= 12
    assert roll_back(store, read_current(store).generation) == []
    roll_back(store, now.generation)
    assert rows_of(store) == rows
    with pytest.raises(UsageError, match=r"no generation 99; on the disk: \d"):
        roll_back(store, 99)
    paint(photos / "a" / "new.png", 99)
    report = embedsearch.index(photos, store=store, extractor_factory=extractor)
    assert (report.added, report.failed, report.unchanged) == (1, 1, 11)


def test_going_back_needs_whole_rows_and_makes_faiss_files_again(store: Path, photos: Path) -> None:
    former = generations(store)[1]
    manifest = Manifest.from_bytes(
        (store / f"manifests/m-{former.generation:08d}.json").read_bytes()
    )
    current = read_current(store)
    for record in manifest.exact:
        if record not in current.exact:
            (store / record.relative).unlink()
    assert generations(store)[1].is_here == (set(manifest.exact) <= set(current.exact))
    done = run_cli("repair", "--to", str(former.generation), "--store", store)
    assert done.returncode == 0, done.stderr
    assert "12 images" in done.stdout
    assert run_cli("check", "--read-data", "--store", store).returncode == 0
    listed = run_cli("info", "--generations", "--store", store).stdout.splitlines()
    assert len(listed) == 3 and listed[1].split()[-1] == "current"
    rows = [
        json.loads(line)
        for line in run_cli("info", "--generations", "--json", "--store", store).stdout.splitlines()
    ]
    assert [row["images"] for row in rows] == [12, 11]
    undone = Manifest.from_bytes(
        (store / f"manifests/m-{rows[1]['generation']:08d}.json").read_bytes()
    )
    lost = next(shard for shard in undone.shards)
    (store / lost.relative).unlink()
    with pytest.raises(DamagedStore, match=rf"cannot go back .* its shards/{lost.name} is missing"):
        roll_back(store, rows[1]["generation"])
