"""How `embedsearch serve` is asked: lengths, lines, slow clients, too many of them."""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import embedsearch
from tests.support.answers import CLOCK, shortened
from tests.support.library import SAMPLES, wait_for
from tests.support.serving import Response, Served, parsed, received, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        (["content-length: 22020096"], {413}),
        (["content-length: 1000000000000"], {413}),
        (["content-length: -1"], {400}),
        (["content-length: 1, 2"], {400}),
        (["content-length: 0x10"], {400}),
        ([], {411}),
        (["content-length: 3", "transfer-encoding: chunked"], {400}),
        (["transfer-encoding: gzip"], {400, 501}),
    ],
    ids=lambda case: ", ".join(map(str, case)) or "none",
)
def test_lengths_that_cannot_be(server: Served, fields: list[str], statuses: set[int]) -> None:
    lines = ["POST /search HTTP/1.1", "host: localhost", "content-type: image/png", *fields]
    started = time.monotonic()
    with server.connect() as connection:  # nothing of a body is sent, and none waited for
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert parsed(received(connection)).status in statuses
    assert time.monotonic() - started < 5


def test_bodies_that_are_too_long_or_out_of_place(server: Served) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = b"POST /search HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    assert parsed(server.raw(head + chunk * 21)).status == 413
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n"
    assert parsed(server.raw(head + b"abc")).status == 400


HOST = b"host: localhost\r\nconnection: close\r\n\r\n"
LINES = [
    (b"TRACE /search HTTP/1.1\r\n" + HOST, {405}),
    (b"PUT /search HTTP/1.1\r\n" + HOST, {405}),
    (b"DELETE /images/1 HTTP/1.1\r\n" + HOST, {405}),
    (b"BREW /health HTTP/1.1\r\n" + HOST, {405}),
    (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + HOST, {400, 414}),
    (b"GET /health\r\n\r\n", {400}),
    (b"GET /health HTTP/99\r\n" + HOST, {400}),
    (bytes(range(256)) * 16, {400}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400}),
    (b"GET /health HTTP/1.1\r\nx: " + b"a" * 60_000 + b"\r\n" + HOST, {431}),
    (b"GET /health HTTP/1.1\r\nif-none-match: " + b"a" * 60_000 + b"\r\n" + HOST, {431}),
    (b"GET /health HTTP/1.1\r\nrange: bytes=" + b"0-," * 1000 + b"\r\n" + HOST, {200}),
    (b"GET /health HTTP/1.1\r\nx y: 1\r\n" + HOST, {400}),
    (b"GET /health HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n" + HOST, {200}),
]


@pytest.mark.parametrize(
    ("request_", "statuses"), LINES, ids=[shortened(request) for request, _ in LINES]
)
def test_lines_that_cannot_be(server: Served, request_: bytes, statuses: set[int]) -> None:
    answer = parsed(server.raw(request_))
    assert answer.status in statuses
    assert b"Traceback" not in answer.body
    assert server.get("/health").status == 200


def test_a_path_cannot_write_lines_into_the_log(server: Served) -> None:
    server.get("/images/%0d%0aembedsearch:%20forged%1b[31m")
    wait_for(lambda: any("forged" in line for line in server.log))
    lines = [line for line in server.log if "forged" in line]
    assert all("\\r\\n" in line and "\x1b" not in line for line in lines)


def test_slow_clients_are_cut_off_and_others_served(store: Path) -> None:
    with served(store, headers_s=1.5, body_s=2.0, connections=300) as server:
        idle = [server.connect() for _ in range(100)]
        head = b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        slow = []
        for number in range(100):
            connection = server.connect()
            length = b"transfer-encoding: chunked" if number % 2 else b"content-length: 1000"
            connection.sendall(head + length + b"\r\n\r\n" + b"1\r\nx\r\n")
            slow.append(connection)
        half = server.connect()
        half.sendall(b"GET /health HT")
        started = time.monotonic()
        assert server.get("/health").status == 200
        assert server.upload(CLOCK, "?k=1").json["hits"][0]["key"] == "clocks/clocks_1.jpg"
        assert time.monotonic() - started < 1
        for connection in (*slow, *idle, half):
            connection.settimeout(10)
            assert parsed(received(connection)).status == 408
            connection.close()
        assert time.monotonic() - started < 8
        assert server.get("/health").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_no_descriptor_and_no_space_left(store: Path) -> None:
    with served(store) as server:
        _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1000, most))
        full = server.upload(CLOCK)
        assert (full.status, full.json) == (
            503,
            {"error": "this cannot be answered now: see the server's log", "code": "failed"},
        )
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
        assert server.upload(CLOCK).status == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (48, 48))
        held = [server.connect() for _ in range(60)]
        time.sleep(2.5)  # it tries again, and fails again
        for connection in held:
            connection.close()
        assert server.upload(CLOCK).status == 200
        time.sleep(1.5)  # until it has stopped trying
    server._reader.join(10)
    assert [line.split(": ", 1)[1] for line in server.log] == [
        "POST /search: a temporary image cannot be written: [Errno 27] File too large; "
        "TMPDIR sets another folder\n",
        "socket.accept() out of system resource: [Errno 24] Too many open files\n",
    ]


def test_a_client_that_takes_no_answer_is_cut_off(store: Path) -> None:
    with served(store, answer_s=1.0, idle_s=60) as server:
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
            ended = False
            deadline = time.monotonic() + 20
            connection.settimeout(0.2)
            while not ended and time.monotonic() < deadline:
                try:
                    connection.sendall(line * 20)
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert ended
        assert server.get("/health").status == 200


def test_answers_that_wait_for_their_reader_are_not_kept(store: Path) -> None:
    """Also where so little waits that the server could go on writing."""
    line = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with served(store, answer_s=1.0, headers_s=1.0) as server, contextlib.ExitStack() as held:
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for number in range(160, 240, 3):  # of which the system itself takes about 210
            connection = held.enter_context(server.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(line * number)
        wait_for(lambda: len(list(descriptors.iterdir())) <= before)


def test_eight_run_and_some_wait(store: Path) -> None:
    with served(store, shares={"pictures": (2, 4)}) as server:
        answers: list[Response] = []

        def ask() -> None:
            answers.append(server.upload(CLOCK))

        threads = [threading.Thread(target=ask) for _ in range(60)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        assert server.get("/health").status == 200
        assert time.monotonic() - started < 1
        for thread in threads:
            thread.join()
        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 503} and counts[200] >= 6
        busy = [answer for answer in answers if answer.status == 503]
        assert all(answer.headers["retry-after"] == "1" for answer in busy)
        assert server.upload(CLOCK).status == 200


def test_many_at_once_get_their_own_answers(server: Served, searcher: embedsearch.Searcher) -> None:
    pictures = sorted(SAMPLES.glob("*/*.jpg"))[:16]
    expected = {path: searcher.query(path, k=3)[1].key for path in pictures}
    with ThreadPoolExecutor(16) as pool:
        jobs = [
            (path, pool.submit(server.upload, path.read_bytes(), "?k=3")) for path in pictures * 4
        ]
        for path, job in jobs:
            assert job.result().json["hits"][1]["key"] == expected[path]


def test_an_answer_does_not_wait_for_the_network(server: Served) -> None:
    """A server that leaves Nagle's algorithm on takes 40 ms for each."""
    times = []
    with server.connect() as connection:
        for _ in range(20):
            started = time.monotonic()
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
            times.append(time.monotonic() - started)
    assert sorted(times)[10] < 0.02
