"""Requests that are almost right, to `embedsearch serve`: each is answered or cut off, all stay.

In: nothing; out: a server after thousands of mutated requests, and beside idle connections.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.soak.finding import Finding, Trial
from tests.soak.scenes import indexing
from tests.support.library import paint
from tests.support.serving import Served, parsed, served

_REQUESTS = 10_000
_WARM = 200
_CLIENTS = 8
_IDLE = 200
_GROWTH_MIB = 50
# What a server may say of what it is sent.
_STATUSES = {200, 303, 400, 403, 404, 405, 408, 411, 413, 415, 422, 431, 503}
_BETRAYS = (b"Traceback", b"site-packages", b"embedsearch/web", b".py", b"/home", b"/tmp", b"/dev")


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Send mutated requests from several clients, then look at the server."""
    photos = folder / "photos"
    for seed in range(8):
        paint(photos / f"{seed}.png", seed)
    indexing(photos)(folder / "s.es")
    picture = (photos / "0.png").read_bytes()
    rng = trial.random()
    requests = [_mutated(rng, _right(rng, picture)) for _ in range(trial.count(_REQUESTS))]
    limits: dict[str, Any] = {"headers_s": 0.4, "body_s": 0.4, "idle_s": 1.0}
    with served(folder / "s.es", mutant=trial.mutant, **limits) as server:
        with ThreadPoolExecutor(_CLIENTS) as clients:

            def send(some: list[bytes]) -> None:
                for sent in [clients.submit(_send, finding, server, one) for one in some]:
                    sent.result()

            send([_right(rng, picture) for _ in range(_WARM)])  # all is there that is ever needed
            before = server.resident_mib()
            send(requests)
        growth = server.resident_mib() - before
        finding.figures["MiB grown"] = round(growth)
        if growth > _GROWTH_MIB:
            finding.accuse(f"the server grew by {growth:.0f} MiB")
        _judge(finding, server)
    server._reader.join(10)
    for line in server.log:
        if "Traceback" in line or "Exception" in line:
            finding.accuse(f"in the log: {line}")
            break
    with served(folder / "s.es", mutant=trial.mutant) as server:
        idle = [server.connect() for _ in range(_IDLE)]
        finding.count("idle connections beside it", len(idle))
        _judge(finding, server)
        for connection in idle:
            connection.close()


def _judge(finding: Finding, server: Served) -> None:
    started = time.monotonic()
    healthy, found = server.get("/health"), server.ask(row=0, k=3)
    if healthy.status != 200 or found.status != 200 or len(found.json["hits"]) != 3:
        finding.accuse(f"it answers {healthy.status} and {found.status} afterwards")
    if time.monotonic() - started > 1:
        finding.accuse("it took over a second to answer")


def _send(finding: Finding, server: Served, request: bytes) -> None:
    finding.count("requests")
    answer = server.raw(request, timeout=20)
    if not answer:
        finding.count("cut off without a word")
        return
    status = parsed(answer).status
    finding.count("answered with 200" if status == 200 else f"with {status}")
    told = status != 200 and any(word in answer for word in _BETRAYS)
    if told or status not in _STATUSES:
        finding.accuse(f"{request[:200]!r} is answered with {answer[:500]!r}")


def _right(rng: random.Random, picture: bytes) -> bytes:
    """Return a request as it should be."""
    form = b"--x\r\ncontent-disposition: form-data; name=image; filename=a\r\n\r\n%s\r\n--x--"
    target, kind, body = rng.choice(
        [
            (b"/search", b"application/json", b'{"row": 1, "k": 2, "where": "width > 1"}'),
            (b"/search", b"application/json", b'{"key": "1.png", "min_score": 0.5, "offset": 1}'),
            (b"/search", b"application/json", b'{"vector": [%s1]}' % (b"0," * 511)),
            (b"/search?k=3&crop=0,0,9,9", b"image/png", picture),
            (b"/search?k=3", b"multipart/form-data; boundary=x", form % picture),
            (b"/images/1", b"", b""),
            (b"/images/1/thumbnail?side=64", b"", b""),
            (b"/info?token=a", b"", b""),
            (b"/metrics", b"", b""),
            (b"/openapi.json", b"", b""),
        ]
    )
    lines = [b"host: localhost", b"connection: close"]
    if body:
        lines += [b"content-type: " + kind, b"content-length: %d" % len(body)]
    method = b"POST" if body else b"GET"
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", b""]) + body


def _mutated(rng: random.Random, request: bytes) -> bytes:
    """Return a request of which up to four places, most of them in its head, are other ones."""
    data = bytearray(request)
    head = request.index(b"\r\n\r\n") + 4
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(head if rng.random() < 0.7 else len(data) or 1)
        length = rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(6):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
            case 3:
                data[place:place] = rng.randbytes(length)
            case 4:
                data[place:place] = rng.choice(_WORDS)
            case _:
                del data[place:]
                data += b"\r\n" * rng.randrange(3)
    return bytes(data)


_WORDS = (
    *(b"\r\n", b"\r\n\r\n", b"\0", b" ", b"%00", b"%2e%2e/", b"../", b"//", b"?", b"&k=9", b";"),
    *(b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n", b"host: evil.example\r\n"),
    *(b"origin: null\r\n", b"expect: 100-continue\r\n", b"upgrade: websocket\r\n", b"1e999"),
    *(
        b"NaN",
        b"[[[[",
        b'{"a":',
        b'"',
        b"\\ud800",
        b"\xff\xfe",
        b"9" * 30,
        b"'",
        b"--",
        b"\x16\x03",
    ),
)
