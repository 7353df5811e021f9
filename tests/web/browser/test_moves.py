"""The page of `embedsearch serve` in a real browser: moves between its states."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from tests.support.browsing import Page, visited
from tests.support.library import CLOCK, SAMPLES
from tests.support.serving import Served, served


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of 378 images: seven sections."""
    folder = tmp_path_factory.mktemp("moves")
    for copy in range(7):
        shutil.copytree(SAMPLES, folder / "photos" / str(copy))
    embedsearch.index(folder / "photos", store=folder / "s.es", model="packaged")
    with served(folder / "s.es") as running:
        yield running


@pytest.fixture
def opened(browser: Any, album: Served) -> Iterator[Page]:
    with visited(browser, album) as page:
        yield page


def test_arrows_lead_through_all_images(opened: Page) -> None:
    opened.page.click("#grid .tile a")
    opened.until("document.querySelector('#details dl')")
    for place in range(2, 201):
        opened.page.keyboard.press("ArrowRight")
        opened.until(f"document.querySelector('#viewer-place').textContent === '{place} of 378'")
    opened.until("!document.querySelector('#viewer-after').disabled")
    assert opened.page.locator("#strip button").count() == 10
    row = int(opened.eval("location.hash").partition("open=")[2])
    opened.page.keyboard.press("Escape")
    opened.until("!document.querySelector('#viewer').open")
    opened.until(f"document.activeElement.closest('.tile')?.dataset.row === '{row}'")
    assert opened.eval("history.state.opened") is None  # one way back, not a hundred


def test_places_count_every_image_once(opened: Page) -> None:
    opened.to("#row=10")
    places = "[...document.querySelectorAll('#grid .tile')].map(t => Number(t.ariaPosInSet))"
    opened.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last = '#grid .tile[aria-posinset="377"]'
    opened.page.wait_for_selector(last)
    assert max(opened.eval(places)) == 377
    opened.page.evaluate("scrollTo(0, 1200)")
    opened.page.wait_for_selector('#grid .tile[aria-posinset="90"]', state="attached")
    opened.page.wait_for_selector('#grid .tile[aria-posinset="1"]', state="attached")
    found = sorted(place for place in opened.eval(places) if place <= 90)
    assert found == list(range(1, 91))
    opened.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    opened.page.click(f"{last} a")
    opened.until("document.querySelector('#viewer-place').textContent === '377 of 377'")
    assert opened.eval("document.querySelector('#viewer-after').disabled")


def test_an_image_that_is_opened_by_its_address_has_neighbors(opened: Page) -> None:
    row = opened.rows()[5]
    opened.page.evaluate(f"location.hash = '#open={row}'")
    opened.page.reload()
    opened.until("document.querySelector('#viewer-place').textContent === '6 of 378'")
    opened.until("document.title.includes('.')")
    opened.page.keyboard.press("ArrowLeft")
    opened.until("document.querySelector('#viewer-place').textContent === '5 of 378'")


def test_closing_leaves_no_entry_behind(opened: Page) -> None:
    opened.to("#row=10")
    before = opened.page.url
    opened.page.click("#grid .tile a >> nth=3")
    opened.until("document.querySelector('#details dl')")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_timeout(200)
    opened.page.keyboard.press("Escape")
    opened.until("!document.querySelector('#viewer').open")
    assert opened.page.url == before
    opened.page.go_back()
    opened.until("!location.hash")


def test_a_row_between_two_sections_is_full(opened: Page) -> None:
    opened.page.evaluate("scrollBy(0, 1500)")
    opened.page.wait_for_selector('#grid .tile[aria-posinset="61"]')
    assert opened.page.locator(".section:not(:last-child) .row.short").count() == 0


def test_a_notice_outlives_its_dialog(opened: Page) -> None:
    opened.page.click("#count button")
    opened.until("document.querySelector('#facts')?.open")
    opened.page.evaluate(
        """() => {
          const made = new Event('drop', {bubbles: true, cancelable: true});
          Object.defineProperty(made, 'dataTransfer', {value: new DataTransfer()});
          document.body.dispatchEvent(made);
        }"""
    )
    opened.page.wait_for_selector("#facts #notice")
    opened.page.keyboard.press("Escape")
    opened.until("!document.querySelector('#facts')")
    opened.act(opened.rows()[0], "pick")
    opened.page.click("#selection >> text=Copy paths")
    opened.page.wait_for_selector("body > #notice:not([hidden])")


