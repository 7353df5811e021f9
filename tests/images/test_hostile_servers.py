"""Web servers that state what they like: an error in words and in time, never half a picture."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedsearch.core import bounds
from embedsearch.core.errors import NothingIndexed, StorageError
from embedsearch.core.records import ImageRef, Reason
from embedsearch.core.web_files import REDIRECTS_VARIABLE
from embedsearch.images.sources.remote import fetched
from embedsearch.images.temporary import TemporaryImages
from tests.support.answering import Web, picture, served
from tests.support.archives import make_tar
from tests.support.library import Library, counts

pytest.importorskip("aiohttp", reason="needs aiohttp, as https:// does")


def _chunked(web: Web, data: bytes) -> None:
    web.send_response(200)
    web.send_header("transfer-encoding", "chunked")
    web.end_headers()
    if web.command == "GET":
        for start in range(0, len(data), 7000):
            part = data[start : start + 7000]
            web.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            web.wfile.flush()
        web.wfile.write(b"0\r\n\r\n")


def test_what_comes_in_chunks_is_whole(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture()
    archive = make_tar(tmp_path / "a.tar", [("c.png", picture(90))]).read_bytes()

    def answer(web: Web) -> None:
        if web.path.endswith((".png", ".tar")):
            return _chunked(web, data if web.path.endswith(".png") else archive)
        return web.list("a.png", "b.png")

    with served(answer) as url:
        assert counts(library.index(f"{url}/p")) == (2, 2, 0, 0, 0, 0, 0)
        assert library.index(f"{url}/a.tar").added == 1
        monkeypatch.setattr(bounds, "UNSIZED_BYTES", 5000)
        with pytest.raises(StorageError, match="longer than is read"):
            library.index(f"{url}/b.tar")


def _endless(web: Web) -> None:
    web.send_response(200)
    web.send_header("transfer-encoding", "chunked")
    web.end_headers()
    links = b'<a href="z.txt">x</a>' * 4000
    while web.command == "GET":
        web.wfile.write(b"%x\r\n%s\r\n" % (len(links), links))


def _many(web: Web) -> None:
    web.list(*(f"{number}.png" for number in range(3000)))


def _circle(web: Web) -> None:
    web.say(picture()) if web.path.endswith(".png") else web.list("again/", "b.png")


def _deep(web: Web) -> None:
    web.list(f"{os.urandom(4).hex()}/", f"{os.urandom(4).hex()}/")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_endless, "the list is longer than 2 MB"),
        (_many, "lists more than 1000 names"),
        (_circle, "3 folders in one another list the same"),
        (_deep, "folders are more than 64 deep"),
    ],
)
def test_a_list_without_end_is_a_failure(
    answer: Callable[[Web], None], words: str, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LISTING_BYTES", 2 << 20)
    monkeypatch.setattr(bounds, "LISTING_LINKS", 1000)
    with served(answer) as url:
        if answer is _circle:
            report = library.index(f"{url}/p/")
            assert report.added == 2
            assert set(library.reasons().values()) == {Reason.OVER_BOUND}
        else:
            with pytest.raises(NothingIndexed, match=words):
                library.index(f"{url}/p/")


def _tar(tmp_path: Path) -> bytes:
    return make_tar(
        tmp_path / "a.tar", [("a.png", picture()), ("b.bin", os.urandom(20 << 20))]
    ).read_bytes()


def _ranged(data: bytes, change: Callable[[int, int, dict[str, str]], tuple[int, bytes]]) -> object:
    def answer(web: Web) -> None:
        found = re.match(r"bytes=(\d+)-(\d+)", web.headers.get("Range") or "")
        if found is None or web.command == "HEAD":
            return web.say(data, etag='"1"')
        first, last = int(found[1]), min(int(found[2]), len(data) - 1)
        headers = {"content_range": f"bytes {first}-{last}/{len(data)}", "etag": '"1"'}
        code, body = change(first, last, headers)
        return web.say(body, code, **headers)

    return answer


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("good", ""),
        ("half", "answers with bytes 0-"),
        ("fewer", "promised"),
        ("elsewhere", "answers with bytes 1-"),
        ("without", "came"),
        ("tag", "changed on the server"),
        ("whole", "range requests"),
    ],
)
def test_a_range_is_what_was_asked_for(
    kind: str, words: str, library: Library, tmp_path: Path
) -> None:
    data = _tar(tmp_path)
    count = 0

    def change(first: int, last: int, headers: dict[str, str]) -> tuple[int, bytes]:
        nonlocal count
        count += 1
        part = data[first : last + 1]
        if kind == "half" and not first:
            last = last // 2
            headers["content_range"] = f"bytes {first}-{last}/{len(data)}"
            part = data[first : last + 1]
        elif kind == "fewer":
            part = part[: len(part) // 2]
        elif kind == "elsewhere" and not first:
            headers["content_range"] = f"bytes 1-{last + 1}/{len(data)}"
        elif kind == "without":
            del headers["content_range"]
            part = part[: len(part) // 2]
        elif kind == "tag":
            headers["etag"] = f'"{count}"'
        elif kind == "whole" and first:
            return 200, data
        return 206, part

    assert len(data) > 16 << 20, "several ranges"
    with served(_ranged(data, change)) as url:  # type: ignore[arg-type]
        if kind == "good":
            assert library.index(f"{url}/a.tar").added == 1
        else:
            with pytest.raises(StorageError, match=words):
                library.index(f"{url}/a.tar")
            assert not library.store.exists()


def test_a_redirect_to_another_host_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def other(web: Web) -> None:
        asked.append(web.path)
        web.say(picture()) if web.path.endswith(".png") else web.list("a.png")

    with served(other) as elsewhere:
        where = {"to": elsewhere}

        def sends(web: Web) -> None:
            if web.path.startswith("/q") and not where["to"].startswith("file"):
                return web.list("b.png") if web.path.endswith("/") else web.say(picture())
            to = where["to"] if where["to"].startswith(("file", "/")) else where["to"] + web.path
            return web.say(b"", 302, location=to)

        with served(sends) as url:
            with pytest.raises(StorageError, match=rf"to allow it set {REDIRECTS_VARIABLE}="):
                library.index(f"{url}/p/")
            assert not asked
            where["to"] = "file:///etc/passwd"
            with pytest.raises(StorageError):
                library.index(f"{url}/p/")
            where["to"] = "/p/"
            with pytest.raises(StorageError):
                library.index(f"{url}/p/")
            where["to"] = url + "/q/"
            monkeypatch.setenv(REDIRECTS_VARIABLE, "cdn.example, 127.0.0.1")
            where["to"] = elsewhere
            assert library.index(f"{url}/p/").added == 1
            assert asked


def test_a_redirect_on_the_same_host_is_followed(library: Library) -> None:
    def answer(web: Web) -> None:
        if web.path.startswith("/old"):
            return web.say(b"", 301, location=web.path.replace("/old", "/new", 1))
        return web.say(picture()) if web.path.endswith(".png") else web.list("a.png")

    with served(answer) as url:
        assert library.index(f"{url}/old/").added == 1


def test_what_is_packed_unasked_is_refused(library: Library) -> None:
    packed = gzip.compress(bytes(200 << 20), 1)

    def answer(web: Web) -> None:
        if web.path.endswith(".png"):
            return web.say(packed, content_encoding="gzip")
        return web.list("a.png")

    with served(answer) as url:
        with pytest.raises(NothingIndexed):
            library.index(f"{url}/p/")
        assert set(library.reasons().values()) == {Reason.IO_ERROR}
    with (
        served(lambda web: web.say(packed, content_encoding="gzip")) as url,
        pytest.raises(StorageError, match="packs its answer"),
    ):
        library.index(f"{url}/p/")


def test_what_is_fetched_ahead_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "AHEAD_BYTES", 10 << 20)
    begun: list[int] = []
    temporary = TemporaryImages()

    def read(ref: ImageRef) -> tuple[object, int]:
        begun.append(1)
        return temporary.keep(b"x"), 2 << 20

    refs = [ImageRef(0, f"{number}", 2 << 20, -1) for number in range(100)]
    for taken, _ in enumerate(fetched(refs, read), start=1):  # type: ignore[arg-type]
        assert len(begun) <= taken + 6
    assert len(begun) == 100
    temporary.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_waits_for_a_server(number: signal.Signals, tmp_path: Path) -> None:
    asked = threading.Semaphore(0)
    over = threading.Event()

    def answer(web: Web) -> None:
        asked.release()
        over.wait(60)

    with served(answer) as url:
        store = tmp_path / "s.es"
        commands = [
            ["index", f"{url}/p/", "--store", store, "--model", "packaged"],
            ["index", f"{url}/a.tar", "--store", store, "--model", "packaged"],
            ["pull", f"{url}/x.es", tmp_path / "x.es"],
            ["info", "--store", f"{url}/x.es"],
        ]

        def ended(command: list[object]) -> tuple[int, float]:
            line = [sys.executable, "-m", "embedsearch", *map(str, command)]
            environment = {**os.environ, "EMBEDSEARCH_CACHE": str(tmp_path / "cache")}
            with subprocess.Popen(line, stderr=subprocess.DEVNULL, env=environment) as process:
                assert asked.acquire(timeout=60)
                time.sleep(0.3)
                began = time.monotonic()
                process.send_signal(number)
                code = process.wait(30)
                return code, time.monotonic() - began

        with ThreadPoolExecutor(1) as pool:
            ends = list(pool.map(ended, commands))
        over.set()
    assert {code for code, _ in ends} <= {128 + number, -number}
    assert all(seconds < 4 for _, seconds in ends), ends  # 1.5 s, and a slow machine
    assert not store.exists() and not (tmp_path / "x.es").exists()
