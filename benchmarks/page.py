"""The page of `embedsearch serve` over 200,000 images: `python -m benchmarks.page`

In Chromium, on this machine: the first view, clicks, an upload over a slow line, long tasks, layout
shifts, and scrolling to the last image. The files are names of 2,013 photos, a hundred names each;
the vectors are made up, in clusters. Needs the photos of `../shared`.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import embedsearch
from benchmarks.measure import machine
from benchmarks.run import SHARED
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.serving import served

ROWS, DIM, CENTERS = 200_000, 512, 2_000
CLICKS, LOADS, UPLOADS, STEPS = 50, 9, 5, 200
SLOW_LINE = 750_000 / 8  # bytes a second
# Put before any script of the page: what is painted when, long tasks and layout shifts.
WATCH = """
window.tasks = []; window.shift = 0;
new PerformanceObserver(list => list.getEntries().forEach(e => tasks.push(e.duration)))
  .observe({type: 'longtask', buffered: true});
new PerformanceObserver(list => list.getEntries().forEach(e => {
  if (!e.hadRecentInput) shift += e.value;
}))
  .observe({type: 'layout-shift', buffered: true});
window.seen = condition => new Promise(done => {
  const look = () => condition() ? requestAnimationFrame(() => done(performance.now()))
    : requestAnimationFrame(look);
  look();
});
window.screen_is_full = () => {
  const shown = [...document.querySelectorAll('.tile img')]
    .filter(i => i.getBoundingClientRect().top < innerHeight && i.checkVisibility());
  return shown.length > 5 && shown.every(i => i.complete && i.naturalWidth);
};
window.a_thumbnail = () => [...document.querySelectorAll('.tile img')]
  .some(i => i.complete && i.naturalWidth);
