"""Images of the store; in: a row or a condition, out: records, thumbnails."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.records import ImageRecord
from embedsearch.images.thumbnails import MAX_SIDE
from embedsearch.web.answers import json_answer
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import Row, in_query, told
from embedsearch.web.search_request import BadRequest, ListOptions, parameters, validated
from embedsearch.web.service import Service

_SIDE = re.compile(r"[0-9]{1,4}")
_DEFAULT_SIDE = 256


class ListAnswer(BaseModel):
    """Images, and the number of all that match."""

    images: list[ImageRecord]
    total: int
    generation: int


class ImageRoutes:
    """`/images` and below."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        listed = {"parameters": in_query(ListOptions)}
        app.get("/images", **told({"model": ListAnswer}, listed))(self.images)
        app.get("/images/{row}", **told({"model": ImageRecord}))(self.image)
        jpeg = told({"content": {"image/jpeg": {}}}, {"parameters": [_side_schema()]})
        app.get("/images/{row}/thumbnail", **jpeg)(self.thumbnail)

    async def images(self, request: Request) -> Response:
        """Return images that match a condition, in the store's order or in another."""
        options = validated(ListOptions, parameters(request))
        kind = Kind.RECORDS if options.where is None else Kind.FILTERS
        return await self._service.turns.run(kind, lambda: self._listed(options))

    async def image(self, row: Row) -> Response:
        """Return the record of an image."""
        searcher = self._service.searcher
        record = await self._service.turns.run(Kind.RECORDS, lambda: searcher.get(int(row)))
        return json_answer(record.to_dict())

    async def thumbnail(self, request: Request, row: Row) -> Response:
        """Return an image of the store, upright, as JPEG."""
        pairs = request.query_params.multi_items()
        side = str(_DEFAULT_SIDE) if not pairs else pairs[0][1]
        if len(pairs) > 1 or (pairs and pairs[0][0] != "side") or not _SIDE.fullmatch(side):
            raise BadRequest(f"a thumbnail has one parameter, side, from 1 to {MAX_SIDE}")
        kind = Kind.REMOTE if await self._service.is_remote([int(row)]) else Kind.THUMBNAILS
        return await self._service.turns.run(kind, lambda: self._picture(int(row), int(side)))

    def _listed(self, options: ListOptions) -> Response:
        found = self._service.searcher.images(
            options.k, where=options.where, offset=options.offset, order=options.order
        )
        images = [image.to_dict() for image in found.images]
        generation = self._service.generation
        return json_answer({"images": images, "total": found.total, "generation": generation})

    def _picture(self, row: int, side: int) -> Response:
        try:
            jpeg = self._service.searcher.thumbnail(row, side)
        except UnreadableImage as error:  # the file was replaced or deleted
            message = f"the image of row {row} cannot be read"
            raise BadRequest(message, 404, code="file_gone") from error
        return Response(jpeg, 200, {"cache-control": "private, max-age=300"}, "image/jpeg")


def _side_schema() -> dict[str, Any]:
    return {
        "name": "side",
        "in": "query",
        "required": False,
        "description": "The longer side in pixels",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_SIDE, "default": _DEFAULT_SIDE},
    }
