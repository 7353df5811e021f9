"""`embedsearch serve` in a process of its own, and requests to it byte by byte."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.library import REPOSITORY

# The command with other limits, so that a time-out can be waited for.
_PROGRAM = """
import json, sys
from embedsearch.cli.entry import run
from embedsearch.cli import servers
from embedsearch.web import limits
values = json.loads(sys.argv[1])
if shares := values.pop("shares", {}):
    default = limits.ServerLimits().shares
    given = {limits.Kind(kind): limits.Share(*share) for kind, share in shares.items()}
    values["shares"] = {**default, **given}
class Limits(limits.ServerLimits):
    def __init__(self, **given):
        super().__init__(**{**given, **values})
limits.ServerLimits = servers.ServerLimits = Limits
if sys.argv[2]:
    from tests.soak import mutants
    mutants.apply(sys.argv[2])
sys.exit(run(sys.argv[3:]))
"""


@dataclass(frozen=True)
class Response:
    """What came back, and whether the server closed the connection after it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], first_lines: list[str]) -> None:
        self.process = process
        self.first_lines = first_lines  # of what it said, the last one where it listens
        address = re.search(r"http://\S+?:(\d+)/[^\s;]*", first_lines[-1])
        assert address is not None, first_lines
        self.url, self.port = address[0], int(address[1])
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def connect(self, timeout: float = 30.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, request: bytes, timeout: float = 30.0) -> bytes:
        """Send bytes and return all that comes until the server closes."""
        with self.connect(timeout) as connection:
            with contextlib.suppress(OSError):  # it may have closed already, and said why
                connection.sendall(request)
            return received(connection)

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> Response:
        """Send one request; a header is named with _ for -, and left out where it is empty."""
        fields = {"host": f"localhost:{self.port}", "connection": "close"}
        if body is not None:
            fields["content-length"] = str(len(body))
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v)]
        return parsed(self.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")))

    def get(self, target: str, **headers: str) -> Response:
        return self.request("GET", target, None, **headers)

    def ask(self, **values: Any) -> Response:
        """Search with JSON."""
        return self.request(
            "POST", "/search", json.dumps(values).encode(), content_type="application/json"
        )

    def upload(self, image: bytes, query: str = "") -> Response:
        return self.request("POST", f"/search{query}", image, content_type="image/jpeg")

    def resident_mib(self) -> float:
        """Return the memory of the server itself, without its workers."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1024


def received(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def parsed(answer: bytes) -> Response:
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100 "):  # it is told to go on; its answer comes after
        return parsed(body)
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 "):
        raise AssertionError(f"no answer: {answer[:200]!r}")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Response(int(first.split()[1]), headers, body)


@contextmanager
def served(
    store: Path,
    *arguments: str,
    command: str = "serve",
    mutant: str | None = None,
    **limits: Any,
) -> Iterator[Served]:
    """Serve a store on a free port until the block ends.

    `limits` are those of ServerLimits; `shares` a dictionary of kinds, each with its turns and
    places to wait.
    """
    program = [sys.executable, "-c", _PROGRAM, json.dumps(limits), mutant or "", command]
    process = subprocess.Popen(
        [*program, "--store", str(store), "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                server = Served(process, lines)
                break
        else:
            raise AssertionError("".join(lines))
        server.get("/health")  # it listens already, and answers once it has begun
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            raise
