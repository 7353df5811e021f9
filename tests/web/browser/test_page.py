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
    page.open(record.row)
    facts = page.text("#details")
    for words in ("cities", record.full_path, "PNG", "a <b>town</b>"):
        assert words in facts
    page.page.click("#details >> text=Copy path")
    page.until("!document.querySelector('#notice').hidden")
    assert page.eval("navigator.clipboard.readText()") == record.full_path
    page.page.click("#details dd a >> text=PNG")
    page.until("location.hash.includes('where=')")
    page.wait()
    page.shows([image.row for image in searcher.images(60, where="format = 'PNG'").images])
    page.open(record.row)
    page.page.click("#details dd a >> text=cities")
    page.until("location.hash.includes('cities')")
    page.wait()
    where = f"path like '{os.path.dirname(record.key)}/%'"
    page.shows([image.row for image in searcher.images(60, where=where).images])


def test_names_are_text(page: Page, searcher: embedsearch.Searcher) -> None:
    record = searcher.get(HOSTILE)
    page.page.hover(page.tile(record.row))
    assert page.text(f"{page.tile(record.row)} .name") == HOSTILE
    page.open(record.row)
    assert page.text("#viewer-name") == HOSTILE
    page.page.click("#details >> text=More like this")
    page.until("document.querySelector('#query-title').textContent.includes('onerror')")
    page.act(page.rows()[0], "pick")
    page.act(page.rows()[1], "like")
    page.page.click('[data-chip="folder"]')
    page.until("document.querySelector('#panel .choice')")
    assert page.page.locator("img[src=x], script:not([type])[src=x]").count() == 0


def test_an_image_that_has_gone_says_so(page: Page, searcher: embedsearch.Searcher) -> None:
    row = searcher.get("goes.jpg").row
    page.page.locator(page.tile(row)).scroll_into_view_if_needed()
    page.page.wait_for_selector(f"{page.tile(row)} .missing")
    assert "File missing" in page.text(f"{page.tile(row)} .missing")
    assert "goes.jpg" in page.text(f"{page.tile(row)} .missing")
    page.open(row)
    page.until("document.querySelector('#picture p')")
    assert "File missing" in page.text("#picture")


