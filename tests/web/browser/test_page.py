"""The page of `embedsearch serve` in a real browser: what it shows, whatever happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import embedsearch
import embedsearch.core.errors
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.browsing import HOSTILE, Page
from tests.support.library import CLOCK, paint
from tests.support.serving import Served, served


def test_what_is_known_of_an_image(page: Page, searcher: embedsearch.Searcher) -> None:
    record = searcher.get("cities/cities_3.png")
    page.page.click(f'#grid li[data-row="{record.row}"] [data-mark=facts]')
    page.until("document.querySelector('#facts-list dd')")
    facts = page.text("#facts-list")
    for words in (os.path.dirname(record.path), "PNG", "a <b>town</b>"):
        assert words in facts
    page.page.click("#facts-path")
    page.until("document.querySelector('#facts-copied').textContent")
    assert page.eval("navigator.clipboard.readText()") == record.path
    page.page.click("#facts-folder")
    page.until("document.querySelector('#facts-copied').textContent.endsWith('cities')")
    assert page.eval("navigator.clipboard.readText()") == os.path.dirname(record.path)


def test_names_are_text(page: Page, searcher: embedsearch.Searcher) -> None:
    record = searcher.get(HOSTILE)
    item = f'#grid li[data-row="{record.row}"]'
    page.page.evaluate(f"location.hash = '#row={record.row}'")
    page.wait("nearest")
    assert page.text(f"{item} .name") == HOSTILE
    page.page.click(f"{item} [data-mark=facts]")
    page.until("document.querySelector('#facts-list dd')")
    assert page.text("#facts-name") == HOSTILE
    assert page.page.locator("#grid img[src=x], dialog img[src=x]").count() == 0


def test_an_image_that_has_gone_says_so(page: Page, searcher: embedsearch.Searcher) -> None:
    row = searcher.get("goes.jpg").row
    page.page.evaluate("location.hash = '#k=60'")
    page.wait("1 to 56")
    page.page.locator(f'#grid li[data-row="{row}"]').scroll_into_view_if_needed()
    page.page.wait_for_selector(f'#grid li[data-row="{row}"] .gone')
    assert "gone" in page.text(f'#grid li[data-row="{row}"] .gone')


def test_an_image_that_is_none(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    page.page.set_input_files("#file", tmp_path / "words.png")
    page.until("!document.querySelector('#trouble').hidden")
    assert "cannot be read" in page.text("#trouble-words")
    page.hand_over(CLOCK)
    assert not page.page.is_visible("#trouble")


def test_a_server_that_is_restarted(browser: Any, store: Path) -> None:
    with served(store) as server:
        opened = Page(browser, server)
        opened.hand_over(CLOCK)
        rows, port = opened.rows(), server.port
    opened.page.click("#grid li:nth-child(2) a")
    opened.until("!document.querySelector('#trouble').hidden")
    assert "does not answer" in opened.text("#trouble-words")
    opened.page.go_back()
    opened.until("location.hash.includes('upload=')")
    opened.until("!document.querySelector('#trouble').hidden")
    with served(store, "--port", str(port)):
        opened.wait("nearest")  # by itself
        assert opened.rows() == rows
        assert not opened.page.is_visible("#trouble")
    opened.context.close()


def test_a_server_without_a_network(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    photo = paint(tmp_path / "a.png", 1)
    vectors = np.eye(8, dtype=np.float32)
    table = {
        "path": [str(photo)] * 1 + [str(tmp_path / f"{n}.png") for n in range(7)],
        "vector": list(vectors),
    }
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    import_vectors(tmp_path / "v.parquet", store=tmp_path / "s.es", model="theirs", root=tmp_path)
    with served(tmp_path / "s.es") as server:
        opened = Page(browser, server)
        assert not opened.page.is_visible("#choose")
        assert "no network" in opened.text("#drop-words")
        opened.page.click("#grid li:nth-child(1) a")
        opened.wait("nearest")
        assert len(opened.rows()) == 8
        opened.context.close()
        plain = server.get("/search?row=0", accept="text/html")  # of unknown sizes
        assert plain.status == 200 and plain.body.count(b"<img") == 8


def test_a_store_of_nothing(browser: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo = paint(photos / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    photo.unlink()
    with pytest.raises(embedsearch.core.errors.NothingIndexed):
        embedsearch.index(photos, store=tmp_path / "s.es", allow_empty=True)
    with served(tmp_path / "s.es") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function(
            "() => document.querySelector('#status').textContent.includes('no image yet')"
        )
        context.close()


def test_without_scripts(browser: Any, server: Served, searcher: embedsearch.Searcher) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    page.set_input_files("input[name=image]", CLOCK)
    page.fill("input[name=where]", "format = 'PNG'")
    page.click("form button")
    page.wait_for_selector("ol.grid li")
    hits = searcher.query(CLOCK, k=24, where="format = 'PNG'")
    assert [text.split(" ", 1)[1] for text in page.locator("ol.grid p").all_inner_texts()] == [
        hit.key for hit in hits
    ]
    assert HOSTILE in [hit.key for hit in hits]
    page.click("ol.grid li:nth-child(2) a")
    page.wait_for_selector(f'ol.grid img[src$="images/{hits[1].row}/thumbnail"]')
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_serious_fault_of_accessibility(
    browser: Any, server: Served, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    opened = Page(browser, server, "#row=3", color_scheme=scheme)
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.page.wait_for_selector("#grid img.here")
    opened.page.evaluate("document.querySelector('#more').open = true")
    opened.page.evaluate("document.querySelector('#keys').open = true")
    opened.page.click("#grid li:nth-child(2) [data-mark=like]")
    views = [axe.run(opened.page)]
    opened.page.fill("#where", "nothing = 1")
    opened.page.keyboard.press("Enter")
    opened.until("document.querySelector('#where-error').textContent")
    views.append(axe.run(opened.page))
    opened.page.evaluate("location.hash = '#row=4'")
    opened.wait("nearest")
    opened.page.click("#grid li:nth-child(2) [data-mark=facts]")
    opened.until("document.querySelector('#facts-list dd')")
    views.append(axe.run(opened.page))
    for view in views:
        assert len(view.response["passes"]) > 15
        assert [
            (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"]])
            for fault in view.response["violations"]
        ] == []
    assert opened.eval("document.documentElement.scrollWidth <= innerWidth")
    opened.context.close()