seen(a_thumbnail).then(at => { window.firstAt = at; });
seen(screen_is_full).then(at => { window.wholeAt = at; });
"""
# From the click in the page to the frame in which the first thumbnail of a hit stands.
CLICKED = """
place => {
  const tile = document.querySelectorAll('#grid .tile')[place];
  addEventListener('pointerdown', () => {
    const start = performance.now();
    window.took = null;
    seen(() => !tile.isConnected && document.querySelector('#grid .score') && a_thumbnail())
      .then(at => { window.took = at - start; });
  }, { once: true });
}
"""
PLACES = 12  # among which one is clicked


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        store = collection(base)
        lines: list[tuple[str, str]] = []
        with sync_playwright() as running:
            browser = running.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            with served(store) as server:
                lines += _views(browser, server.url)
                lines += _clicks(browser, server.url)
                lines += _scrolling(browser, server.url)
            with served(photos_store(base)) as server:
                lines += _uploads(browser, server.url, base)
            browser.close()
    print(f"\n{machine()}\n\n| {ROWS:,} images | |\n|---|---|")
    for name, words in lines:
        print(f"| {name} | {words} |")


def _page(browser: Any, url: str) -> Any:
    """Return a page of a browser that knows nothing yet."""
    page = browser.new_context(viewport={"width": 1280, "height": 850}).new_page()
    page.add_init_script(WATCH)
    page.goto(url)
    return page


def _views(browser: Any, url: str) -> list[tuple[str, str]]:
    first, whole, shifts = [], [], []
    _page(browser, url).wait_for_function("() => window.wholeAt")  # the server is warm
    for _ in range(LOADS):
        page = _page(browser, url)
        page.wait_for_selector("#grid .tile")
        page.wait_for_function("() => window.wholeAt")
        first.append(page.evaluate("firstAt"))
        whole.append(page.evaluate("wholeAt"))
        time.sleep(0.5)
        shifts.append(page.evaluate("shift"))
        page.context.close()
    return [
        ("first thumbnail of a new visitor", _ms(first)),
        ("whole first screen", _ms(whole)),
        ("layout shift while it is loaded", f"{max(shifts):.3f} at most"),
    ]


def _clicks(browser: Any, url: str) -> list[tuple[str, str]]:
    new, _ = _chain(browser, url)
    known, page = _chain(browser, url)
    shift, tasks = page.evaluate("[shift, tasks]")
    for _ in range(6):  # 240 tiles and more
        page.evaluate("scrollBy(0, 1200)")
        time.sleep(0.4)
    later = page.evaluate("tasks")
    count = page.locator("#grid .tile").count()
    page.context.close()
    return [
        ("from the click to the first image, thumbnails made for it", _ms(new)),
        ("… the first click of all", f"{new[0]:.0f} ms"),
        ("… thumbnails of the cache", _ms(known)),
        ("layout shift over these clicks", f"{shift:.3f}"),
        (f"longest task, with {count} tiles", f"{max([*tasks, *later, 0]):.0f} ms"),
    ]


def _chain(browser: Any, url: str) -> tuple[list[float], Any]:
    """Search for one of the images found, again and again; return the milliseconds of each."""
    page = _page(browser, url)
    page.wait_for_selector("#grid .tile")
    time.sleep(2.5)
    places, took = random.Random(7), []
    for _ in range(CLICKS):
        place = places.randrange(PLACES)
        page.hover(f"#grid .tile >> nth={place}")
        page.evaluate(CLICKED, place)
        page.click(f"#grid .tile >> nth={place} >> [data-act=similar]")
        page.wait_for_function("() => window.took")
        took.append(float(page.evaluate("took")))
        time.sleep(0.5)  # the other thumbnails of that page are no part of the next click
    return took, page


def _scrolling(browser: Any, url: str) -> list[tuple[str, str]]:
    """Scroll to the last image in steps of an equal share, and look at memory on the way."""
    page = _page(browser, url)
    page.wait_for_selector("#grid .tile")
    session = page.context.new_cdp_session(page)
    heaps, nodes = [], []
    for step in range(1, STEPS + 1):
        page.evaluate(f"scrollTo(0, document.documentElement.scrollHeight * {step / STEPS})")
        time.sleep(0.15)
        if step % (STEPS // 10) == 0:
            session.send("HeapProfiler.collectGarbage")
            found = session.send("Memory.getDOMCounters")
            heaps.append(session.send("Runtime.getHeapUsage")["usedSize"] / 1e6)
            nodes.append(found["nodes"])
    last = f'#grid .tile[aria-posinset="{ROWS}"]'
    for _ in range(50):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        time.sleep(0.1)
        if page.locator(last).count():
            break
    is_reached = page.locator(last).count() == 1
    page.context.close()
    heap = f"{heaps[0]:.1f} MB after a tenth, {heaps[-1]:.1f} at the end, {max(heaps):.1f} at most"
    return [
        ("the last image is reached by scrolling", "yes" if is_reached else "**no**"),
        ("memory of scripts on the way", heap),
        ("nodes of the document on the way", f"{min(nodes):,} to {max(nodes):,}"),
    ]


def _uploads(browser: Any, url: str, base: Path) -> list[tuple[str, str]]:
    """Search with a photo of 12 megapixels over a slow line."""
    photo = max((SHARED / "data" / "camera").glob("*.jpg"), key=lambda path: path.stat().st_size)
    large = base / "large.jpg"
    with Image.open(photo) as image:
        image.convert("RGB").resize((4000, 3000)).save(large, quality=100, subsampling=0)
    took = []
    for _ in range(UPLOADS):
        page = _page(browser, url)
        page.wait_for_selector("#grid .tile")
        session = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 50, "downloadThroughput": SLOW_LINE}
        session.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": SLOW_LINE})
        started = time.monotonic()
        page.set_input_files("#file", large)
        page.wait_for_selector("#grid .score", timeout=60_000)
        took.append(1e3 * (time.monotonic() - started))
        page.context.close()
    size = large.stat().st_size / 1e6
    return [(f"a photo of 12 megapixels, {size:.1f} MB, over 750 kbit/s, answered", _ms(took))]


def _ms(times: list[float]) -> str:
    p50, p90 = np.percentile(times, [50, 90])
    return f"median {p50:.0f} ms, p90 {p90:.0f}, slowest {max(times):.0f}"


def photos_store(base: Path) -> Path:
    """Return a store of photos that a network has seen."""
    store = base / "seen.es"
    embedsearch.index(SHARED / "data" / "caltech101_dev", store=store, model="packaged")
    return store


def collection(base: Path) -> Path:
    """Return a store of 200,000 rows whose files are there."""
    photos = sorted((SHARED / "data" / "caltech101_dev").glob("*/*.jpg"))
    (base / "photos").mkdir()
    names = []
    copies = [shutil.copy(photo, base / f"{number}.jpg") for number, photo in enumerate(photos)]
    for row in range(ROWS):
        names.append(f"photos/{row:06d}.jpg")
        os.link(copies[row % len(copies)], base / names[-1])
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((CENTERS, DIM), np.float32)
    near = centers[rng.integers(CENTERS, size=ROWS)]
    np.save(
        base / "v.npy", (near + rng.standard_normal((ROWS, DIM), np.float32)).astype(np.float16)
    )
    (base / "paths.txt").write_text("\n".join(names) + "\n")
    store = base / "s.es"
    import_vectors(
        base / "v.npy", paths=base / "paths.txt", root=base, model="elsewhere", store=store
    )
    return store


if __name__ == "__main__":
    main()
