"""Stores at URLs answer as those on the disk, and are followed as they move on."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core import remote
from embedsearch.core.errors import (
    StorageError,
    StoreNotFound,
    UsageError,
)
from embedsearch.store import fetch
from tests.support.library import REPOSITORY, run_cli, wait_for
from tests.support.mirrors import (
    ASK,
    PREFIX,
    URL,
    Heard,
    entry,
    fetched,
    hits,
    names,
    point_at,
    upload,
    whole,
)

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import SLOW_DOWN, Fault, S3Server


def test_it_answers_as_the_store_on_the_disk(
    s3: S3Server, generations: list[Path], cached: Path
) -> None:
    wanted = hits(generations[0])
    assert len(wanted) == 6
    heard = Heard()
    assert hits(URL, heard.session) == wanted
    (line,) = heard.lines
    assert line.startswith("fetching 3 files, 0.") and line.endswith(f"of {URL}")
    assert len(fetched(s3)) == 5  # FORMAT, manifest, shard, FAISS file, words
    whole(entry(cached))
    assert hits(URL + "/", heard.session) == wanted
    assert s3.requests == [f"{method} /{PREFIX}/CURRENT" for method in ("HEAD", "GET")]
    assert len(heard.lines) == 1


def test_only_what_is_new_is_fetched(s3: S3Server, generations: list[Path], cached: Path) -> None:
    hits(URL)
    fetched(s3)
    before = {name for folder in ("shards", "ann") for name in names(entry(cached), folder)}
    upload(s3, generations[1])
    assert hits(URL) == hits(generations[1])
    manifest = fetch.generation_here(generations[1])
    assert manifest is not None
    needed = {record.relative for record in manifest.files()}
    assert fetched(s3) == needed - before | {f"manifests/m-{manifest.generation:08d}.json"}
    whole(entry(cached))
    left = {name for folder in ("shards", "ann") for name in names(entry(cached), folder)}
    assert left == needed  # what is no longer named has gone
    assert len(os.listdir(entry(cached) / "manifests")) == 1


def test_an_open_store_follows(
    s3: S3Server, generations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsearch.searching.following._CHECK_SERVER_EVERY_S", 0.1)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    heard = Heard()
    with embedsearch.open_store(URL, follow=True, session=heard.session) as searcher:
        assert len(searcher) == 6
        s3.fault = lambda method, path: SLOW_DOWN
        wait_for(lambda: searcher.trouble is not None)
        assert len(searcher.query(ASK, k=20)) == 6
        assert "still answering from the previous generation" in heard.lines[-1]
        s3.fault = lambda method, path: None
        s3.delay_s = 0.2
        upload(s3, generations[1])
        slowest = 0.0

        def has_moved_on() -> bool:
            nonlocal slowest
            began = time.monotonic()
            found = len(searcher.query(ASK, k=20))
            slowest = max(slowest, time.monotonic() - began)
            return found == 7

        wait_for(has_moved_on)
        assert slowest < 1.0  # the fetch takes longer than a second
        wait_for(lambda: searcher.trouble is None)


def test_it_moves_on_while_it_is_fetched(
    s3: S3Server, generations: list[Path], cached: Path
) -> None:
    done = threading.Event()

    def fault(method: str, path: str) -> Fault:
        if method == "HEAD" and "/ann/" in path and not done.is_set():
            done.set()
            upload(s3, generations[1])
            s3.delete(path.removeprefix("/"))
        return None

    s3.fault = fault
    assert len(hits(URL)) == 7
    whole(entry(cached))


def test_it_moves_on_for_ever(s3: S3Server) -> None:
    numbers = iter(range(1000))

    def fault(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith("CURRENT"):
            point_at(s3, f"m-{next(numbers):08d}.json", b"x")
        return None

    s3.fault = fault
    with pytest.raises(StorageError, match="faster than it can be fetched"):
        hits(URL)


def test_two_processes_open_it_at_once(s3: S3Server, cached: Path) -> None:
    s3.delay_s = 0.05
    code = f"import embedsearch; print(len(embedsearch.open_store({URL!r})))"
    many = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0] for process in many] == [b"6\n"] * 3
    parts = [line for line in s3.requests if line.startswith("GET") and "/shards/" in line]
    assert len(parts) == 1
    whole(entry(cached))


def test_commands_read_it_and_do_not_write_it(s3: S3Server, tmp_path: Path) -> None:
    for command in (["info", "--json"], ["check", "--read-data"], ["failures"]):
        done = run_cli(*command, "--store", URL)
        assert done.returncode == 0, done.stderr
        if command[0] == "info":
            assert json.loads(done.stdout)["store"] == URL
    assert embedsearch.outliers(URL, 2)
    assert embedsearch.duplicates(URL).groups == []
    (tmp_path / "v.npy").write_bytes(b"")
    refused = f"{URL} is only read: embedsearch pull {URL} makes a store to write to"
    with pytest.raises(UsageError, match=refused):
        embedsearch.index(tmp_path, store=URL)
    for command in (["repair"], ["index", "--watch"]):
        environment = {**os.environ, "EMBEDSEARCH_STORE": URL, "PYTHONPATH": str(REPOSITORY)}
        done = run_cli(*command, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"embedsearch: {refused}\n")
    assert not any(path.name.startswith("s3:") for path in tmp_path.iterdir())


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_web_server(
    has_ranges: bool, generations: list[Path], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp, as https:// does")
    handler = functools.partial(_Web, has_ranges, directory=str(generations[0]))
    monkeypatch.setattr(fetch, "PART_BYTES", 1000)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        assert hits(url) == hits(generations[0])
        whole(entry(cached))
        with pytest.raises(StoreNotFound, match="no CURRENT"):
            hits(f"{url}/shards")
        web.shutdown()
    heard = Heard()
    assert len(hits(url, heard.session)) == 6
    assert "answering from generation 2" in heard.lines[-1]


class _Web(http.server.SimpleHTTPRequestHandler):
    """A server of files; `has_ranges`: of parts of them, too."""

    def __init__(self, has_ranges: bool, *arguments: Any, **options: Any) -> None:
        self._has_ranges = has_ranges
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not (self._has_ranges and asked and path.is_file()):
            super().do_GET()
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        data = path.read_bytes()[first : last + 1]
        self.send_response(206 if data else 416)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def test_a_store_on_the_disk_loads_nothing_of_it(generations: list[Path]) -> None:
    code = (
        "import sys, embedsearch\n"
        f"embedsearch.open_store({str(generations[0])!r}).close()\n"
        "print([m for m in ('core.remote', 'store.fetch', 'store.mirror')"
        " if f'embedsearch.{m}' in sys.modules], 'fsspec' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "[] False\n", done.stderr
