"""A page in a real browser, and what the browser says of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedsearch
import embedsearch.core.errors
from tests.support.serving import Served

HOSTILE = '"><img src=x onerror=alert(1)>.png'
ROWS = "[...document.querySelectorAll('#grid .tile')].map(tile => tile.dataset.row)"


class Page:
    """A page, and what the browser says of it."""

    def __init__(self, browser: Any, server: Served, fragment: str = "", **options: Any) -> None:
        viewport = options.pop("viewport", {"width": 1280, "height": 850})
        self.context = browser.new_context(viewport=viewport, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(server.url + fragment)
        if "view=" not in fragment:
            self.wait()

    def wait(self) -> None:
        """Wait until images are there and none are waited for."""
        self.until(
            "document.querySelector('#grid').ariaBusy === 'false'"
            " && document.querySelector('#grid .tile')"
        )

    def rows(self) -> list[int]:
        """Return the rows in the grid."""
        return [int(row) for row in self.eval(ROWS)]

    def shows(self, rows: list[int]) -> None:
        """Wait until the grid begins with these rows."""
        from playwright.sync_api import TimeoutError as TooLong

        with contextlib.suppress(TooLong):
            self.until(f"{ROWS}.slice(0, {len(rows)}).join() === '{','.join(map(str, rows))}'")
        assert self.rows()[: len(rows)] == rows

    def tile(self, row: int) -> str:
        """Return a selector of an image of the grid."""
        return f'#grid .tile[data-row="{row}"]'

    def act(self, row: int, what: str) -> None:
        """Press a button of an image: similar, like, unlike or pick."""
        self.page.hover(self.tile(row))
        self.page.click(f'{self.tile(row)} [data-act="{what}"]')

    def open(self, row: int) -> None:
        """Open an image in the whole window, and wait for what is known of it."""
        self.page.click(f"{self.tile(row)} a")
        self.until("document.querySelector('#details dl')")

    def to(self, fragment: str) -> None:
        """Go to another address, and wait for its images."""
        before = self.eval(ROWS)
        self.page.evaluate(f"location.hash = {fragment!r}")
        self.until(f"{ROWS}.join() !== '{','.join(before)}'")
        self.wait()

    def eval(self, script: str) -> Any:
        return self.page.evaluate(script)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def until(self, script: str) -> None:
        """Wait until an expression holds. A function: the page's policy forbids eval."""
        self.page.wait_for_function(f"() => Boolean({script})")

    def hand_over(self, path: Path) -> None:
        """Search for a photo."""
        self.page.set_input_files("#file", path)
        self.until("location.hash.includes('upload=') && document.querySelector('#grid .score')")
        self.wait()

    @contextlib.contextmanager
    def held(self, address: str) -> Iterator[None]:
        """Hold the answers to an address until the block ends."""
        waiting: list[Any] = []
        self.page.route(address, lambda route: waiting.append(route))
        yield
        self.page.unroute(address)
        for route in waiting:
            with contextlib.suppress(Exception):  # the page has given it up
                route.continue_()


@contextlib.contextmanager
def visited(browser: Any, server: Served, fragment: str = "", **options: Any) -> Iterator[Page]:
    """A page until the block ends, whose scripts made no error."""
    page = Page(browser, server, fragment, **options)
    yield page
    page.context.close()
    assert not page.errors


def expected(searcher: embedsearch.Searcher, query: Any, k: int = 24, **options: Any) -> list[int]:
    """Return the rows that the page shows for a query: all but the image that is searched for."""
    found = [hit.row for hit in searcher.query(query, k=k + 1, **options)]
    own = query.key if isinstance(query, embedsearch.Key) else None
    return [row for row in found if row != own][:k]
