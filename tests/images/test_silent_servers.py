"""Web servers that send nothing, or too slowly: whoever waits for one is told so in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import embedsearch
from embedsearch import Crop, Key
from embedsearch.core import bounds, remote
from embedsearch.core.errors import NothingIndexed, UnreadableImage
from embedsearch.core.records import Reason
from tests.support.answering import Web, picture, served
from tests.support.library import Library

pytest.importorskip("aiohttp", reason="needs aiohttp, as https:// does")


def test_nobody_waits_for_a_server_that_trickles(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SILENT_S", 1.0)
    monkeypatch.setattr(bounds, "HEADERS_S", 1.0)
    monkeypatch.setattr(bounds, "LISTING_S", 1.0)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    over = threading.Event()

    def answer(web: Web) -> None:
        if not web.path.endswith(".png") and not web.path.startswith("/slow"):
            return web.list("a.png", "b.png")
        web.send_response(200)
        if not web.path.endswith("b.png"):  # whose headers have no end
            web.send_header("content-length", "1000000")
            web.end_headers()
        web.flush_headers()
        while web.command == "GET" and not over.wait(0.2):
            web.wfile.write(b"x: y\r\n")
            web.wfile.flush()
        return None

    with served(answer) as url:
        began = time.monotonic()
        with pytest.raises(NothingIndexed):
            library.index(f"{url}/p/")
        assert set(library.reasons().values()) == {Reason.IO_ERROR}
        with pytest.raises(NothingIndexed):
            library.index(f"{url}/slow/")
        assert Reason.OVER_BOUND in library.reasons().values()
        assert time.monotonic() - began < 60
        over.set()


@pytest.mark.parametrize("has_headers", [True, False])
def test_nobody_waits_for_a_picture_that_does_not_come(
    has_headers: bool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SILENT_S", 1.0)
    monkeypatch.setattr(bounds, "HEADERS_S", 1.0)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    data, hangs, over = picture(), threading.Event(), threading.Event()

    def answer(web: Web) -> None:
        if not web.path.endswith(".png"):
            web.list("a.png")
        elif not hangs.is_set() or web.command == "HEAD":
            web.say(data)
        else:
            if has_headers:
                web.say(b"", content_length=str(len(data)))
            over.wait(60)

    with served(answer) as url, ThreadPoolExecutor(1) as pool:
        library.index(f"{url}/p/")
        hangs.set()
        with embedsearch.open_store(library.store) as searcher:
            for ask in (
                lambda: searcher.thumbnail("a.png", 64),
                lambda: searcher.query(Crop(Key("a.png"), 0, 0, 9, 9)),
                lambda: searcher.query(Crop(f"{url}/q/a.png", 0, 0, 9, 9)),
            ):
                began = time.monotonic()
                with pytest.raises(UnreadableImage, match="io_error"):
                    pool.submit(ask).result(30)
                assert time.monotonic() - began >= 0.9, "the server was asked"
        over.set()
