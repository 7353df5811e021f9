"""One client of `embedsearch serve` cannot hold the others."""

from __future__ import annotations

import io
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import embedsearch
from tests.support.answers import CLOCK
from tests.support.library import wait_for
from tests.support.serving import Served, parsed, received, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

_HEAD = b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"


def seconds_of(ask: Callable[[], int]) -> float:
    started = time.monotonic()
    assert ask() == 200
    return time.monotonic() - started


def silent(_: socket.socket) -> None:
    """A client that says nothing."""


def half_a_line(connection: socket.socket) -> None:
    connection.sendall(b"GET /hea")


def half_a_body(connection: socket.socket) -> None:
    connection.sendall(_HEAD + b"content-length: 10\r\n\r\nx")


def answered(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"200 OK" in connection.recv(1 << 16)


@pytest.mark.parametrize("behave", [silent, half_a_line, half_a_body, answered])
def test_connections_that_wait_make_room(
    store: Path, behave: Callable[[socket.socket], None]
) -> None:
    with served(store, connections=20, idle_s=30, headers_s=30) as server:
        held = []
        for _ in range(20):
            held.append(server.connect())
            behave(held[-1])
        time.sleep(1.2)  # what is in the middle of something is left alone for a second
        for _ in range(5):
            assert server.get("/health").status == 200
        closed = 0
        for connection in held:
            connection.settimeout(0.05)
            try:
                closed += not connection.recv(1 << 16) or not connection.recv(1 << 16)
            except ConnectionError:
                closed += 1
            except TimeoutError:
                pass
            connection.close()
        assert 1 <= closed <= 6, "no more than were asked to make room"


def test_where_nobody_can_make_room_it_is_told(store: Path) -> None:
    with served(store, connections=20, shares={"pictures": (1, 100)}) as server:
        busy = [server.connect() for _ in range(20)]
        data = io.BytesIO()
        Image.new("RGB", (6000, 6000)).save(data, "PNG")  # takes a while to decode
        body = data.getvalue()
        head = _HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        for connection in busy:
            connection.sendall(head + body)
        assert parsed(server.raw(b"")).status == 503
        for connection in busy:
            assert parsed(received(connection)).status == 200
            connection.close()
        assert server.get("/health").status == 200


def test_uploads_that_stand_still_make_room(store: Path) -> None:
    with served(store, bodies_bytes=8 << 20, body_bytes=4 << 20, json_bytes=1 << 20) as server:
        size = 4 << 20
        held = []
        for _ in range(3):
            connection = server.connect()
            connection.sendall(_HEAD + b"content-length: %d\r\n\r\n" % size)
            held.append(connection)
        for connection in held[:2]:
            connection.sendall(bytes(size - 1))
        assert server.ask(row=1, k=1).status == 200, "small bodies have room of their own"
        time.sleep(1.5)
        large = CLOCK + bytes((2 << 20) - len(CLOCK))
        assert server.upload(large, "?k=1").status == 200
        waiting = select.poll()
        for connection in held[:2]:
            waiting.register(connection, select.POLLIN)
        made_room = {number for number, _ in waiting.poll(1000)}
        told = next(c for c in held if c.fileno() in made_room)
        assert parsed(received(told)).status == 408
        for connection in held:
            connection.close()


def test_small_bodies_that_stand_still_make_room(store: Path) -> None:
    with served(store, small_bodies_bytes=1 << 20, json_bytes=200_000) as server:
        held = []
        for _ in range(6):
            connection = server.connect()
            connection.sendall(_HEAD + b"content-length: 190000\r\n\r\n" + bytes(170_000))
            held.append(connection)
        time.sleep(1.5)
        body = json.dumps({"row": 1, "k": 1}).encode()
        body += b" " * (150_000 - len(body))
        answer = server.request("POST", "/search", body, content_type="application/json")
        assert answer.status == 200
        for connection in held:
            connection.close()


def test_a_trickle_is_slower_than_an_upload(store: Path) -> None:
    with served(store, bodies_bytes=8 << 20, body_bytes=4 << 20) as server:
        stop = threading.Event()
        held = [server.connect() for _ in range(2)]

        def trickle(connection: socket.socket) -> None:
            connection.sendall(_HEAD + b"content-length: %d\r\n\r\n" % (4 << 20))
            connection.sendall(bytes((4 << 20) - 10_000))
            while not stop.wait(0.1):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        threads = [threading.Thread(target=trickle, args=(connection,)) for connection in held]
        for thread in threads:
            thread.start()
        time.sleep(3)
        assert server.upload(CLOCK + bytes(2 << 20), "?k=1").status == 200
        stop.set()
        for thread in threads:
            thread.join()
        for connection in held:
            connection.close()


def test_each_kind_has_turns_of_its_own(store: Path) -> None:
    """Pictures, filters and thumbnails that take all their turns hold up no search by row."""
    shares = dict.fromkeys(("pictures", "filters", "thumbnails"), (1, 60))
    with served(store, shares=shares) as server:
        with ThreadPoolExecutor(30) as pool:
            for number in range(10):
                pool.submit(server.upload, CLOCK)
                pool.submit(server.get, f"/images?where=row%3D{number}")
                pool.submit(server.get, f"/images/{number}/thumbnail?side={900 + number}")
            times = [seconds_of(lambda: server.ask(row=1, k=1).status) for _ in range(20)]
        assert sorted(times)[18] < 1
        metrics = server.get("/metrics").body.decode()
        assert 'embedsearch_requests_running{kind="filters"} 0.0' in metrics


class _Pictures(BaseHTTPRequestHandler):
    """A server of pictures that can hang."""

    protocol_version = "HTTP/1.1"
    hangs = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.hangs.is_set():
            time.sleep(30)
        links = b"".join(b'<a href="%d.jpg">x</a>' % number for number in range(12))
        body = CLOCK if self.path.endswith(".jpg") else links
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@contextmanager
def pictures() -> Iterator[str]:
    site = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    site.daemon_threads = True
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{site.server_port}/p"
    finally:
        _Pictures.hangs.clear()
        site.shutdown()


def test_a_server_of_pictures_that_hangs_holds_up_its_own_only(tmp_path: Path, store: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra `web`")
    local = Path(embedsearch.open_store(store).manifest.roots[0].path)
    with pictures() as url:
        embedsearch.index([url, local], store=tmp_path / "s.es", model="packaged")
        with embedsearch.open_store(tmp_path / "s.es") as searcher:
            rows = {hit.key: hit.row for hit in searcher.query(embedsearch.Key(0), k=100)}
            mine = searcher.get(str(local / "clocks" / "clocks_3.png")).row
            theirs = [rows[f"{number}.jpg"] for number in range(9)]
        with served(tmp_path / "s.es") as server:
            _Pictures.hangs.set()
            held = []
            for row in theirs:
                connection = server.connect()
                line = f"GET /images/{row}/thumbnail HTTP/1.1\r\nhost: localhost\r\n\r\n"
                connection.sendall(line.encode())
                held.append(connection)
            time.sleep(0.5)
            assert seconds_of(lambda: server.ask(row=mine, k=1).status) < 1
            assert seconds_of(lambda: server.get(f"/images/{mine}/thumbnail").status) < 3
            for connection in held:
                connection.close()
            started = time.monotonic()
            server.process.terminate()
            server.process.wait(10)
            assert time.monotonic() - started < 5, "whatever it waits for, a signal ends it"


def test_a_client_that_goes_leaves_the_queue(store: Path) -> None:
    with served(store, shares={"thumbnails": (1, 60)}) as server:
        held = []
        for number in range(40):
            connection = server.connect()
            line = f"GET /images/{number}/thumbnail?side={700 + number} HTTP/1.1\r\n"
            connection.sendall(line.encode() + b"host: localhost\r\n\r\n")
            held.append(connection)
        wait_for(lambda: waiting(server) > 20)
        for connection in held:
            connection.close()
        started = time.monotonic()
        wait_for(lambda: waiting(server) == 0)
        assert time.monotonic() - started < 1, "they are not worked off one by one"


def waiting(server: Served) -> int:
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith('embedsearch_requests_waiting{kind="thumbnails"}'):
            return int(float(line.split()[-1]))
    raise AssertionError("no such metric")


def test_json_of_many_values_is_not_parsed(store: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    head = {"content_type": "application/json", "accept": "application/json, text/event-stream"}

    def call(arguments: dict[str, int | str]) -> int:
        params = {"name": "list_stores", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return server.request("POST", "/mcp", json.dumps(message).encode(), **head).status

    with served(store, "--http", command="mcp") as server:
        assert call({}) == 200
        assert call({f"a{number}": 1 for number in range(1_000_000)}) == 413
        assert call({"image": "x" * (10 << 20)}) == 200  # one text, and the tool's own error
    with served(store) as server:
        many = b"[" * 600_000
        answer = server.request("POST", "/search", many, content_type="application/json")
        assert answer.status == 413
