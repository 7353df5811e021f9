"""The page for people; out: its HTML, and the files that it loads."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

from embedsearch.web.answers import html_answer
from embedsearch.web.plain import form
from embedsearch.web.search_request import BadRequest

_SCRIPTS = ("address", "columns", "dom", "facts", "grid", "marks", "query", "search", "store")
_STATIC = {"page.css": "text/css", "icon.svg": "image/svg+xml", "page.js": "text/javascript"}
_STATIC |= {f"{name}.js": "text/javascript" for name in _SCRIPTS}


class PageRoutes:
    """`/` and `/static`."""

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        app.get("/", include_in_schema=False)(self.page)
        app.get("/static/{name}", include_in_schema=False)(self.static)

    async def page(self) -> Response:
        """Return the page for people."""
        return html_answer(_read("page.html").decode().replace("<!-- FORM -->", form("./")))

    async def static(self, name: str) -> Response:
        """Return a file of the page."""
        if name not in _STATIC:
            raise BadRequest("there is no such file", 404)
        return Response(_read(name), 200, {"cache-control": "no-cache"}, _STATIC[name])


@cache
def _read(name: str) -> bytes:
    return files("embedsearch.web").joinpath("static", name).read_bytes()
