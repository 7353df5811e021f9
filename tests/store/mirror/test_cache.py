"""The cache of stores at URLs: shared, killed, tampered with, bounded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import embedsearch
from embedsearch.core.errors import (
    DamagedStore,
    StorageError,
    UsageError,
)
from embedsearch.store import mirror
from embedsearch.store.lock import WriterLock
from tests.support.library import REPOSITORY, wait_for
from tests.support.mirrors import (
    ASK,
    URL,
    Heard,
    entry,
    harmed,
    hits,
    names,
    upload,
    whole,
)

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import Fault, S3Server


def test_killed_while_it_fetches(s3: S3Server, cached: Path) -> None:
    def fault(method: str, path: str) -> Fault:
        if method == "GET" and "/ann/" in path:
            time.sleep(1.5)
        return None

    s3.fault = fault
    code = f"import embedsearch; embedsearch.open_store({URL!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    wait_for(lambda: any("GET" in line and "/ann/" in line for line in s3.requests))
    wait_for(lambda: bool(list(cached.glob("*.es/shards/*"))))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (entry(cached) / "CURRENT").exists()
    s3.fault = lambda method, path: None
    s3.requests.clear()
    assert len(hits(URL)) == 6
    assert not any("/shards/" in line for line in s3.requests)  # was whole, is not fetched again
    whole(entry(cached))


def test_the_second_waits_or_answers_from_what_is_there(
    s3: S3Server, generations: list[Path], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits(URL)
    upload(s3, generations[1])
    monkeypatch.setattr(mirror, "_BRIEF_WAIT_S", 0.2)
    heard = Heard()
    lock = WriterLock(entry(cached))
    assert len(hits(URL, heard.session)) == 6
    assert "another process is fetching" in heard.lines[0]
    assert "answering from generation 2" in heard.lines[1]
    lock.release()
    assert len(hits(URL, heard.session)) == 7


def test_a_cache_that_was_tampered_with(s3: S3Server, cached: Path) -> None:
    hits(URL)
    for name in names(entry(cached), "ann"):
        (entry(cached) / name).unlink()
    assert len(hits(URL)) == 6
    whole(entry(cached))
    (entry(cached) / "CURRENT").write_bytes(b"garbage")
    assert len(hits(URL)) == 6
    for name in names(entry(cached), "ann"):
        path = entry(cached) / name
        path.chmod(0o644)
        path.write_bytes(harmed(path.read_bytes(), "flip"))
    for query in (ASK, embedsearch.Text("cat")):
        with (
            pytest.raises(DamagedStore, match=r"it is a copy; delete it to fetch it again"),
            embedsearch.open_store(URL) as photos,
        ):
            photos.query(query)
    shutil.rmtree(entry(cached))
    assert len(hits(URL)) == 6


def test_the_cache_is_bounded(
    s3: S3Server, generations: list[Path], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"s3://bucket/{name}.es" for name in "abc"]
    for url in urls:
        s3.put_folder(generations[0], url.removeprefix("s3://"))
    hits(urls[0])
    one = sum(path.stat().st_size for path in entry(cached).rglob("*") if path.is_file())
    monkeypatch.setenv("EMBEDSEARCH_STORE_CACHE_BYTES", f"{round(2.5 * one / 1024, 3)}k")
    hits(urls[1])
    hits(urls[0])  # b has not been used for longest now
    hits(urls[2])
    s3.requests.clear()
    hits(urls[0])
    hits(urls[2])
    assert not any("/shards/" in line for line in s3.requests)
    assert len(list(cached.glob("*.es"))) == 2
    with embedsearch.open_store(urls[0]) as first, embedsearch.open_store(urls[2]) as second:
        with pytest.raises(StorageError, match="in use by running programs"):
            hits(urls[1])
        assert len(first.query(ASK, k=20)) == len(second.query(ASK, k=20)) == 6
    hits(urls[1])
    assert len(list(cached.glob("*.es"))) == 2
    monkeypatch.setenv("EMBEDSEARCH_STORE_CACHE_BYTES", "1k")
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(cached / "other"))
    with pytest.raises(StorageError, match=r"0.0 MB: set .*embedsearch pull s3://bucket/a.es"):
        hits(urls[0])
    monkeypatch.setenv("EMBEDSEARCH_STORE_CACHE_BYTES", "much")
    with pytest.raises(UsageError, match="EMBEDSEARCH_STORE_CACHE_BYTES: 'much' is not a number"):
        hits(urls[0])


def test_what_was_opened_stays_readable_when_it_is_removed(s3: S3Server, cached: Path) -> None:
    with embedsearch.open_store(URL) as searcher:
        wanted = searcher.query(ASK, k=20)
        shutil.rmtree(cached)
        assert searcher.query(ASK, k=20, where="width > 1") == wanted


def test_a_disk_without_room(s3: S3Server, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"must be fetched, but 0.0 MB are free"):
        hits(URL)
    assert not os.listdir(entry(cached) / "shards")
