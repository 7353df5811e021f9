"""The store on disk: read only if whole, checked, repaired, taken back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
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
    StoreNotFound,
    UsageError,
)
from embedsearch.core.records import Failure, Reason, Stage
from embedsearch.core.strict_json import strict_json
from embedsearch.indexing.repair import repair
from embedsearch.store import files, writer
from embedsearch.store.check import check, check_store
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import FileRecord
from embedsearch.store.info import StoreFailure, generations, roll_back
from embedsearch.store.manifest import FORMAT_VERSION, Manifest
from embedsearch.store.writer import StoreWriter, create_store
from tests.support.library import paint, run_cli
from tests.support.stores import rows_of


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


def test_two_create_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster one sweeps what the slower one has not named yet: the store is there for both."""
    store, write = tmp_path / "s.es", files._write

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(files, "_write", write)
        written = write(*arguments)
        with StoreWriter(store):
            assert not [*(store / "tmp").iterdir()]
        return written

    monkeypatch.setattr(files, "_write", overtaken)
    create_store(store)
    assert files._write is write, "it was overtaken"
    check_format(store)


def test_manifest_survives_its_round_trip(store: Path) -> None:
    manifest = read_current(store)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    text, ours, later = manifest.to_bytes().decode(), FORMAT_VERSION, FORMAT_VERSION + 1
    newer = text.replace(f'"min_reader_version": {ours}', f'"min_reader_version": {later}').encode()
    assert newer != manifest.to_bytes()
    with pytest.raises(IncompatibleStore, match="update embedsearch"):
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
            hits = [(hit.key, hit.ranked_by) for hit in searcher.query(vector, k=20)]
        if check:
            return DamagedStore(check[0].message)
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


def test_what_check_and_repair_found_as_json(store: Path) -> None:
    whole = json.loads(run_cli("check", "--json", "--store", store).stdout)
    assert whole == check(store).to_dict() and whole["problems"] == []
    (store / "notes.txt").write_text("mine")
    done = run_cli("check", "--json", "--store", store)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (done.returncode, done.stderr, problem["file"]) == (5, "", "notes.txt")
    done = run_cli("repair", "--json", "--store", store)
    assert json.loads(done.stdout) == {"done": []}


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


def test_a_generation_that_a_commit_sweeps_meanwhile_is_none(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, before = generations(store)
    listed = writer.manifests_of(store)
    (store / "manifests" / f"m-{before.generation:08d}.json").unlink()
    monkeypatch.setattr(writer, "manifests_of", lambda store: listed)
    assert generations(store) == [now]


def test_a_failure_has_the_path_of_an_image() -> None:
    for root, key, path in (
        ("/photos", "a b#.jpg", "/photos/a b#.jpg"),
        ("/", "a.jpg", "/a.jpg"),
        ("https://host/x/", "a b#.jpg", "https://host/x/a%20b%23.jpg"),
        ("/photos", "https://host/a.jpg", "https://host/a.jpg"),
        ("/photos", "", "/photos"),
    ):
        failure = Failure(0, key, Stage.DECODE, Reason.CORRUPT, "")
        assert StoreFailure(root, failure).full_path == path


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