def test_thumbnails_come_after_a_short_failure(opened: Page) -> None:
    opened.page.route("**/thumbnail*", lambda route: route.abort())
    opened.to("#row=10")
    opened.page.wait_for_selector("#notice:not([hidden])")
    opened.page.unroute("**/thumbnail*")
    opened.page.wait_for_selector("#grid .tile img:not(.coming)")


def test_a_photo_is_sent_once_for_several_pages(opened: Page) -> None:
    sent: list[str] = []
    opened.page.on("request", lambda r: sent.append(r.url) if "/search?" in r.url else None)
    opened.hand_over(CLOCK)
    for _ in range(6):
        opened.page.evaluate("scrollBy(0, 900)")
        opened.page.wait_for_timeout(150)
    opened.page.wait_for_selector('#grid .tile[aria-posinset="130"]')
    assert len(sent) == 1
    assert not opened.page.is_visible("#progress")


def test_a_file_that_fails_changes_nothing(opened: Page, tmp_path: Path) -> None:
    rows, length = opened.rows(), opened.eval("history.length")
    for name, data in (("empty.jpg", b""), ("a.svg", b"<svg/>"), ("doc.pdf", b"%PDF-1.4")):
        (tmp_path / name).write_bytes(data)
        opened.page.set_input_files("#file", tmp_path / name)
        opened.until("!document.querySelector('#problem').hidden")
        assert opened.page.locator("#problem button").count() == 0  # another try mends nothing
        opened.page.wait_for_timeout(100)
    assert (opened.rows(), opened.eval("history.length")) == (rows, length)
    assert opened.eval("location.hash") == "" and not opened.page.is_visible("#query")


def test_marks_are_those_of_the_address(opened: Page) -> None:
    opened.to("#row=10")
    one, two, three = opened.rows()[1:4]
    opened.act(one, "like")
    opened.act(two, "like")
    opened.act(three, "unlike")
    opened.page.click("text=Search again")
    opened.until("location.hash.includes('unlike=')")
    opened.wait()
    opened.page.click("#marks .mark.like >> nth=1")  # takes it off
    opened.until("document.querySelectorAll('#marks .mark').length === 2")
    opened.page.click("text=Hide copies")
    opened.until("location.hash.includes('hide=true')")
    opened.wait()
    assert opened.page.locator("#marks .mark").count() == 2
    opened.page.click("text=Clear marks")
    opened.until("!location.hash.includes('like=')")
    opened.page.go_back()
    opened.until("location.hash.includes('unlike=')")
    opened.until("document.querySelectorAll('#marks .mark').length === 3")


@pytest.mark.parametrize(
    "fragment",
    [
        "#row=99999999",
        "#group=99999",
        "#upload=123",
        "#text=%20",
        "#where=nothing+%3D+1",
        "#row=1&crop=0,0,0,0",
        "#view=nothing&order=x&least=7&open=abc",
        "#like=999999999",
    ],
)
def test_an_address_that_leads_nowhere(browser: Any, album: Served, fragment: str) -> None:
    page = Page(browser, album, fragment)
    page.wait()
    assert len(page.rows()) > 20
    page.context.close()


def test_the_field_says_what_is_searched(opened: Page) -> None:
    opened.page.fill("#words", "clocks")
    opened.page.keyboard.press("Enter")
    opened.until("location.hash === '#text=clocks'")
    opened.wait()
    opened.page.go_back()
    opened.until("!location.hash && document.querySelector('#words').value === ''")


@pytest.mark.parametrize(
    "words", ["path not taken", "format is nice", "rating >", "width in photos"]
)
def test_words_that_are_no_condition(opened: Page, words: str) -> None:
    opened.page.fill("#words", words)
    opened.page.keyboard.press("Enter")
    opened.until("location.hash.startsWith('#text=')")


@pytest.mark.parametrize(
    "words",
    ["width > 100", "format is not null", "format in ('PNG')", "path like 'a%'", '"width"=5'],
)
def test_words_that_are_a_condition(opened: Page, words: str) -> None:
    opened.page.fill("#words", words)
    opened.page.keyboard.press("Enter")
    opened.until("location.hash.startsWith('#where=')")


