"""A page in a real browser, and what the browser says of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import embedsearch
import embedsearch.core.errors
from tests.support.serving import Served

HOSTILE = '"><img src=x onerror=alert(1)>.png'


_ROWS = "[...document.querySelectorAll('#grid li')].map(item => item.dataset.row)"


class Page:
    """A page, and what the browser says of it."""

    def __init__(self, browser: Any, server: Served, fragment: str = "", **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 850}, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(server.url + fragment)
        self.wait("images" if not fragment else "")

    def wait(self, words: str) -> None:
        """Wait until the results are there, and the line above them has some words."""
        self.page.wait_for_function(
            """words => document.querySelector('#results').ariaBusy !== 'true'
               && document.querySelector('#status').textContent.includes(words)
               && document.querySelector('#grid li')""",
            arg=words,
        )

    def rows(self) -> list[int]:
        """Return the rows in the grid."""
        return [int(row) for row in self.eval(_ROWS)]

    def shows(self, rows: list[int]) -> None:
        """Wait until the grid has these rows."""
        from playwright.sync_api import TimeoutError as TooLong

        with contextlib.suppress(TooLong):
            self.until(f"{_ROWS}.join() === '{','.join(map(str, rows))}'")
        assert self.rows() == rows

    def eval(self, script: str) -> Any:
        return self.page.evaluate(script)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def until(self, script: str) -> None:
        """Wait until an expression holds. A function: the page's policy forbids eval."""
        self.page.wait_for_function(f"() => Boolean({script})")

    def hand_over(self, path: Path) -> None:
        self.page.set_input_files("#file", path)
        self.until("location.hash.includes('upload=')")
        self.wait("nearest")


def expected(searcher: embedsearch.Searcher, query: Any, **options: Any) -> list[int]:
    return [hit.row for hit in searcher.query(query, k=48, **options)]
