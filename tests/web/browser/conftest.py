"""A browser, and a server of the sample images with hostile names and texts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedsearch
import embedsearch.core.errors
from tests.support.browsing import HOSTILE, Page, visited
from tests.support.library import SAMPLES
from tests.support.serving import Served, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    shutil.copy(photos / "clocks" / "clocks_3.png", photos / HOSTILE)
    shutil.copy(photos / "clocks" / "clocks_5.jpg", photos / "goes.jpg")
    (folder / "captions.csv").write_text(
        "name,caption\nclocks_1.jpg,<script>alert(2)</script>\ncities_3.png,a <b>town</b>\n"
    )
    embedsearch.index(
        photos, store=folder / "s.es", model="packaged", metadata=str(folder / "captions.csv")
    )
    (photos / "goes.jpg").unlink()
    return folder / "s.es"


@pytest.fixture(scope="package")
def server(store: Path) -> Iterator[Served]:
    with served(store) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Page]:
    with visited(browser, server) as opened:
        yield opened
    assert all(url.startswith((server.url, "blob:")) for url in opened.requests)