def test_the_slider_does_not_undo_what_comes_next(opened: Page) -> None:
    opened.to("#row=10")
    opened.page.fill("#least-range", "0.1")
    opened.page.click("#grid .tile a >> nth=2")
    opened.until("document.querySelector('#details dl')")
    opened.page.wait_for_timeout(500)
    assert opened.eval("document.querySelector('#viewer').open")
    opened.page.keyboard.press("Escape")
    opened.until("!document.querySelector('#viewer').open")
    opened.page.fill("#least-range", "0.3")
    opened.page.click("#query-close")
    opened.page.wait_for_timeout(500)
    assert opened.eval("location.hash") == ""


def test_the_slider_stays_where_it_was_moved_meanwhile(opened: Page) -> None:
    opened.to("#row=10")
    with opened.held("**/search"):
        opened.page.fill("#least-range", "0.1")
        opened.until("location.hash.includes('least=0.1')")
        opened.page.fill("#least-range", "0.2")
    opened.until("location.hash.includes('least=0.2')")
    opened.wait()
    assert opened.eval("document.querySelector('#least-range').value") == "0.2"


def test_two_photos_at_once(opened: Page, album: Served) -> None:
    other = SAMPLES / "boats" / "boats_1.jpg"
    with opened.held("**/search?*"):
        opened.page.set_input_files("#file", CLOCK)
        opened.page.wait_for_timeout(300)
        opened.page.set_input_files("#file", other)
        opened.page.wait_for_timeout(300)
    opened.until("document.querySelector('#query-title').textContent === 'Like “boats 1”'")
    opened.until("document.querySelector('#grid .score')")
    opened.page.wait_for_timeout(500)
    assert opened.text("#query-title") == "Like “boats 1”", "the first photo came late"


def test_focus_stays_where_it_was(opened: Page) -> None:
    opened.page.focus('[data-chip="format"]')
    opened.page.keyboard.press("Enter")
    opened.until("document.activeElement.closest('#panel .choice')")
    opened.page.keyboard.press("Enter")
    opened.until("location.hash.includes('where=')")
    opened.wait()
    opened.until("document.activeElement.dataset.chip === 'format'")
    opened.to("#row=10")
    opened.page.focus('[data-chip="hide"]')
    opened.page.keyboard.press("Enter")
    opened.until("location.hash.includes('hide=true')")
    assert opened.eval("document.activeElement.dataset.chip") == "hide"


def test_a_second_click_closes_a_panel(opened: Page) -> None:
    opened.page.click('[data-chip="format"]')
    opened.page.wait_for_selector("#panel .choice")
    opened.page.click('[data-chip="format"]')
    opened.page.wait_for_timeout(300)
    assert opened.page.locator("#panel").count() == 0


def test_a_swipe_turns_the_picture(browser: Any, album: Served) -> None:
    options: dict[str, Any] = {"has_touch": True, "is_mobile": True}
    page = Page(browser, album, viewport={"width": 390, "height": 844}, **options)
    page.page.tap("#grid .tile a")
    page.until("document.querySelector('#details dl')")
    session = page.context.new_cdp_session(page.page)

    def touch(kind: str, *points: tuple[int, int]) -> None:
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]},
        )

    touch("touchStart", (300, 200))
    for x in range(280, 80, -20):
        touch("touchMove", (x, 202))
    touch("touchEnd")
    page.until("document.querySelector('#viewer-place').textContent === '2 of 378'")
    page.context.close()


@pytest.mark.parametrize("width", [320, 768, 850, 1024, 2560])
def test_the_field_has_room(browser: Any, album: Served, width: int) -> None:
    page = Page(browser, album, "#row=10", viewport={"width": width, "height": 800})
    assert page.eval("document.querySelector('#words').clientWidth") >= 110
    assert page.eval("document.documentElement.scrollWidth <= innerWidth")
    page.act(page.rows()[0], "pick")
    overlaps = """(() => {
      const all = [...document.querySelectorAll('#selection > *')];
      const boxes = all.map(node => node.getBoundingClientRect());
      return boxes.some((box, i) => i && box.left < boxes[i - 1].right - 1);
    })()"""
    assert not page.eval(overlaps)
    page.context.close()
