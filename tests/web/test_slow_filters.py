"""A filter of one client that takes long: others are answered, and it ends with its client."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.filters import children, is_alive, no_end_of_constants
from tests.support.library import wait_for
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")


def filtering(server: Served) -> list[int]:
    """Return the processes of a server that answer filters."""
    found = []
    for process in children(server.process.pid):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"filters.worker" in command and is_alive(process):
            found.append(process)
    return found


@pytest.mark.parametrize("path", ["/images?k=1&where=", "/search?row=1&k=1&where="])
def test_a_slow_filter_holds_nobody_and_ends_with_its_client(store: Path, path: str) -> None:
    with served(store) as server:
        assert server.get("/images?k=1&where=row%3D1").status == 200
        (idle,) = filtering(server)
        connection = server.connect()
        target = path + quote(no_end_of_constants())
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        time.sleep(0.5)
        other = "&where=row%3E1"
        for ask in ("/search?row=1&k=1", f"/search?row=1&k=1{other}", f"/images?k=1{other}"):
            started = time.monotonic()
            assert server.get(ask).status == 200
            assert time.monotonic() - started < 4
        assert filtering(server)
        connection.close()
        wait_for(lambda: idle not in filtering(server), 5)
        assert server.get("/images?k=1&where=row%3D3").status == 200
