"""The page for people; out: its HTML with the first images, and the files that it loads."""

from __future__ import annotations

import re

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.records import ImageRecord
from embedsearch.web import assets
from embedsearch.web.answers import html_answer
from embedsearch.web.limits import Kind
from embedsearch.web.plain import first_tiles, form, page_links
from embedsearch.web.routes.store import store_info
from embedsearch.web.search_request import BadRequest, ListOptions, validated
from embedsearch.web.service import Service

FIRST = 24  # images that come with the page
NEWEST = "-taken_at"  # the order of the page; images without a date come last
_OPTIONS = ("k", "offset", "where")
_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}


class PageRoutes:
    """`/` and `/static`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        app.get("/", include_in_schema=False)(self.page)
        app.get("/static/{digest}/{name:path}", include_in_schema=False)(self.static)

    async def page(self, request: Request) -> Response:
        """Return the page for people, with the first images or those from an offset on."""
        given = {
            name: request.query_params[name] for name in _OPTIONS if name in request.query_params
        }
        options = validated(ListOptions, {"k": FIRST, "order": NEWEST, **given})
        kind = Kind.RECORDS if options.where is None else Kind.FILTERS
        return await self._service.turns.run(kind, lambda: self._page(options))

    def _page(self, options: ListOptions) -> Response:
        searcher = self._service.searcher
        found = searcher.images(
            options.k, where=options.where, offset=options.offset, order=options.order
        )
        # JSON that cannot end a script element
        info = store_info(self._service).model_dump_json().replace("<", "\\u003c")
        return html_answer(_filled(found.images, found.total, options, info))

    async def static(self, digest: str, name: str) -> Response:
        """Return a file of the page."""
        if f"static/{digest}/" != assets.folder() or name not in assets.assets():
            raise BadRequest("there is no such file: reload the page", 404, "no_such_address")
        kind = assets.TYPES[name.rpartition(".")[2]]
        return Response(assets.assets()[name], 200, _FOREVER, kind)


def _filled(images: list[ImageRecord], total: int, options: ListOptions, info: str) -> str:
    """Return the page; what is put in is not looked at for what else to put in."""
    parts = {
        "assets": assets.folder(),
        "styles": assets.style_links("./"),
        "scripts": assets.script_links("./"),
        "form": form("./"),
        "count": f"{total:,} images",
        "tiles": first_tiles(images, "./"),
        "pages": page_links(options, total, "./"),
        "info": info,
    }
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], assets.template())
