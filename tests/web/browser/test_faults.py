"""Faults that the page had: each test fails on the page before this one."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import embedsearch
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.browsing import Page, expected
from tests.support.library import CLOCK, SAMPLES
from tests.support.serving import Served, served

MANY = 12_000


def test_a_late_answer_does_not_mix_two_images(page: Page, searcher: embedsearch.Searcher) -> None:
    first, second = page.rows()[0], page.rows()[5]
    with page.held(f"**/images/{first}"):
        page.page.click(f"{page.tile(first)} a")
        page.until("document.querySelector('#viewer').open")
        page.page.keyboard.press("Escape")
        page.until("!document.querySelector('#viewer').open")
        page.open(second)
        count = page.page.locator("#details dt").count()
    page.page.wait_for_timeout(300)
    record = searcher.get(second)
    assert page.text("#viewer-name") == record.key.rpartition("/")[2]
    assert page.page.locator("#details dt").count() == count
    page.page.click("#details >> text=Copy path")
    page.until("!document.querySelector('#notice').hidden")
    assert page.eval("navigator.clipboard.readText()") == record.full_path
    page.page.click("#details >> text=More like this")
    page.until(f"location.hash === '#row={second}'")


def test_no_picture_stays_under_another_name(page: Page) -> None:
    first, second = page.rows()[0], page.rows()[9]
    page.open(first)
    page.page.keyboard.press("Escape")
    page.until("!document.querySelector('#viewer').open")
    with page.held(f"**/images/{second}/thumbnail?side=1024"):
        page.open(second)
        source = page.eval("document.querySelector('#picture img').src")
        assert f"/images/{second}/" in source
    page.page.keyboard.press("Escape")
    page.to(f"#row={first}")
    with page.held(f"**/images/{second}/thumbnail?side=512"):
        page.to(f"#row={second}")
        assert f"/images/{second}/" in page.eval("document.querySelector('#crop-image').src")


def test_what_is_not_known_yet_cannot_be_pressed(page: Page) -> None:
    row = page.rows()[-1]
    page.to(f"#row={row}")  # which is not among its own hits
    with page.held(f"**/images/{row}"):
        page.page.evaluate(f"location.hash = '#row={row}&open={row}'")
        page.until("document.querySelector('#viewer').open")
        assert page.page.locator("#details button:enabled").count() == 0
    page.until("document.querySelector('#details button:enabled')")


def test_marks_stay_until_they_are_cleared(page: Page) -> None:
    like, unlike = page.rows()[3], page.rows()[4]
    page.act(like, "like")
    page.act(unlike, "unlike")
    marks = "document.querySelectorAll('.mark').length === 2"
    page.until(marks)
    page.to("#where=format+%3D+%27PNG%27")
    page.until(marks)
    page.act(page.rows()[0], "similar")
    page.until("location.hash.includes('row=')")
    page.until(marks)
    page.page.go_back()
    page.until("!location.hash.includes('row=')")
    page.until(marks)
    page.page.reload()
    page.wait()
    page.until(marks)
    page.page.click("text=Clear marks")
    page.until("!document.querySelector('.mark')")


def test_the_skip_link_keeps_the_query(page: Page) -> None:
    page.to("#row=3&where=width+%3E+100")
    before = page.eval("location.hash")
    page.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.page.keyboard.press("Tab")
    assert page.eval("document.activeElement.id") == "skip"
    page.page.keyboard.press("Enter")
    assert page.eval("location.hash") == before
    assert page.eval("Boolean(document.activeElement.closest('#grid'))")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a store of many images, whose files are not there."""
    folder = tmp_path_factory.mktemp("many")
    vectors = np.random.default_rng(1).normal(size=(MANY, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"{folder}/photos/{n:05}.jpg" for n in range(MANY)]
    pq.write_table(pa.table({"path": names, "vector": list(vectors)}), folder / "v.parquet")
    (folder / "photos").mkdir()
    import_vectors(
        folder / "v.parquet", store=folder / "s.es", model="theirs", root=folder / "photos"
    )
    with served(folder / "s.es") as running:
        yield running


def test_browsing_reaches_the_last_image(browser: Any, many: Served) -> None:
    page = Page(browser, many)
    nodes = "document.querySelectorAll('#grid .tile').length"
    most = 0
    for _ in range(40):
        page.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.page.wait_for_timeout(150)
        most = max(most, page.eval(nodes))
        if page.page.locator(page.tile(MANY - 1)).count():
            break
    assert page.page.locator(page.tile(MANY - 1)).count() == 1
    assert page.page.get_attribute(page.tile(MANY - 1), "aria-posinset") == str(MANY)
    assert most < 1200  # of 12,000
    page.context.close()


def test_a_large_upload_is_made_smaller(page: Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 255, (3000, 4000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=90)
    assert (tmp_path / "large.jpg").stat().st_size > 5e6
    sent: list[int] = []

    def look(route: Any) -> None:
        sent.append(len(route.request.post_data_buffer or b""))
        route.continue_()

    page.page.route("**/search?*", look)
    page.hand_over(tmp_path / "large.jpg")
    assert max(sent) < 1.2e6
    page.until("document.querySelector('#crop-image').naturalWidth === 1024")


def test_other_sites_cannot_show_the_pictures(browser: Any, server: Served, tmp_path: Path) -> None:
    (tmp_path / "evil.html").write_text(
        f'<img id="a" src="http://127.0.0.1:{server.port}/images/0/thumbnail">'
        f'<img id="b" src="{SAMPLE.name}">'
    )
    shutil.copy(SAMPLE, tmp_path)
    with _site(tmp_path) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://localhost:{port}/evil.html")
        page.wait_for_function("() => document.querySelector('#b').naturalWidth > 0")
        page.wait_for_function("() => document.querySelector('#a').complete")
        assert page.evaluate("document.querySelector('#a').naturalWidth") == 0
        context.close()
    headers = server.get("/images/0/thumbnail").headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "base-uri 'none'" in server.get("/").headers["content-security-policy"]


SAMPLE = SAMPLES / "clocks" / "clocks_1.jpg"


@contextmanager
def _site(folder: Path) -> Iterator[int]:
    """Serve a folder as another site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_address[1]
        site.shutdown()


def test_one_change_is_one_entry_of_the_history(page: Page) -> None:
    before = page.eval("history.length")
    page.requests.clear()
    page.page.fill("#words", "width > 100")
    page.page.keyboard.press("Enter")
    page.until("location.hash.includes('where=')")
    page.wait()
    page.page.keyboard.press("Enter")
    page.page.keyboard.press("Tab")
    page.page.click("#home")
    page.until("!location.hash")
    page.page.click("#home")
    page.page.click("#home")
    page.page.wait_for_timeout(200)
    assert page.eval("history.length") == before + 2
    lists = [url for url in page.requests if "/images?" in url and "offset" not in url]
    assert len(lists) == 2


def test_the_original_can_be_seen_and_saved(page: Page, searcher: embedsearch.Searcher) -> None:
    row = searcher.get("clocks/clocks_1.jpg").row
    page.open(row)
    with page.page.expect_download() as download:
        page.page.click("#details >> text=Download")
    assert Path(download.value.path()).read_bytes() == CLOCK.read_bytes()
    assert download.value.suggested_filename == "clocks_1.jpg"
    page.page.click("#picture img")
    page.until("document.querySelector('#picture img').src.endsWith('/original')")


def test_pictures_are_sharp_on_dense_screens(browser: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("wide", (4000, 400)), ("photo", (2000, 1500)), ("tall", (900, 3000))):
        Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20).save(photos / f"{name}.jpg")
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        page = Page(browser, server, device_scale_factor=2)
        page.until("!document.querySelector('#grid img.coming')")
        shown = page.eval(
            "[...document.querySelectorAll('#grid .tile img')].map(i => "
            "Math.min(i.naturalWidth, i.naturalHeight)"  # in CSS pixels, as srcset says
            " / Math.min(i.clientWidth, i.clientHeight))"
        )
        page.context.close()
    # The panorama has as many pixels as a thumbnail of 1,024 pixels can hold.
    assert len(shown) == 3 and sorted(shown)[1] >= 1.0 and min(shown) > 0.2


def test_a_server_that_is_away_is_no_missing_file(browser: Any, store: Path) -> None:
    with served(store) as server:
        page = Page(browser, server)
        row = page.rows()[7]
        page.page.wait_for_selector(f"{page.tile(row)} img:not(.coming)")
        page.page.hover(page.tile(row))  # what shows an image is loaded then
        page.until("document.querySelector('link[href$=\"viewer.css\"]')?.sheet")
        page.page.wait_for_timeout(300)
    page.page.click(f"{page.tile(row)} a")
    page.until("document.querySelector('#details .error')")
    assert "No connection" in page.text("#details .error")
    assert "missing" not in page.text("#viewer")
    page.context.close()


def test_a_phone(browser: Any, server: Served) -> None:
    options: dict[str, Any] = {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
    }
    page = Page(browser, server, "#row=3", device_scale_factor=2, **options)
    assert page.eval("document.querySelector('#grid .tile').getBoundingClientRect().top") < 230
    assert "pan-y" in page.eval("getComputedStyle(document.querySelector('#crop')).touchAction")
    uneven = """[...document.querySelectorAll('#grid .row')].filter(row => {
        const tall = [...row.querySelectorAll('.face')].map(face => face.offsetHeight);
        return Math.max(...tall) - Math.min(...tall) > 2;
    }).length"""
    assert page.eval(uneven) == 0
    assert page.eval("document.documentElement.scrollWidth <= innerWidth")
    address = page.page.url
    page.page.tap("#grid .tile a")
    page.until("document.querySelector('#viewer').open")
    page.page.go_back()
    page.until("!document.querySelector('#viewer').open")
    assert page.page.url == address
    page.context.close()


@pytest.mark.parametrize("condition", ["rating >", "width > 'a'", "nothing = 1", "taken_at > 2020"])
def test_a_wrong_filter_leaves_the_images(page: Page, condition: str) -> None:
    rows = page.rows()
    page.page.click("#filters >> text=+ Filter")
    page.page.fill("#panel input", condition)
    page.page.keyboard.press("Enter")
    page.until("!document.querySelector('#problem').hidden")
    words = page.text("#problem span")
    assert words.startswith("This filter has a mistake: ") and len(words) < 400
    assert page.rows() == rows
    assert not page.eval("document.querySelector('#grid').classList.contains('stale')")


def test_keys_act_only_where_the_focus_is(page: Page) -> None:
    page.page.evaluate("document.activeElement.blur()")
    for key in ("n", "p", "/", "m", "x", "+", "ArrowDown", "ArrowRight"):
        page.page.keyboard.press(key)
    assert page.eval("location.hash") == ""
    assert page.eval("document.activeElement === document.body")
    assert page.page.locator(".mark, .picked").count() == 0


def test_an_upload_survives_a_reload(page: Page, searcher: embedsearch.Searcher) -> None:
    page.hand_over(CLOCK)
    rows = expected(searcher, CLOCK)
    page.shows(rows)
    page.page.reload()
    page.wait()
    page.shows(rows)
    assert page.text("#query-title") == "Like “clocks 1”"


def test_a_store_that_was_made_again(browser: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(SAMPLES / "clocks", photos)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        page = Page(browser, server)
        row = page.rows()[2]
        page.act(row, "similar")
        page.until(f"location.hash === '#row={row}'")
        page.until("history.state.key")
        name = page.text("#query-title")
        embedsearch.index(photos, store=tmp_path / "s.es", model="packaged", rebuild=True)
        page.page.wait_for_timeout(3000)  # until the server has seen it
        page.page.reload()
        page.until("document.querySelector('#grid .score')")
        page.until(f"location.hash !== '#row={row}'")
        page.until(f"document.querySelector('#query-title').textContent === {json.dumps(name)}")
        page.context.close()
