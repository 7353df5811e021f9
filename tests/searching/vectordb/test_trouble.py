"""Runs cut off, connections lost, servers gone: what is said, and what goes on after."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from embedsearch import Key
from embedsearch.core.errors import (
    Interrupted,
    StorageError,
)
from embedsearch.core.session import Session
from embedsearch.exchange.upload import upload
from embedsearch.searching.searcher import open_store
from embedsearch.searching.vectordb import database as databases, milvus
from embedsearch.searching.vectordb.library_log import unlogged
from tests.support.databases import DIM, ROWS, Changing, Notices
from tests.support.engines import (
    PASSWORD,
    Engine,
    free_port,
    relay,
)
from tests.support.library import REPOSITORY

T = TypeVar("T")


def test_a_run_that_was_stopped_is_gone_on_with(quick_engine: Engine, store: Path) -> None:
    url, said = quick_engine.url(), Notices()
    with pytest.raises(
        Interrupted, match="0 rows were uploaded: the same command goes on"
    ) as caught:
        upload(store, url, session=Session(stop=lambda: 2))
    assert caught.value.exit_code == 130
    with open_store(store, serve_from=url, session=said.session) as searcher:
        assert len(searcher.query(Key("trips/0500.jpg"))) == 10
    assert "holds what an interrupted export sent" in said[0] and "exactly" in said[1]
    assert upload(store, url).uploaded == ROWS


def test_a_connection_lost_in_the_middle(
    server: Engine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "_MESSAGE_BYTES", 64 * DIM * 4)
    url = server.url()
    assert server.port is not None
    with relay(server.port) as between:
        through = server.through(between.port, url)
        between.limit = between.passed + 300_000
        with monkeypatch.context() as short, pytest.raises(StorageError) as caught:
            short.setattr(milvus, "SEND_S", 3.0)
            upload(store, through)
        assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
        between.restore()
        assert in_time(lambda: upload(store, through)).uploaded > 0
        assert upload(store, url).unchanged == ROWS
        with open_store(store, serve_from=through) as searcher:
            assert len(searcher.query(Key("trips/0500.jpg"))) == 10
            between.cut()
            monkeypatch.setattr(databases, "ASK_S", 2.0)
            started = time.monotonic()
            with pytest.raises(StorageError, match="does not answer"):
                searcher.query(Key("trips/0500.jpg"))
            assert time.monotonic() - started < 12
            between.restore()
            assert len(in_time(lambda: searcher.query(Key("trips/0500.jpg")))) == 10


def in_time(work: Callable[[], T]) -> T:
    """Return what work returns once a connection is there again: gRPC holds off for a while."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return work()
        except StorageError:
            assert time.monotonic() < deadline


def test_nobody_answers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymilvus")
    pytest.importorskip("psycopg")
    monkeypatch.setattr(milvus, "_CONNECT_S", 1.0)
    for scheme in ("milvus", "postgresql"):
        with pytest.raises(StorageError, match=f"^{scheme}://.*cannot be reached: ") as caught:
            upload(store, f"{scheme}://ada:{PASSWORD[:2]}cret@127.0.0.1:{free_port()}/x")
        assert "cret" not in str(caught.value) and caught.value.exit_code == 4


def test_a_wrong_password(server: Engine, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TOKEN", "root:wrongword")
    url = re.sub(r"://ada:[^@]*@", "://ada:wrongword@", server.url())
    with pytest.raises(StorageError) as caught:
        upload(store, url)
    assert "wrongword" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_collection_that_was_dropped(engine: Engine, changing: Changing) -> None:
    url = engine.url()
    with pytest.raises(StorageError, match="export --to makes it"):
        open_store(changing.store, serve_from=url)
    upload(changing.store, url)
    with open_store(changing.store, serve_from=url) as searcher:
        database: Any = searcher._generations._database
        if engine.name == "postgres":
            database._connected().execute("DROP TABLE embedsearch")
        else:
            database._client.drop_collection(database.place.table)
        with pytest.raises(StorageError, match="export --to makes it"):
            searcher.query(Key("a/01.png"))


def test_a_file_that_another_process_has_open(
    tmp_path: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pymilvus", reason="needs pymilvus")
    pytest.importorskip("milvus_lite", reason="needs milvus-lite")
    url = f"milvus://{tmp_path}/held.db"
    hold = "import sys, time; from embedsearch.searching.vectordb.open import open_database\n"
    hold += "open_database(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, url], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        logger = logging.getLogger("pymilvus")
        before = logger.level, list(logger.filters)
        with pytest.raises(StorageError, match=r"held\.db is in use by another process"):
            upload(store, url)
        assert (logger.level, logger.filters) == before, "the program may log what it wants"
    finally:
        holder.kill()
        holder.wait()
    assert "Traceback" not in capfd.readouterr().err


def test_only_what_this_thread_causes_is_kept_from_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("pymilvus.inner")
    with unlogged("pymilvus") as kept:
        logger.error("ours", exc_info=ValueError("why"))
        other = threading.Thread(target=lambda: logger.error("theirs"))
        other.start()
        other.join()
    logger.error("later")
    assert [record.message for record in caplog.records] == ["theirs", "later"]
    assert [str(cause) for cause in kept.causes] == ["why"]
