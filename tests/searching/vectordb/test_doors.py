"""`export --to` and `--serve-from` on the command line, in a server, and in URLs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedsearch.core.errors import (
    MissingLibrary,
)
from embedsearch.exchange.upload import upload
from embedsearch.searching.searcher import open_store
from embedsearch.searching.vectordb import database as databases
from embedsearch.searching.vectordb.open import database_url
from tests.support.databases import DIM, ROWS
from tests.support.engines import (
    Engine,
    relay,
)
from tests.support.library import run_cli


def test_the_command_line(engines: Callable[[str], Engine], store: Path) -> None:
    url = engines("postgres").url()
    done = run_cli("export", "--to", url, "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{ROWS:,} rows of {DIM} components in postgresql://***@127.")
    assert f": {ROWS:,} uploaded, 0 unchanged, 0 deleted\ngeneration 2, " in done.stdout
    assert done.stderr == "embedsearch: not held by a vector database: tags, with_nul\n"
    done = run_cli("export", "--to", url, "--store", store, "--json")
    assert json.loads(done.stdout)["unchanged"] == ROWS and "se%" not in done.stdout
    query = ["query", "--key", "trips/0500.jpg", "--store", store, "--json", "-k", "20"]
    ours, theirs = run_cli(*query), run_cli(*query, "--serve-from", url)
    assert theirs.returncode == 0, theirs.stderr
    hits = [[json.loads(line) for line in done.stdout.splitlines()] for done in (ours, theirs)]
    assert len(hits[1]) == 20
    assert len({hit["key"] for hit in hits[0]} & {hit["key"] for hit in hits[1]}) >= 19
    done = run_cli(*query, "--serve-from", url, "--where", "lower(label) = 'x'")
    assert done.returncode == 2 and "does not support this (lower)" in done.stderr
    done = run_cli(*query, "--serve-from", url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1"))
    assert done.returncode in {2, 4} and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs one target"),
        (["out.npy", "--to", "milvus://host"], "needs one target"),
        (["--to", "milvus://host", "--where", "true"], "takes all rows"),
        (["out.npy", "--replace"], "--replace needs --to"),
        (["--to", "mysql://ada:secret@host"], "the URL of a vector database is milvus://"),
        (["--to", "milvus://host:999999"], "is malformed"),
        (["--to", "milvus:///x.sqlite"], "must end in .db"),
    ],
)
def test_wrong_usage(store: Path, arguments: list[str], words: str) -> None:
    done = run_cli("export", *arguments, "--store", store)
    assert done.returncode == 2 and words in done.stderr and "secret" not in done.stderr


async def test_a_server_says_503(
    engines: Callable[[str], Engine],
    filled: Callable[[str], str],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    httpx = pytest.importorskip("httpx")
    from embedsearch.web.access import Access
    from embedsearch.web.app import create_app

    engine, url = engines("postgres"), filled("postgres")
    monkeypatch.setattr(databases, "ASK_S", 1.0)
    assert engine.port is not None
    with relay(engine.port) as between:
        searcher = open_store(store, serve_from=engine.through(between.port, url))
        app = create_app(searcher, Access())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = {"key": "trips/0500.jpg", "k": 3}
            assert (await client.post("/search", json=body)).status_code == 200
            between.cut()
            answer = await client.post("/search", json=body)
            assert answer.status_code == 503
            message = "this cannot be answered now: see the server's log"
            assert answer.json() == {"error": message, "code": "failed"}
            between.restore()
            assert (await client.post("/search", json=body)).status_code == 200
        searcher.close()


def test_urls_show_no_secret() -> None:
    place = database_url("postgresql://ada:pa%40ss@db.example:5432/photos?sslpassword=x")
    assert str(place) == "postgresql://***@db.example:5432/photos" and "pa" not in repr(place)[20:]
    assert place.said("no\n entry for pa@ss, or pa%40ss") == "no entry for ***, or ***"
    assert str(database_url("milvus:///data/x.db")) == "milvus:///data/x.db"
    assert database_url("milvus://host:19530").table == "embedsearch"
    assert database_url("milvus://host:19530/other").table == "other"


@pytest.mark.parametrize(
    ("library", "url"), [("pymilvus", "milvus://host"), ("psycopg", "postgresql://host/db")]
)
def test_a_missing_library_is_named(
    store: Path, library: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    extra = r"pip install '(pymilvus|pgvector|psycopg).*>=\d"
    with pytest.raises(MissingLibrary, match=extra):
        upload(store, url)
