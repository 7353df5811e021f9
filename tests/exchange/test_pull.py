"""Stores at URLs, opened and pulled; servers that fail, lie and move on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch.core import remote
from embedsearch.core.errors import (
    DamagedStore,
    IncompatibleStore,
    StorageError,
    StoreLocked,
    StoreNotFound,
    UsageError,
)
from embedsearch.core.records import Hit
from embedsearch.core.session import Session
from embedsearch.store import fetch, files, mirror
from embedsearch.store.lock import WriterLock
from tests.support.extractor import CountingExtractor
from tests.support.library import REPOSITORY, Library, paint, run_cli, wait_for

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import DENIED, SLOW_DOWN, Fault, S3Server, s3_server

URL = "s3://bucket/in/photos.es"
PREFIX = "bucket/in/photos.es"
ASK = np.ones(512, np.float32) / 512**0.5


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    patch = pytest.MonkeyPatch()
    with s3_server(patch) as running:
        yield running
    patch.undo()


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same store at two times; the later one has one picture more."""
    folder = tmp_path_factory.mktemp("made")
    library = Library(folder / "s.es", lambda spec, *_: CountingExtractor(spec.dim))
    made = []
    for seeds in ((0, 1, 2, 3, 4, 5), (6,)):
        for seed in seeds:
            paint(folder / "photos" / f"{seed}.png", seed)
        library.index(folder / "photos")
        made.append(folder / f"{len(made)}.es")
        shutil.copytree(library.store, made[-1])
    return made


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder for stores in it."""
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


@pytest.fixture
def s3(server: S3Server, generations: list[Path], cached: Path) -> Iterator[S3Server]:
    """A server with the first generation, and no faults."""
    server.put_folder(generations[0], PREFIX)
    server.requests.clear()
    yield server
    server.fault, server.delay_s = lambda method, path: None, 0.0
    with contextlib.suppress(OSError):  # a test may have deleted it
        server.files().delete_dir_contents("bucket")


class Heard:
    """A session's notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.session = Session(notice=self.lines.append)


def upload(s3: S3Server, store: Path) -> None:
    """As the README says: all files, CURRENT last."""
    names = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: name == "CURRENT"):
        s3.put(f"{PREFIX}/{name}", (store / name).read_bytes())


def fetched(s3: S3Server) -> set[str]:
    """Return which files were asked for since the last look, CURRENT not counted."""
    asked = {line.partition(f"/{PREFIX}/")[2] for line in s3.requests if line.startswith("GET")}
    s3.requests.clear()
    return asked - {"CURRENT"}


def hits(store: str | Path, session: Session | None = None) -> list[Hit]:
    with embedsearch.open_store(store, session=session) as searcher:
        return searcher.query(ASK, k=20)


def names(store: Path, folder: str) -> set[str]:
    return {f"{folder}/{name}" for name in os.listdir(store / folder)}


def whole(store: Path) -> None:
    """Assert that a folder is a store of which no byte is wrong and nothing is left over."""
    done, problems = _check(store)
    assert not problems, problems
    assert not os.listdir(store / "tmp")
    assert done.live


def _check(store: Path) -> Any:
    from embedsearch.store.check import check_store

    return check_store(store, read_data=True)


def entry(cached: Path) -> Path:
    (folder,) = cached.glob("*.es")
    return folder


def one_file(store: Path, folder: str) -> str:
    (name,) = os.listdir(store / folder)
    return f"{folder}/{name}"


def test_it_answers_as_the_store_on_the_disk(
    s3: S3Server, generations: list[Path], cached: Path
) -> None:
    wanted = hits(generations[0])
    assert len(wanted) == 6
    heard = Heard()
    assert hits(URL, heard.session) == wanted
    (line,) = heard.lines
    assert line.startswith("fetching 2 files, 0.") and line.endswith(f"of {URL}")
    assert len(fetched(s3)) == 4  # FORMAT, manifest, shard, FAISS file
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
    monkeypatch.setattr("embedsearch.searching.searcher._ASK_EVERY_S", 0.1)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    heard = Heard()
    with embedsearch.open_store(URL, follow=True, session=heard.session) as searcher:
        assert len(searcher) == 6
        s3.fault = lambda method, path: SLOW_DOWN
        wait_for(lambda: searcher.trouble is not None)
        assert len(searcher.query(ASK, k=20)) == 6
        assert "still answering from the generation before" in heard.lines[-1]
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


