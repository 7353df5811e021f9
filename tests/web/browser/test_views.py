"""The page of `embedsearch serve` in a real browser: its views, selections and ways to look."""

from __future__ import annotations

import csv
import io
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import embedsearch
from embedsearch.curation.clusters import clusters, outliers
from tests.support.browsing import Page, visited
from tests.support.library import SAMPLES
from tests.support.serving import Served, served

FORMULA = "=1+1.jpg"
DEEP = 'deep/"><img src=x onerror=alert(1)>/er'


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the sample images, dated ones among them, with copies and hostile folders."""
    folder = tmp_path_factory.mktemp("album")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    clock = photos / "clocks" / "clocks_1.jpg"
    shutil.copy(clock, photos / "same.jpg")
    with Image.open(clock) as image:
        image.resize((320, 240)).save(photos / "smaller.jpg", quality=80)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.jpg", quality=95)
    (photos / DEEP).mkdir(parents=True)
    for number, month in enumerate(("2021:03", "2021:03", "2023:10")):
        with Image.open(sorted((photos / "boats").iterdir())[number]) as image:
            exif = image.getexif()
            exif[0x0132] = f"{month}:0{number + 1} 10:00:00"
            exif.get_ifd(0x8769)[0x9003] = exif[0x0132]
            name = FORMULA if number == 0 else f"dated_{number}.jpg"
            image.convert("RGB").crop((9, 9, 300, 200)).save(photos / DEEP / name, exif=exif)
    embedsearch.index(photos, store=folder / "s.es", model="packaged")
    return folder / "s.es"


@pytest.fixture(scope="module")
def site(album: Path) -> Iterator[Served]:
    with served(album) as running:
        yield running


@pytest.fixture
def opened(browser: Any, site: Served) -> Iterator[Page]:
    with visited(browser, site) as page:
        yield page


@pytest.fixture(scope="module")
def store_of_album(album: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(album) as searcher:
        yield searcher


def test_folders(opened: Page, store_of_album: embedsearch.Searcher) -> None:
    opened.page.click("#view-folders")
    opened.page.wait_for_selector(".folders a")
    lines = opened.page.locator(".folders .line").all_inner_texts()
    total = len(store_of_album)
    assert lines[0].split("\n")[-1] == f"{total} images"
    opened.page.click(".folders .line:has-text('deep') button")
    opened.page.click(".folders .line:has-text('onerror') button")
    assert opened.page.locator("img[src=x]").count() == 0
    opened.page.click(".folders a:text-is('er')")
    opened.wait()
    assert len(opened.rows()) == 3
    keys = {store_of_album.get(row).key for row in opened.rows()}
    assert keys == {f"{DEEP}/{FORMULA}", f"{DEEP}/dated_1.jpg", f"{DEEP}/dated_2.jpg"}
    opened.page.go_back()
    opened.page.wait_for_selector(".folders a")


def test_copies(
    opened: Page, store_of_album: embedsearch.Searcher, album: Path, tmp_path: Path
) -> None:
    opened.page.click("#view-copies")
    opened.page.wait_for_selector(".card")
    assert "1 group · 2 copies" in opened.text(".about")
    assert "nothing is deleted here" in opened.text(".about")
    words = [text.split("\n")[0] for text in opened.page.locator(".copy").all_inner_texts()]
    assert words[0] == "✓ Keep" and sorted(words[1:]) == ["Same file", "Smaller copy"]
    opened.page.click("text=compare ⇄")
    opened.page.wait_for_selector(".compare")
    before = opened.eval(
        "getComputedStyle(document.querySelector('.compare img:last-of-type')).clipPath"
    )
    opened.page.focus("dialog[open] input")
    opened.page.keyboard.press("Home")
    after = opened.eval(
        "getComputedStyle(document.querySelector('.compare img:last-of-type')).clipPath"
    )
    assert before != after
    opened.page.keyboard.press("Escape")
    with opened.page.expect_download() as download:
        opened.page.click("text=Save delete script")
    script = tmp_path / "delete_copies.sh"
    download.value.save_as(script)
    assert subprocess.run(["sh", "-n", script]).returncode == 0
    assert script.read_text().count("\nremove ") == 2
    assert (album.parent / "photos" / "same.jpg").exists()
    opened.page.click("text=Mirrored or turned")
    opened.page.wait_for_selector(".copy:has-text('Flipped')")
    opened.page.select_option("#other select", "oldest")
    opened.until("location.hash.includes('keep=oldest')")
    opened.page.wait_for_selector(".card")
    opened.page.click(".copy a >> nth=1")
    opened.page.wait_for_selector("#details dl")
    opened.page.keyboard.press("Escape")
    opened.until("!document.querySelector('#viewer').open && location.hash.includes('view=copies')")


def test_groups_and_outliers(opened: Page, album: Path) -> None:
    opened.page.click("#view-groups")
    opened.page.wait_for_selector(".group:has-text('Outliers')")  # it comes after the groups
    found = clusters(album)
    cards = opened.page.locator(".group").all_inner_texts()
    assert [card.split("\n") for card in cards[:-1]] == [
        [f"Group {one.number}", f"{len(one.rows)} images"] for one in found
    ]
    opened.page.click(".group >> nth=1")
    opened.wait()
    opened.shows(found[1].rows)
    assert opened.text(".chip.on").startswith("Group 2")
    opened.page.go_back()
    opened.page.click(".group:has-text('Outliers')")
    opened.wait()
    opened.shows([one.row for one in outliers(album, 20)])


def test_the_map(opened: Page) -> None:
    opened.page.click("#view-map")
    opened.page.wait_for_selector("#map canvas")
    opened.page.wait_for_timeout(300)
    box = opened.page.locator("#map canvas").bounding_box()
    mouse = opened.page.mouse
    opened.page.click("text=Lasso")
    left, top = box["x"] + 4, box["y"] + 60
    mouse.move(left, top)
    mouse.down()
    for x, y in (
        (box["width"] - 8, 0),
        (box["width"] - 8, box["height"] - 70),
        (0, box["height"] - 70),
    ):
        mouse.move(left + x, top + y, steps=4)
    mouse.up()
    opened.until("!document.querySelector('#selection').hidden")
    assert int(opened.text("#selection strong").split()[0]) > 40
    opened.page.click('#selection [aria-label="Clear the selection"]')
    # So few images are shown as pictures at once.
    assert any("/thumbnail?fill=128" in url for url in opened.requests)
    opened.page.focus("#map canvas")
    for _ in range(8):
        opened.page.keyboard.press("+")
    mouse.move(box["x"] + 200, box["y"] + 200)
    mouse.wheel(0, 300)
    mouse.down()
    mouse.move(box["x"] + 260, box["y"] + 220)
    mouse.up()
    opened.page.click("text=Select what is seen")
    opened.page.wait_for_timeout(500)


def test_a_selection_leaves_the_page(
    opened: Page, store_of_album: embedsearch.Searcher, tmp_path: Path
) -> None:
    rows = opened.rows()
    opened.act(rows[1], "pick")
    opened.page.hover(opened.tile(rows[4]))
    opened.page.click(f'{opened.tile(rows[4])} [data-act="pick"]', modifiers=["Shift"])
    assert opened.text("#selection strong") == "4 selected"
    keys = [store_of_album.get(row).key for row in rows[1:5]]
    with opened.page.expect_download() as download:
        opened.page.click("#selection >> text=CSV")
    text = Path(download.value.path()).read_text("utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["key"].removeprefix("'") for line in lines] == keys
    with opened.page.expect_download() as download:
        opened.page.click("#selection >> text=Zip")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 4 and archive.testzip() is None
    opened.page.click("#selection >> text=Copy paths")
    opened.until("!document.querySelector('#notice').hidden")
    paths = opened.eval("navigator.clipboard.readText()").split("\n")
    assert paths == [store_of_album.get(row).full_path for row in rows[1:5]]
    opened.page.click("#selection >> text=Like these")
    opened.until(f"location.hash === '#like={'%2C'.join(map(str, rows[1:5]))}'")
    mix = embedsearch.Mix([embedsearch.Key(row) for row in rows[1:5]], [])
    opened.shows([hit.row for hit in store_of_album.query(mix, k=20)])
    assert not opened.page.is_visible("#selection")


def test_all_that_is_loaded_is_selected(opened: Page) -> None:
    opened.page.focus("#grid a")
    opened.page.keyboard.press("Control+a")
    count = int(opened.text("#selection strong").split()[0])
    assert count == len(opened.rows()) > 50
    opened.page.keyboard.press("Escape")
    assert not opened.page.is_visible("#selection")


def test_a_long_press_selects(browser: Any, site: Served) -> None:
    options: dict[str, Any] = {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
    }
    page = Page(browser, site, **options)
    row = page.rows()[2]
    box = page.page.locator(page.tile(row)).bounding_box()
    session = page.context.new_cdp_session(page.page)
    point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    page.page.wait_for_timeout(700)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.until("!document.querySelector('#selection').hidden")
    assert not page.page.is_visible("#viewer")
    page.page.tap(f"{page.tile(page.rows()[4])} a")
    assert page.text("#selection strong") == "2 selected"
    page.context.close()


def test_jumping_to_a_month(opened: Page, store_of_album: embedsearch.Searcher) -> None:
    rows = opened.rows()
    dated = [image.row for image in store_of_album.images(60, where="taken_at is not null").images]
    assert set(rows[:3]) == set(dated)  # newest first, those without a date last
    opened.page.click('[data-chip="order"]')
    opened.page.wait_for_selector("#panel .choice:has-text('March 2021')")
    opened.page.click("#panel .choice:has-text('March 2021')")
    opened.page.click('[data-chip="taken_at"]')
    opened.page.wait_for_selector("#panel .choice:has-text('March 2021')")
    opened.page.click("#panel .choice:has-text('March 2021')")
    opened.until("document.querySelectorAll('#grid .tile').length === 2")
    assert opened.text(".chip.on") == "Date: 1 Mar 2021 – 31 Mar 2021"


@pytest.mark.parametrize("kind", ["link", "fifo", "another picture"])
def test_an_original_that_was_replaced(browser: Any, tmp_path: Path, kind: str) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(SAMPLES / "clocks", photos)
    (tmp_path / "secret.txt").write_text("a secret")
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        page = Page(browser, server)
        row = page.rows()[0]
        with embedsearch.open_store(tmp_path / "s.es") as searcher:
            path = Path(searcher.get(row).full_path)
        os.unlink(path)
        if kind == "link":
            path.symlink_to(tmp_path / "secret.txt")
        elif kind == "fifo":
            os.mkfifo(path)
            assert stat.S_ISFIFO(path.lstat().st_mode)
        else:
            shutil.copy(SAMPLES / "boats" / "boats_1.jpg", path)
        answer = server.get(f"/images/{row}/original")
        assert (answer.status, answer.json["code"]) == (404, "file_gone")
        assert b"secret" not in answer.body
        page.page.click(f"{page.tile(row)} a")
        page.until("document.querySelector('#details dl')")
        page.page.click("#viewer-zoom")
        page.page.wait_for_timeout(400)
        assert "secret" not in page.page.content()
        page.context.close()


def test_forced_colors_show_marks_by_signs(browser: Any, site: Served) -> None:
    page = Page(browser, site, forced_colors="active")
    page.act(page.rows()[0], "like")
    page.act(page.rows()[1], "unlike")
    assert page.text(f"{page.tile(page.rows()[0])} .badge-mark") == "+ like"
    assert page.text(f"{page.tile(page.rows()[1])} .badge-mark") == "− not like"
    page.context.close()


def test_less_motion_and_paper(browser: Any, site: Served) -> None:
    page = Page(browser, site, reduced_motion="reduce")
    duration = "getComputedStyle(document.querySelector('#grid .tile img')).transitionDuration"
    assert page.eval(duration) == "0s"
    page.page.emulate_media(media="print")
    assert not page.page.is_visible("#bar") and page.page.is_visible("#grid .tile")
    page.context.close()