def test_an_image_that_is_none(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.pdf").write_text("%PDF-1.4 no picture")
    rows = page.rows()
    page.page.set_input_files("#file", tmp_path / "words.pdf")
    page.until("!document.querySelector('#problem').hidden")
    assert page.text("#problem span") == "words.pdf is a PDF, not an image."
    assert page.rows() == rows
    page.hand_over(CLOCK)
    assert not page.page.is_visible("#problem")


def test_a_server_that_is_restarted(browser: Any, store: Path) -> None:
    with served(store) as server:
        opened = Page(browser, server)
        opened.hand_over(CLOCK)
        rows, port = opened.rows(), server.port
    opened.act(rows[1], "similar")
    opened.until("!document.querySelector('#problem').hidden")
    assert "No connection" in opened.text("#problem")
    assert opened.rows() == rows  # everything stays
    opened.page.go_back()
    opened.until("location.hash.includes('upload=')")
    with served(store, "--port", str(port)):
        opened.until("document.querySelector('#problem').hidden")  # by itself
        opened.until("document.querySelector('#notice').hidden")
        opened.shows(rows)
    opened.context.close()


def test_a_server_without_a_network(browser: Any, tmp_path: Path) -> None:
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
        opened.page.set_input_files("#file", CLOCK)
        opened.until("!document.querySelector('#notice').hidden")
        assert "come from elsewhere" in opened.text("#notice")
        opened.act(opened.rows()[0], "similar")
        opened.until("document.querySelector('#grid .score')")
        assert len(opened.rows()) == 7
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
        page.wait_for_selector("#grid .empty")
        assert "embedsearch index ./photos" in page.inner_text("#grid .empty")
        context.close()


def test_without_scripts(browser: Any, server: Served, searcher: embedsearch.Searcher) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    first = [image.row for image in searcher.images(24, order="-taken_at").images]
    shown = page.locator(".first img").evaluate_all("images => images.map(i => i.src)")
    assert [int(url.split("/")[-2]) for url in shown] == first
    page.click(".pages >> text=Next")
    page.wait_for_selector(".pages >> text=Previous")
    assert page.locator(".first img").count() == 24
    page.set_input_files("input[name=image]", CLOCK)
    page.fill("input[name=where]", "format = 'PNG'")
    page.click("form[method=post] button")
    page.wait_for_selector("ol.grid li")
    hits = searcher.query(CLOCK, k=24, where="format = 'PNG'")
    assert [text.split(" ", 1)[1] for text in page.locator("ol.grid p").all_inner_texts()] == [
        hit.key for hit in hits
    ]
    assert HOSTILE in [hit.key for hit in hits]
    page.click("ol.grid li:nth-child(2) a")
    page.wait_for_selector(f'ol.grid img[src$="images/{hits[1].row}/thumbnail"]')
    page.fill("form:not([method=post]) input", "town")
    page.click("form:not([method=post]) button")
    page.wait_for_selector("ol.grid li:nth-child(1)")
    assert "cities_3.png" in page.inner_text("ol.grid p >> nth=0")
    context.close()


def test_the_first_view_is_small(browser: Any, server: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    sizes: list[tuple[str, int, int]] = []

    def count(answer: Any) -> None:
        if "/images" not in answer.url:
            sizes.append(
                (answer.url, len(answer.body()), answer.request.sizes()["responseBodySize"])
            )

    page.on("requestfinished", lambda request: count(request.response()))
    page.goto(server.url)
    page.wait_for_selector("#grid .tile")
    context.close()
    assert sum(raw for _, raw, _ in sizes) <= 120_000, sizes
    assert sum(sent for _, _, sent in sizes) <= 40_000, sizes


def test_storage_that_is_switched_off(browser: Any, server: Served) -> None:
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['sessionStorage', 'localStorage', 'indexedDB'])"
        " Object.defineProperty(window, name, { get() { throw new Error('switched off'); } });"
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#grid .tile")
    page.hover("#grid .tile")
    page.click('#grid .tile [data-act="like"]')
    page.wait_for_selector(".mark")
    page.set_input_files("#file", CLOCK)
    page.wait_for_selector("#grid .score")
    page.reload()
    page.wait_for_selector("#problem:not([hidden])")
    assert "Choose it again" in page.inner_text("#problem")
    assert not errors
    context.close()


def test_two_tabs(page: Page) -> None:
    other = page.context.new_page()
    other.goto(page.page.url)
    other.wait_for_selector("#grid .tile")
    page.act(page.rows()[0], "like")
    page.hand_over(CLOCK)
    other.goto(page.page.url)
    other.wait_for_selector("#grid .score")  # a photo is kept for all tabs of this browser
    assert other.inner_text("#query-title") == "Like “clocks 1”"
    assert other.locator(".mark").count() == 0  # marks are of a tab
    other.close()


def test_a_store_that_changes_says_so(browser: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(4):
        paint(photos / f"{number}.png", number)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        opened = Page(browser, server)
        assert opened.text("#count button") == "4 images"
        paint(photos / "new.png", 9)
        embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
        opened.page.wait_for_timeout(3000)  # until the server has seen it
        opened.act(opened.rows()[0], "similar")
        opened.until("document.querySelector('#notice').textContent.includes('has changed')")
        opened.page.click("#notice >> text=Reload")
        opened.until("document.querySelector('#count').textContent.includes('of 5 images')")
        opened.context.close()


STATES = {
    "images": "",
    "similar": "#row=3",
    "words": "#text=town",
    "viewer": "#open=3",
    "folders": "#view=folders",
    "copies": "#view=copies",
    "groups": "#view=groups",
    "map": "#view=map",
}
READY = {
    "viewer": "#details dl",
    "folders": ".folders a",
    "copies": ".about:has-text('groups'), .about:has-text('group')",
    "groups": ".group",
    "map": "#map canvas",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_fault_of_accessibility(browser: Any, server: Served, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    options: dict[str, Any] = {"has_touch": True, "is_mobile": True} if width < 400 else {}
    opened = Page(browser, server, color_scheme=scheme, **options)
    opened.page.set_viewport_size({"width": width, "height": 800})

    def look(name: str) -> None:
        view = axe.run(opened.page)
        assert len(view.response["passes"]) > 15
        found = [
            (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"]])
            for fault in view.response["violations"]
        ]
        assert found == [], name
        assert opened.eval("document.documentElement.scrollWidth <= innerWidth"), name
        least = 44 if width < 400 else 24
        assert opened.eval(SMALL.replace("LEAST", str(least))) == [], name

    for name, fragment in STATES.items():
        opened.page.goto(server.url + fragment)
        opened.page.reload()
        opened.page.wait_for_selector(READY.get(name, "#grid img:not(.coming)"))
        look(name)
    opened.page.goto(server.url + "#row=4")
    opened.page.reload()
    opened.until("document.querySelector('#grid .score')")
    opened.page.click('[data-chip="format"]')
    opened.until("document.querySelector('#panel .choice')")
    look("a panel")
    opened.page.keyboard.press("Escape")
    opened.page.click("#filters >> text=+ Filter")
    opened.page.fill("#panel input", "nothing = 1")
    opened.page.keyboard.press("Enter")
    opened.until("!document.querySelector('#problem').hidden")
    look("a wrong filter")
    opened.page.focus("#grid a")
    opened.page.keyboard.press("x")
    opened.page.keyboard.press("+")
    look("a selection and a mark")
    opened.context.close()


SMALL = """[...document.querySelectorAll('button, select, summary, input, nav a, a.button')]
    .filter(node => node.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
    .map(node => [node, node.getBoundingClientRect()])
    .filter(([node, box]) => box.width && !node.closest('.tile, #trail, .skip, dl'))
    .filter(([node, box]) => Math.max(box.height, 0) < (node.type === 'range' ? 24 : LEAST))
    .map(([node, box]) => [node.outerHTML.slice(0, 120), box.width, box.height])"""
