"""nginx in front of a server, as deploy/ sets it up: a site of its own, and a path of another."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.library import CLOCK, REPOSITORY, wait_for
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
TOKEN = "long enough"
MAIN = """daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log off;
    include {folder}/site.conf;
}}
"""


@pytest.fixture(autouse=True)
def needs_nginx() -> None:
    if NGINX is None:
        pytest.skip("needs nginx")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxied:
    """A server as its clients see it."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str, body: bytes | None = None, **headers: str) -> Any:
        """Return the answer, whatever its status; a header is named with _ for -."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            self.base + path, body, {"authorization": f"Bearer {TOKEN}", **names}
        )
        try:
            return urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            return error


@contextmanager
def nginx(folder: Path, site: str, port: int, server: Served) -> Iterator[None]:
    """Run nginx with a file of deploy/, on a free port and with the logs in a folder."""
    text = (REPOSITORY / "deploy" / site).read_text()
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    text = text.replace("server_name ", "server_name localhost ").replace(
        "/var/log/nginx", str(folder)
    )
    (folder / "site.conf").write_text(text)
    # Else root's workers are another user, who cannot enter the folders of tests.
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    command += ["-e", str(folder / "error.log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and "[warn]" not in checked.stderr, checked.stderr
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: listens(port))
        yield
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def proxied(
    store: Path, folder: Path, site: str, path: str, *options: str
) -> Iterator[tuple[Proxied, Served]]:
    port = free_port()
    public = f"http://localhost:{port}{path}"
    token = folder / "token"
    token.write_text(TOKEN)
    arguments = ["--token-file", str(token), "--public-url", public, "--log", "json", *options]
    with served(store, *arguments) as server, nginx(folder, site, port, server):
        yield Proxied(public), server


def try_all(proxied: Proxied) -> None:
    """Use what a browser and a program use."""
    page = proxied.get("").read().decode()
    links = re.findall(r'(?:src|href)="\./(static/[^"]+|images/[^"]+thumbnail[^"]*)"', page)
    assert len(links) > 30
    for link in links[:6] + links[-3:]:
        assert proxied.get(link).status == 200, link
    original = proxied.get("images/1/original")
    content = original.read()
    part = proxied.get("images/1/original", range="bytes=10-19")
    assert (part.status, part.read()) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    same = proxied.get("images/1/original", if_none_match=original.headers["etag"])
    assert same.status == 304
    packed = proxied.get("images?k=50", accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    origin = proxied.base.split("/", 3)
    own = "/".join(origin[:3])
    sent = proxied.get("search?k=1", CLOCK.read_bytes(), content_type="image/jpeg", origin=own)
    assert json.load(sent)["hits"][0]["key"] == "clocks/clocks_1.jpg"
    foreign = proxied.get("search", b"{}", content_type="application/json", origin="http://x.org")
    assert foreign.status == 403
    zipped = proxied.get("export/zip?rows=" + ",".join(map(str, range(1, 51)))).read()
    assert zipped.startswith(b"PK") and len(zipped) > 1 << 20
    # As large as an image may be, and larger.
    large = proxied.get("search", bytes(20 << 20), content_type="image/jpeg")
    assert (large.status, b"unreadable_image" in large.read()) == (422, True)
    assert proxied.get("search", bytes(21 << 20), content_type="image/jpeg").status == 413
    assert proxied.get("info", authorization="").status == 401
    assert proxied.get("info?token=long+enough", authorization="").status == 401, (
        "urllib follows the redirect, without the cookie"
    )


def test_a_site_of_its_own(store: Path, tmp_path: Path) -> None:
    with proxied(store, tmp_path, "nginx-site.conf", "/") as (site, server):
        try_all(site)
        # Of a client on another machine; those on this one are trusted as proxies are.
        assert site.get("livez", x_forwarded_for="192.0.2.1").status == 200
    server._reader.join(10)
    lines = [json.loads(line) for line in server.log]
    clients = {line["client"] for line in lines if line.get("route") == "/livez"}
    assert clients == {"192.0.2.1"}
    log = (tmp_path / "embedsearch.log").read_text()
    assert '"GET /info" 401' in log and "token=" not in log and "rows=" not in log


def test_below_a_path_of_another_site(store: Path, tmp_path: Path) -> None:
    with proxied(store, tmp_path, "nginx-path.conf", "/photos/") as (site, _):
        try_all(site)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        answer = opener.open(site.base.rstrip("/") + "?token=long+enough")
        assert answer.url == site.base, "without the slash, one is led there"


def test_a_path_that_nginx_leaves_out(store: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    given = REPOSITORY / "deploy" / "nginx-path.conf"
    assert "proxy_pass http://embedsearch;" in given.read_text()
    with pytest.MonkeyPatch.context() as patch:
        text = given.read_text().replace("http://embedsearch;", "http://embedsearch/;")
        patch.setattr(Path, "read_text", lambda path: text if path == given else path.open().read())
        with proxied(store, tmp_path, "nginx-path.conf", "/photos/") as (site, _):
            try_all(site)


def test_a_browser_below_a_path(store: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    with (
        proxied(store, tmp_path, "nginx-path.conf", "/photos/") as (site, _),
        playwright.sync_playwright() as running,
    ):
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        failed: list[str] = []
        page.on(
            "response",
            lambda answer: (
                failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
            ),
        )
        page.goto(site.base)
        assert page.locator("input[name=token]").count() == 1
        failed.clear()  # the token is asked for
        page.fill("input[name=token]", TOKEN)
        page.click("button")
        page.wait_for_selector(".tile img")
        assert page.url.startswith(site.base) and "token" not in page.url
        shown = "[...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth > 0).length"
        wait_for(lambda: page.evaluate(shown) > 8)
        page.fill("input[type=search]", "clocks")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="6 of 54 images").wait_for()
        wait_for(lambda: page.evaluate(shown) == 6)
        page.screenshot(path=str(tmp_path / "page.png"))
        assert page.url.startswith(site.base)
        assert failed == []
        browser.close()
