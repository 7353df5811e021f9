"""The page of `embedsearch serve` over 200,000 images: `python -m benchmarks.page`

In Chromium, on this machine: the time from a click on an image to the moment when the first of
those like it is painted, with thumbnails that were never made before, and with ones that were.
The files are names of 2,013 photos, a hundred names each; the vectors are made up, in clusters.
Needs the photos of `../shared`.
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
from playwright.sync_api import sync_playwright

from benchmarks.measure import machine
from benchmarks.run import SHARED
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.serving import served

ROWS, DIM, CENTERS = 200_000, 512, 2_000
CLICKS = 50
FIRST = "() => document.querySelector('#grid .score') && document.querySelector('#grid img.here')"
# From the click in the page to the frame in which the first thumbnail stands.
CLICK = """
row => new Promise(done => {
  const grid = document.querySelector('#grid');
  const link = document.querySelector('#grid li a');
  link.closest('li').dataset.row = row;
  const seen = () => {
    const picture = grid.querySelector('img.here');
    if (picture && picture.src.length && location.hash.includes('row=' + row))
      requestAnimationFrame(() => done(performance.now() - start));
    else requestAnimationFrame(seen);
  };
  grid.querySelectorAll('img.here').forEach(picture => picture.classList.remove('here'));
  const start = performance.now();
  link.click();
  requestAnimationFrame(seen);
})
"""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        store = collection(base)
        with served(store) as server, sync_playwright() as running:
            browser = running.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 850})
            page.goto(server.url)
            page.wait_for_selector("#grid img.here")
            rows = random.Random(7).sample(range(ROWS), CLICKS)
            new, known = ([clicked(page, row) for row in rows] for _ in range(2))
            browser.close()
    print(f"\n{machine()}\n\n| from the click to the first image, {ROWS:,} images | |\n|---|---|")
    for name, times in (("thumbnails made for it", new), ("thumbnails of the cache", known)):
        p50, p90 = np.percentile(times, [50, 90])
        print(f"| {name} | median {p50:.0f} ms, p90 {p90:.0f}, slowest {max(times):.0f} |")


def clicked(page: Any, row: int) -> float:
    """Return the milliseconds from a click to the first image."""
    took = float(page.evaluate(CLICK, row))
    page.wait_for_function(FIRST)
    time.sleep(0.5)  # the other thumbnails of that page are no part of the next click
    return took


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