@pytest.mark.parametrize("folder", ["manifests", "shards", "ann"])
@pytest.mark.parametrize("harm", ["flip", "cut", "more", "empty"])
def test_what_is_not_what_the_manifest_says_is_refused(
    folder: str, harm: str, s3: S3Server, generations: list[Path], cached: Path
) -> None:
    hits(URL)
    store = generations[1]
    wrong = {
        path: _harmed(path.read_bytes(), harm)
        for path in (store / folder).iterdir()
        if not (entry(cached) / folder / path.name).exists()
    }
    upload(s3, store)
    for path, data in wrong.items():
        s3.put(f"{PREFIX}/{folder}/{path.name}", data)
    with pytest.raises(DamagedStore) as raised:
        hits(URL)
    assert any(f"{URL}/{folder}/{path.name}" in str(raised.value) for path in wrong)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 5
    whole(entry(cached))
    assert not names(entry(cached), folder) & {f"{folder}/{path.name}" for path in wrong}
    upload(s3, store)
    assert len(hits(URL)) == 7


def _harmed(data: bytes, harm: str) -> bytes:
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return {"flip": flipped, "cut": data[:-1], "more": data + b"\n", "empty": b""}[harm]


def test_it_is_the_verification_that_catches(
    s3: S3Server, generations: list[Path], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: without it, a forged file is taken, and only `check` knows."""
    name = one_file(generations[0], "shards")
    s3.put(f"{PREFIX}/{name}", _harmed((generations[0] / name).read_bytes(), "flip"))
    with pytest.raises(DamagedStore):
        hits(URL)
    monkeypatch.setattr(files, "check_content", lambda *_: None)
    with contextlib.suppress(DamagedStore):
        hits(URL)
    assert [problem.file for problem in _check(entry(cached))[1]] == [name]


def test_a_hostile_manifest_names_nothing_outside(
    s3: S3Server, generations: list[Path], cached: Path, tmp_path: Path
) -> None:
    name = one_file(generations[0], "manifests")
    honest = json.loads((generations[0] / name).read_bytes())

    def forge(**changes: Any) -> str:
        values = {**honest, "shards": [{**honest["shards"][0], **changes}]}
        data = json.dumps(values).encode()
        s3.put(f"{PREFIX}/{name}", data)
        _point(s3, name.partition("/")[2], data)
        with pytest.raises(DamagedStore) as raised:
            embedsearch.pull(URL, tmp_path / "hostile.es")
        return str(raised.value)

    outside = tmp_path / "s-00000001.parquet"
    for bad in ("../../etc/passwd", "/etc/passwd", f"{outside}", "s-00000001/../x.parquet", "s-1"):
        assert "no file name of a store" in forge(name=bad)
    for bad_size in (-5, 1e9, "9", True, None):
        assert "is malformed" in forge(bytes=bad_size)
    assert "no sha256" in forge(sha256="../x")
    assert "named twice" in forge(name=honest["exact"][0]["name"])
    for bad in ("../../x.json", "s-00000001-ab.parquet"):
        _point(s3, bad, b"x")
        with pytest.raises(DamagedStore, match="CURRENT is garbage"):
            embedsearch.pull(URL, tmp_path / "hostile.es")
    _point(s3, "m-00000009.json", b"x", claims=1 << 40)
    with pytest.raises(DamagedStore, match="claims"):
        embedsearch.pull(URL, tmp_path / "hostile.es")
    made = {path.name for path in (tmp_path / "hostile.es").rglob("*") if path.is_file()}
    assert made == {"FORMAT", "writer.lock"}
    assert not outside.exists()


def _point(s3: S3Server, manifest: str, data: bytes, claims: int | None = None) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    size = len(data) if claims is None else claims
    pointer = {"generation": 1, "manifest": manifest, "bytes": size, "sha256": sha256}
    s3.put(f"{PREFIX}/CURRENT", json.dumps(pointer).encode())


def test_another_format_is_refused(s3: S3Server) -> None:
    s3.put(f"{PREFIX}/FORMAT", b"embedsearch 2\n")
    with pytest.raises(IncompatibleStore, match=f"{URL} has format 2"):
        hits(URL)


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
            _point(s3, f"m-{next(numbers):08d}.json", b"x")
        return None

    s3.fault = fault
    with pytest.raises(StorageError, match="committed to faster than it can be fetched"):
        hits(URL)


def test_a_file_that_is_missing_there(s3: S3Server, generations: list[Path]) -> None:
    name = one_file(generations[0], "ann")
    s3.delete(f"{PREFIX}/{name}")
    with pytest.raises(DamagedStore, match=f"{URL}/{name}"):
        hits(URL)


def test_a_server_that_is_down(
    s3: S3Server, generations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3.fault = lambda method, path: SLOW_DOWN
    with pytest.raises(StorageError, match=f"{URL}/CURRENT: .*503") as raised:
        hits(URL)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 4
    s3.fault = lambda method, path: None
    hits(URL)
    s3.fault = lambda method, path: SLOW_DOWN
    heard = Heard()
    assert hits(URL, heard.session) == hits(generations[0])
    (line,) = heard.lines
    assert line.endswith("answering from generation 2, which was fetched before")
    s3.fault = lambda method, path: None


def test_throttling_is_waited_out(s3: S3Server) -> None:
    asked: dict[str, int] = {}

    def fault(method: str, path: str) -> Fault:
        asked[path] = asked.get(path, 0) + 1
        return SLOW_DOWN if asked[path] == 1 else None

    s3.fault = fault
    assert len(hits(URL)) == 6


def test_who_may_not_read_is_told(s3: S3Server) -> None:
    """In the cache or not: what one has no right to is not answered from."""
    for _ in range(2):
        s3.fault = lambda method, path: DENIED
        with pytest.raises(StorageError, match=r"credentials are taken from the env.*") as raised:
            hits(URL)
        assert "\n" not in str(raised.value) and f"{URL}/CURRENT" in str(raised.value)
        s3.fault = lambda method, path: None
        hits(URL)


def test_what_is_not_there(s3: S3Server, cached: Path) -> None:
    hits(URL)
    for url, words in {
        "s3://bucket/nothing.es": "there is no store: it has no CURRENT",
        "s3://nobody/photos.es": "there is no such bucket",
    }.items():
        with pytest.raises(StoreNotFound, match=f"{url}: {words}"):
            hits(url)
    s3.delete(f"{PREFIX}/CURRENT")
    with pytest.raises(StoreNotFound, match="no CURRENT"):
        hits(URL)
    entry(cached)  # nothing was made for the others


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
    (name,) = names(entry(cached), "ann")
    (entry(cached) / name).unlink()
    assert len(hits(URL)) == 6
    whole(entry(cached))
    (entry(cached) / "CURRENT").write_bytes(b"garbage")
    assert len(hits(URL)) == 6
    path = entry(cached) / name
    path.chmod(0o644)
    path.write_bytes(_harmed(path.read_bytes(), "flip"))
    with pytest.raises(DamagedStore, match=r"it is a copy, fetched again once you delete it"):
        hits(URL)
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
    with pytest.raises(UsageError, match="EMBEDSEARCH_STORE_CACHE_BYTES: 'much' is no number"):
        hits(urls[0])


def test_what_was_opened_stays_readable_when_it_is_removed(s3: S3Server, cached: Path) -> None:
    with embedsearch.open_store(URL) as searcher:
        wanted = searcher.query(ASK, k=20)
        shutil.rmtree(cached)
        assert searcher.query(ASK, k=20, where="width > 1") == wanted


def test_a_disk_without_room(s3: S3Server, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"are to be fetched, and 0.0 MB are free"):
        hits(URL)
    assert not os.listdir(entry(cached) / "shards")


def test_commands_read_it_and_do_not_write_it(s3: S3Server, tmp_path: Path) -> None:
    for command in (["info", "--json"], ["check", "--read-data"], ["failures"]):
        done = run_cli(*command, "--store", URL)
        assert done.returncode == 0, done.stderr
        if command[0] == "info":
            assert json.loads(done.stdout)["store"] == URL
    assert embedsearch.outliers(2, store=URL)
    assert embedsearch.duplicates(store=URL).groups == []
    (tmp_path / "v.npy").write_bytes(b"")
    refused = f"{URL} is only read: embedsearch pull {URL} makes a store to write to"
    with pytest.raises(UsageError, match=refused):
        embedsearch.index(tmp_path, store=URL)
    for command in (["repair"], ["index", "--watch"]):
        environment = {**os.environ, "EMBEDSEARCH_STORE": URL, "PYTHONPATH": str(REPOSITORY)}
        done = run_cli(*command, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"embedsearch: {refused}\n")
    assert not any(path.name.startswith("s3:") for path in tmp_path.iterdir())


def test_pull_makes_a_store_to_write_to(
    s3: S3Server, generations: list[Path], tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    store = tmp_path / "mine" / "photos.es"
    report = embedsearch.pull(URL, store)
    assert (report.generation, report.former, report.images, report.files) == (2, 0, 6, 2)
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
    with pytest.raises(UsageError, match="is no URL"):
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
    assert first.startswith("2 files fetched, 0.")
    assert second == f"{tmp_path}/photos.es holds generation 2: 6 images"
    done = run_cli("pull", URL, tmp_path / "photos.es", "--json", env=environment)
    assert json.loads(done.stdout)["files"] == 0


def test_large_files_come_in_parts(
    s3: S3Server, generations: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PART_BYTES", 1000)
    told: list[int] = []
    report = embedsearch.pull(URL, tmp_path / "p.es", on_progress=lambda p: told.append(p.done))
    assert len(told) > report.fetched_bytes / 1000
    whole(tmp_path / "p.es")
    shard = one_file(generations[0], "shards")
    s3.put(f"{PREFIX}/{shard}", (generations[0] / shard).read_bytes()[:-5000])
    with pytest.raises(DamagedStore, match=f"{shard} has .* bytes, the manifest says"):
        embedsearch.pull(URL, tmp_path / "q.es")


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
        "print([m for m in ('buckets', 'store.fetch', 'store.mirror')"
        " if f'embedsearch.{m}' in sys.modules], 'fsspec' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout == "[] False\n", done.stderr
