"""One client attacks `embedsearch serve`, another searches by row: in a second, whatever is tried.

In: attacks by name; out: the times of the other client's searches while each goes on.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.soak.finding import Finding, Trial
from tests.soak.scenes import indexing
from tests.support.library import paint
from tests.support.serving import Served, served

_SECONDS = 10.0  # an attack
_SLOWEST_S = 1.0
_CLIENTS = 16
_POST = b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"

Attack = Callable[[Served, threading.Event], None]


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Let each attack go on for a while, and search beside it."""
    for seed in range(12):
        paint(folder / "photos" / f"{seed}.png", seed)
    indexing(folder / "photos")(folder / "s.es")
    _large_picture()
    for name, attack in _ATTACKS.items():
        if trial.scenes and name not in trial.scenes:
            continue
        with served(folder / "s.es", mutant=trial.mutant) as server:
            _beside(finding, server, name, attack, max(2.0, _SECONDS * trial.share))
            started = time.monotonic()
            server.process.terminate()
            server.process.wait(30)
            if time.monotonic() - started > 5:
                finding.accuse(f"{name}: it took over 5 s to end")


def _beside(finding: Finding, server: Served, name: str, attack: Attack, seconds: float) -> None:
    stop = threading.Event()
    threads = [
        threading.Thread(target=_attacking, args=(attack, server, stop), daemon=True)
        for _ in range(_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    times = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        started = time.monotonic()
        try:
            status = server.ask(row=1, k=3).status
        except (OSError, AssertionError) as error:
            finding.accuse(f"{name}: another client got no answer ({error})")
            break
        times.append(time.monotonic() - started)
        if status != 200:
            finding.accuse(f"{name}: another client was answered {status}")
            break
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(10)
    times.sort()
    slow = times[int(0.95 * len(times))] if times else 0.0
    finding.figures[f"ms, 95 % of searches beside {name}"] = round(1000 * slow)
    finding.count("searches", len(times))
    if slow > _SLOWEST_S:
        finding.accuse(f"{name}: 5 % of another client's searches took over {slow:.1f} s")


def _attacking(attack: Attack, server: Served, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError, AssertionError):
            attack(server, stop)


def _held(server: Served, stop: threading.Event, count: int, said: bytes) -> None:
    """Hold connections that have said something until the end."""
    held: list[socket.socket] = []
    try:
        while len(held) < count and not stop.is_set():
            held.append(server.connect(5))
            held[-1].sendall(said)
        stop.wait(2)
    finally:
        for connection in held:
            connection.close()


def _silent(server: Served, stop: threading.Event) -> None:
    _held(server, stop, 60, b"")


def _half_headers(server: Served, stop: threading.Event) -> None:
    _held(server, stop, 60, b"GET /search?row=1 HTTP/1.1\r\nhost: loc")


def _half_uploads(server: Served, stop: threading.Event) -> None:
    size = 20 << 20
    _held(server, stop, 2, _POST + b"content-length: %d\r\n\r\n" % size + bytes(size - 1))


def _half_small_bodies(server: Served, stop: threading.Event) -> None:
    _held(server, stop, 8, _POST + b"content-length: 1000000\r\n\r\n" + bytes(999_999))


@cache
def _large_picture() -> bytes:
    """Return 9,400 × 9,400 pixels of four times 16 bits in under a megabyte."""
    side = 9400

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        )

    packed = zlib.compressobj(9)
    pixels = b"".join(packed.compress(bytes(1 + 8 * side)) for _ in range(side)) + packed.flush()
    head = struct.pack(">LLBBBBB", side, side, 16, 6, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _large_pictures(server: Served, _: threading.Event) -> None:
    server.upload(_large_picture(), "?k=1")


def _slow_filters(server: Served, _: threading.Event) -> None:
    nested = "path"
    for _letter in range(40):
        nested = f"replace({nested}, 'a', 'aaaaaaaa')"
    server.ask(row=1, where=f"length({nested}) < 5")


def _many_values(server: Served, _: threading.Event) -> None:
    body = json.dumps(list(range(120_000))).encode()
    server.request("POST", "/search", body, content_type="application/json")


def _deep_json(server: Served, _: threading.Event) -> None:
    body = b"[" * 90_000 + b"]" * 90_000
    server.request("POST", "/search", body, content_type="application/json")


def _odd_forms(server: Served, _: threading.Event) -> None:
    """A form of 10 MB in which nearly every line might be its end."""
    part = b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = part + b"\r\n--" * 2_500_000 + b"\r\n--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    server.request("POST", "/search", body, content_type=kind)


def _thumbnails(server: Served, _: threading.Event) -> None:
    for row in range(12):
        server.get(f"/images/{row}/thumbnail?side={200 + time.monotonic_ns() % 800}")


def _wide_searches(server: Served, _: threading.Event) -> None:
    server.ask(row=1, k=1000, offset=0, expand=100)


def _unread_answers(server: Served, stop: threading.Event) -> None:
    line = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    _held(server, stop, 10, line * 50)


_ATTACKS: dict[str, Attack] = {
    "silent-connections": _silent,
    "half-headers": _half_headers,
    "half-uploads": _half_uploads,
    "half-small-bodies": _half_small_bodies,
    "large-pictures": _large_pictures,
    "slow-filters": _slow_filters,
    "many-values": _many_values,
    "deep-json": _deep_json,
    "odd-forms": _odd_forms,
    "thumbnails": _thumbnails,
    "wide-searches": _wide_searches,
    "unread-answers": _unread_answers,
}
