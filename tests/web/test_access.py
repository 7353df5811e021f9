"""Who may ask `embedsearch serve`: by which host name, from which site, with which token."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.web.access import access
from tests.support.answers import failed
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


GETS = ["/images?k=1&where=row%3D1", "/search?row=1&k=1", "/images/1/thumbnail", "/info", "/"]


@pytest.mark.parametrize("target", GETS)
@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "cross-site", "sec_fetch_dest": "iframe"},
        {"origin": "http://evil.example", "sec_fetch_dest": "script"},
    ],
    ids=lambda headers: ": ".join(*[[*headers.items()][-1]]),
)
def test_other_sites_may_not_look_either(
    server: Served, target: str, headers: dict[str, str]
) -> None:
    failed(server.get(target, **headers), 403, "other sites")


def test_other_sites_that_only_a_referer_tells(server: Served) -> None:
    for target in GETS[:-1]:
        failed(server.get(target, referer="http://evil.example/a"), 403, "other sites")
    own = f"http://localhost:{server.port}/?row=1"
    assert server.get("/search?row=1", referer=own).status == 200


def test_a_link_from_elsewhere_opens_the_page(server: Served) -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert server.get("/", sec_fetch_dest="document", **link).status == 200
    failed(server.get("/search?row=1", sec_fetch_dest="document", **link), 403)


def test_this_site_may_ask(server: Served) -> None:
    body = b'{"row": 1}'
    origin = f"http://localhost:{server.port}"
    answer = server.request("POST", "/search", body, content_type=JSON, origin=origin)
    assert answer.status == 200
    assert server.request("OPTIONS", "/search").status == 405


def test_a_server_on_all_addresses(store: Path) -> None:
    arguments = ("--host", "0.0.0.0", "--token", "auto", "--allow-host", "photos.lan", "-v")
    with served(store, *arguments) as server:
        token = server.url.partition("token=")[2]
        assert len(token) >= 32
        bearer = {"authorization": f"Bearer {token}"}
        for host in ("0.0.0.0", "192.0.2.7:80", "[2001:db8::7]:80", socket.gethostname()):
            assert server.get("/info", host=host, **bearer).status == 200
        for host in ("evil.example", "192.0.2.7.nip.io", "3221225991", "192.0.2"):
            failed(server.get("/health", host=host, **bearer), 403, host)
        assert server.get("/info", host="photos.lan", **bearer).status == 200
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(server.url) as answer:
            assert answer.status == 200, "the address that is printed can be opened"
    server._reader.join(10)
    assert any("/info" in line for line in server.log)
    assert not any(token in line for line in server.log)


def test_a_wildcard_is_strict_without_a_token() -> None:
    assert access("0.0.0.0", (), "long enough").any_address
    for host, token in (
        ("127.0.0.1", None),
        ("127.0.0.1", "long enough"),
        ("192.0.2.1", "long enou"),
    ):
        assert not access(host, (), token).any_address, "only where it listens on all"


@pytest.mark.parametrize("proxy", ["strips the path", "hands on the path", "hands on the host"])
def test_behind_a_proxy_with_a_path(store: Path, proxy: str) -> None:
    """All addresses of the pages are below the path, and the public origin may search."""
    base = "https://photos.example/a/b/"
    path = "" if proxy == "strips the path" else "/a/b"
    host = "photos.example" if proxy == "hands on the host" else "localhost"
    origin = "https://photos.example"
    with served(store, "--public-url", base, "--token", "long enough") as server:
        bearer = {"authorization": "Bearer long enough", "host": host}
        for address in ("", "search?row=1", "images/none"):
            answer = server.get(f"{path}/{address}", accept="text/html", **bearer)
            page = answer.body.decode()
            found = re.findall(r'(?:src|href|action)="([^"#]+)"', page)
            assert len(found) > 3
            for link in found:
                whole = urljoin(base + address, link)
                assert whole.startswith(base), (address, link)
                if "static" in link:
                    inner = path + "/" + whole.removeprefix(base)
                    assert server.get(inner, **bearer).status == 200
        body = b'{"row": 1}'
        for site, status in ((origin, 200), ("https://evil.example", 403), (origin + ":8443", 403)):
            answer = server.request(
                "POST", f"{path}/search", body, content_type=JSON, origin=site, **bearer
            )
            assert answer.status == status, site
        refused = server.request(
            "POST", "/search", body, content_type=JSON, origin="https://x.example", **bearer
        )
        failed(refused, 403, "--public-url")
        moved = server.get(f"{path}/?token=long+enough", host=host)
        assert urljoin(base, moved.headers["location"]) == base
        assert "path=" not in moved.headers["set-cookie"].lower(), "not for others on the host"
        policy = server.get(f"{path}/", **bearer).headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        failed(server.get(f"{path}/", host="evil.example"), 403)
        described = server.get(f"{path}/openapi.json", **bearer).json
        assert described["servers"] == [{"url": base.rstrip("/")}]


def test_a_path_alone_will_do_where_the_proxy_hands_on_the_host() -> None:
    rules = access("127.0.0.1", ["photos.example"], None, "/a/b/")
    assert (rules.origin, rules.path) == ("", "/a/b")
    assert rules.is_own("photos.example")


@pytest.mark.parametrize(
    "url",
    ["photos.example", "ftp://x", "https://", "https://a@b/", "http://x:y/", "//x/y", "/a?b", ""],
)
def test_a_public_address_is_checked(url: str) -> None:
    with pytest.raises(UsageError, match="public_url"):
        access("127.0.0.1", (), None, url)
    with pytest.raises(UsageError, match="public_url, or root_path, 'photos': give an address"):
        access("127.0.0.1", (), None, "photos")


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_a_port_is_no_part_of_a_host(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        access(f"{host}:9000")
    assert f"give host={host} and port=9000" in str(caught.value)
