"""Who may ask `embedsearch serve`: by which host name, from which site, with which token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.answers import failed
from tests.support.library import run_cli
from tests.support.serving import Served, parsed, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")
JSON = "application/json"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.com", "127.0.0.1.nip.io", "a@localhost", "[::2]"]
)
def test_other_host_names_are_refused(server: Served, host: str) -> None:
    failed(server.get("/health", host=host), 403)


def test_a_host_name_is_needed_once(server: Served) -> None:
    line = b"GET /health HTTP/1.1\r\nconnection: close\r\n"
    assert parsed(server.raw(line + b"host:\r\n\r\n")).status == 403
    assert parsed(server.raw(line + b"\r\n")).status == 400
    assert parsed(server.raw(line + b"host: localhost\r\nhost: localhost\r\n\r\n")).status == 400


@pytest.mark.parametrize("host", ["localhost:#", "127.0.0.1:#", "[::1]:#", "LOCALHOST"])
def test_names_of_this_machine_are_known(server: Served, host: str) -> None:
    assert server.get("/health", host=host.replace("#", str(server.port))).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
    ids=lambda headers: ": ".join(*headers.items()),
)
def test_other_sites_are_refused(server: Served, headers: dict[str, str]) -> None:
    body = b'{"row": 1}'
    failed(server.request("POST", "/search", body, content_type=JSON, **headers), 403)


def test_this_site_may_ask(server: Served) -> None:
    body = b'{"row": 1}'
    origin = f"http://localhost:{server.port}"
    answer = server.request("POST", "/search", body, content_type=JSON, origin=origin)
    assert answer.status == 200
    assert server.request("OPTIONS", "/search").status == 405


def test_a_token_is_asked_for(store: Path) -> None:
    done = run_cli("serve", "--store", store, "--host", "0.0.0.0")
    assert (done.returncode, "--token" in done.stderr) == (2, True)
    assert run_cli("serve", "--store", store, "--token", "short").returncode == 2
    arguments = ("--host", "0.0.0.0", "--token", "auto", "--allow-host", "photos.lan", "-v")
    with served(store, *arguments) as server:
        token = server.url.partition("token=")[2]
        assert len(token) >= 32
        assert server.get("/health").status == 200
        assert server.get("/health", host="0.0.0.0").status == 403
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "embedsearch_token=x"}):
            failed(server.get("/info", **headers), 401)
            failed(server.request("POST", "/search", b"{}", **headers), 401)
        failed(server.get("/info?token=wrong"), 401)
        failed(
            server.get(
                "/info?token=é".encode().decode("latin-1").encode("ascii", "replace").decode()
            ),
            401,
        )
        assert server.get("/info", authorization=f"Bearer {token}", host="photos.lan").status == 200
        moved = server.get(f"//info?token={token}&side=3")
        assert (moved.status, moved.headers["location"]) == (303, "/info?side=3")
        cookie = moved.headers["set-cookie"]
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert server.get("/info", cookie=f"embedsearch_token={token}").status == 200
    server._reader.join(10)
    assert any("/info" in line for line in server.log)
    assert not any(token in line for line in server.log)
