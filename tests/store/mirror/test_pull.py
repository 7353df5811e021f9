"""`pull` makes a store to write to, and overwrites nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import (
    StoreLocked,
    StoreNotFound,
    UsageError,
)
from embedsearch.store.lock import WriterLock
from tests.support.library import REPOSITORY, Library, paint, run_cli
from tests.support.mirrors import (
    URL,
    fetched,
    hits,
    upload,
    whole,
)

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import S3Server


def test_pull_makes_a_store_to_write_to(
    s3: S3Server, generations: list[Path], tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    store = tmp_path / "mine" / "photos.es"
    report = embedsearch.pull(URL, store)
    assert (report.generation, report.former, report.images, report.files) == (2, 0, 6, 3)
    assert hits(store) == hits(generations[0])
    whole(store)
    fetched(s3)
    again = embedsearch.pull(URL, store)
    assert (again.files, again.fetched_bytes, again.former) == (0, 0, 2)
    assert not fetched(s3)
    upload(s3, generations[1])
    third = embedsearch.pull(URL, store)
    assert third.generation > third.former == 2 and third.images == 7
    assert 0 < third.fetched_bytes < third.bytes
    whole(store)
    paint(tmp_path / "more" / "1.png", 50)
    assert Library(store, extractor).index(tmp_path / "more").images == 8
    before = hits(store)
    with pytest.raises(UsageError, match=rf"{store} holds a store from {URL}, changed since"):
        embedsearch.pull(URL, store)
    assert hits(store) == before
    whole(store)


def test_pull_overwrites_nothing_else(
    s3: S3Server, generations: list[Path], tmp_path: Path
) -> None:
    other, same = tmp_path / "other.es", tmp_path / "same.es"
    shutil.copytree(generations[1], other)
    shutil.copytree(generations[0], same)
    with pytest.raises(UsageError, match=r"other.es holds another store"):
        embedsearch.pull(URL, other)
    assert len(hits(other)) == 7
    assert embedsearch.pull(URL, same).files == 0
    (tmp_path / "pictures").mkdir()
    paint(tmp_path / "pictures" / "1.png", 1)
    with pytest.raises(UsageError, match="a folder of something else"):
        embedsearch.pull(URL, tmp_path / "pictures")
    with pytest.raises(UsageError, match="is not a URL"):
        embedsearch.pull(str(same), tmp_path / "new.es")
    with pytest.raises(StoreNotFound):
        embedsearch.pull("s3://bucket/nothing.es", tmp_path / "new.es")
    assert not (tmp_path / "new.es").exists()
    s3.put_folder(generations[1], "bucket/else.es")
    mine = tmp_path / "mine.es"
    embedsearch.pull(URL, mine)
    with pytest.raises(UsageError, match=rf"mine.es holds a store from {URL} \("):
        embedsearch.pull("s3://bucket/else.es", mine)
    lock = WriterLock(mine)
    with pytest.raises(StoreLocked):
        embedsearch.pull(URL, mine)
    lock.release()


def test_pull_on_the_command_line(s3: S3Server, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = run_cli("pull", URL, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("3 files fetched, 0.")
    assert second == f"{tmp_path}/photos.es holds generation 2: 6 images"
    done = run_cli("pull", URL, tmp_path / "photos.es", "--json", env=environment)
    assert json.loads(done.stdout)["files"] == 0
