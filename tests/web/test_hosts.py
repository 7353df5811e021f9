"""The names of a server, its probes, its proxies and its log, as an operator meets them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from pathlib import Path

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.web.access import Access, access, own_names
from embedsearch.web.limits import CONCURRENCY, QUEUE, Kind, ServerLimits, Share, shares
from embedsearch.web.probes import Readiness
from embedsearch.web.turns import Turns
from tests.support.answers import failed
from tests.support.library import run_cli
from tests.support.serving import served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

TOKEN = "long enough"


def test_patterns_of_names() -> None:
    rules = access("0.0.0.0", ["*.example.org", "Photos.", "_a.b_c"], TOKEN)
    for name in ("a.example.org", "a.b.example.org", "photos", "photos.", "_a.b_c", "10.1.2.3"):
        assert rules.is_own(name), name
    for name in ("example.org", "aexample.org", "example.org.evil", "", ".", "photo", "*"):
        assert not rules.is_own(name), name
    assert own_names() <= rules.hosts
    everything = access("0.0.0.0", ["*"], TOKEN)
    assert everything.is_own("whatever.example")
    assert access("127.0.0.1", ["10.0.0.5", "fd00::5"]).hosts >= {"10.0.0.5", "[fd00::5]"}


@pytest.mark.parametrize("name", ["*", "*.org", "*.lan"])
def test_names_that_anybody_can_register_need_a_token(name: str) -> None:
    with pytest.raises(UsageError, match="needs a token"):
        access("127.0.0.1", [name])
    assert access("127.0.0.1", [name], TOKEN).endings
    assert access("127.0.0.1", ["*.example.org"]).endings == (".example.org",)


@pytest.mark.parametrize(
    "name",
    ["http://x", "x:80", "a b", "", "*.", "*x", "a.*", "*.*", "x/", "é", "-x", "x..y", ".x"],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"allow_host {name!r} is not a host name")):
        access("127.0.0.1", [name], TOKEN)


def test_the_refusal_leads_to_the_option(store: Path) -> None:
    """A client calls a container by the name of its service."""
    with served(store) as server:
        for _ in range(2):
            answer = server.get("/info", host="photos:8000")
            failed(answer, 403, "--allow-host photos,")
            assert (answer.json["code"], answer.json["field"]) == ("unknown_host", "allow_host")
        page = server.get("/", host="photos:8000", accept="text/html")
        assert (page.status, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert b"--allow-host photos," in page.body and b"<script" not in page.body
        style = page.body.split(b"<style>")[1].split(b"</style>")[0]
        hashed = base64.b64encode(hashlib.sha256(style).digest()).decode().lower()
        policy = page.headers["content-security-policy"]
        assert f"style-src 'self' 'sha256-{hashed}';" in policy and "unsafe" not in policy
        page = server.get("/", host="<i>&", accept="text/html")
        assert page.status == 403 and b"<i>" not in page.body
        for number in range(30):
            assert server.get("/info", host=f"h{number}.example").status == 403
    server._reader.join(10)
    assert sum("--allow-host photos allows it" in line for line in server.log) == 1
    assert len(server.log) == 20, "strangers do not fill the log"
    with served(store, "--allow-host", "photos", "--allow-host", "*.lan.example") as server:
        for host in ("photos:8000", "photos", "a.lan.example:1"):
            assert server.get("/info", host=host).status == 200
        failed(server.get("/info", host="lan.example"), 403)
        origin = "http://evil.example"
        failed(server.get("/info", host="photos", origin=origin), 403, "other sites")


def test_probes_ask_by_any_name_and_learn_nothing_of_the_store(store: Path) -> None:
    with served(store, "--token", TOKEN) as server:
        for host in ("10.42.0.7:8000", "photos.default.svc", "localhost"):
            for path in ("/livez", "/readyz"):
                answer = server.get(path, host=host, user_agent="kube-probe/1.30")
                assert (answer.status, answer.json) == (200, {"status": "ok"})
                assert server.request("HEAD", path, host=host).status == 200
            failed(server.get("/health", host=host), 401 if host == "localhost" else 403)
        for path in ("//livez", "/livez/", "/readyz/../info", "/livezz"):
            failed(server.get(path, host="10.42.0.7"), 403)
        failed(server.get("/livez", sec_fetch_site="cross-site"), 403, "other sites")
        assert b" 403 " in server.raw(b"GET /livez HTTP/1.0\r\nOrigin: http://x\r\n\r\n")
        assert b" 200 " in server.raw(b"GET /livez HTTP/1.0\r\n\r\n")
        answer = server.get("/health", authorization=f"Bearer {TOKEN}")
        assert set(answer.json) == {"status", "generation"}
        failed(server.request("POST", "/livez", b"", authorization=f"Bearer {TOKEN}"), 405)


async def test_not_ready_while_the_queue_is_full_or_the_disk_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedsearch.web.probes._WAIT_S", 0.1)
    monkeypatch.setattr("embedsearch.web.probes._KNOWN_S", 0.0)
    turns = Turns(ServerLimits(shares=shares(1, 0)))
    reads, free = [], threading.Event()

    def read() -> None:
        reads.append(1)
        free.wait(10)

    readiness = Readiness(turns, read)
    hanging = [await readiness.is_ready() for _ in range(3)]
    assert (hanging, len(reads)) == ([False] * 3, 1), "those who wait do not pile up"
    free.set()
    assert await readiness.is_ready()
    free.clear()
    other = asyncio.create_task(turns.run(Kind.RECORDS, lambda: free.wait(10)))
    await asyncio.sleep(0.05)
    assert not await readiness.is_ready(), "no place in the queue"
    free.set()
    await other
    wait_until = time.monotonic() + 5
    while not await readiness.is_ready():
        assert time.monotonic() < wait_until
    turns.close()


def test_how_many_run_and_wait() -> None:
    assert (CONCURRENCY, QUEUE) == (8, 32)
    usual = ServerLimits().shares
    assert (usual[Kind.RECORDS], usual[Kind.FILTERS]) == (Share(8, 32), Share(4, 32))
    assert (usual[Kind.ORIGINALS], usual[Kind.VIEWS]) == (Share(8, 64), Share(1, 16))
    few = shares(1, 0)
    assert set(few.values()) == {Share(1, 0)}
    assert shares(32, 5)[Kind.FILTERS] == Share(16, 5)
    for options in ((0, 1), (257, 1), (1, -1), (1, 10_001)):
        with pytest.raises(UsageError, match="a number from"):
            shares(*options)
    done = run_cli("serve", "--concurrency", "0")
    assert done.returncode == 2 and "--concurrency 0: a number from 1 to 256" in done.stderr


def test_whom_a_proxy_asks_for() -> None:
    rules = access("127.0.0.1", proxies=["10.0.0.0/8", "fd00::5"])
    for peer, forwarded, client in (
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.1.1.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["6.6.6.6, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ("127.0.0.1", ["6.6.6.6", "192.0.2.1,10.0.0.1"], "192.0.2.1"),
        ("127.0.0.1", ["10.0.0.2, 10.0.0.1"], "10.0.0.2"),
        ("192.0.2.9", ["6.6.6.6"], "192.0.2.9"),
        ("127.0.0.1", ["\x1b[31m, 10.0.0.1"], "10.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("fd00::5", ["[2001:db8::1]"], "2001:db8::1"),
        ("", ["6.6.6.6"], ""),
    ):
        assert rules.client(peer, forwarded) == client, (peer, forwarded)
    assert Access().client("10.0.0.1", ["6.6.6.6"]) == "10.0.0.1"
    with pytest.raises(UsageError, match="trusted_proxy 'nginx' is not an address"):
        access("127.0.0.1", proxies=["nginx"])


def test_a_log_for_programs(store: Path) -> None:
    with served(store, "--log", "json", "--token", TOKEN) as server:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        forwarded = {"x_forwarded_for": "192.0.2.1", **bearer}
        asked = [
            (server.get("/images/5?k=1", **bearer), "/images/{row}"),
            (server.get("/search?text=secretword", **forwarded), "/search"),
            (server.get("/nothing/secretword", **bearer), ""),
            (server.get("/info?token=long+enough"), ""),
            (server.get("/info", host="secret.example"), ""),
            (server.get("/livez"), "/livez"),
        ]
    server._reader.join(10)
    lines = [json.loads(line) for line in [*server.first_lines, *server.log]]
    for line in lines:
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
        assert line["level"] in {"info", "warning"}
    requests = [line for line in lines if "route" in line and line["route"] != "/health"]
    requests = requests[-len(asked) :]
    assert all(set(line) == set(requests[0]) for line in requests)
    assert set(requests[0]) == {"time", "level", "client", "method", "route", "status", "ms"}
    for line, (answer, route) in zip(requests, asked, strict=True):
        assert (line["route"], line["status"], line["method"]) == (route, answer.status, "GET")
        assert 0 <= line["ms"] < 30_000
    assert [line["client"] for line in requests[:2]] == ["127.0.0.1", "192.0.2.1"]
    text = "".join(server.first_lines + server.log)
    assert "secretword" not in text and "long enough" not in text and "long+enough" not in text
    assert "54 images at" in text
