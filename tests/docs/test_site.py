"""The built pages: strict, of one piece, without a request to anywhere, and open to everybody."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.support.pages import DOCS, REPOSITORY, pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# What a browser loads by itself; a link is followed by a person.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|srcset|data)="
    r"[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b[^>]*?\shref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for library in ("mkdocs", "material", "mkdocstrings", "mkdocs_autorefs"):
        pytest.importorskip(library, reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for path in pages():
        assert (site / path.relative_to(DOCS).with_suffix(".html")).is_file(), path
    assert "First version" in (site / "changelog.html").read_text()
    assert "open_store" in (site / "reference" / "python" / "search.html").read_text()
    assert not (site / "support").exists()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 60
    for path in files:
        assert [found for found in LOADED.findall(path.read_text()) if any(found)] == [], path


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.org/x.js">',
        "<link rel=stylesheet href=//fonts.example.org/css>",
        '<img alt="" src="http://example.org/a.png">',
        "@font-face{src:url(https://example.org/f.woff2)}",
    ],
)
def test_the_check_sees_what_it_is_for(text: str) -> None:
    assert LOADED.search(text)
    assert not LOADED.search('<a href="https://example.org/">x</a><img src="../a.png">')


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_search_works_from_a_folder(site: Path, browser: Any) -> None:
    page = browser.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("rotations")
    page.wait_for_selector(".md-search-result__link")
    links = page.eval_on_selector_all(".md-search-result__link", "all => all.map(a => a.href)")
    assert any("guides/photos.html" in link for link in links)
    assert errors == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in requests), requests
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(site: Path, browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    page = browser.new_page(color_scheme=scheme)
    names = ["reference/commands/index", "reference/commands/query", "changelog"]
    names += [path.relative_to(DOCS).with_suffix("").as_posix() for path in pages()]
    if scheme == "dark":  # what the pages of Python show differs in length only
        names = [name for name in names if "python/" not in name or name.endswith("search")]
    for name in names:
        page.goto((site / f"{name}.html").as_uri())
        found = axe.run(page).response
        assert len(found["passes"]) > 15
        serious = [
            (fault["id"], [node["html"][:200] for node in fault["nodes"]][:3])
            for fault in found["violations"]
            if fault["impact"] in {"serious", "critical"}
        ]
        assert serious == [], name
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(19, 21, 24)")
    page.close()
