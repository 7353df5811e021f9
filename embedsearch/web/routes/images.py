"""Images of the store; in: a row or a condition, out: records, thumbnails."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.records import ImageRecord
from embedsearch.images.thumbnails import MAX_SIDE
from embedsearch.web.answers import has_copy, json_answer
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import Row, in_query, told
from embedsearch.web.search_request import BadRequest, ListOptions, parameters, validated
from embedsearch.web.service import Service

_DEFAULT_SIDE = 256

Pixels: TypeAlias = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class ThumbnailOptions(BaseModel):
    """The size of a thumbnail."""

    model_config = ConfigDict(extra="forbid")

    side: Annotated[Pixels | None, Field(description="the longer side; 256 by default")] = None
    fill: Annotated[
        Pixels | None, Field(description="the shorter side instead; the longer is at most 1024")
    ] = None


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
        jpeg = told({"content": {"image/jpeg": {}}}, {"parameters": in_query(ThumbnailOptions)})
        jpeg["responses"][304] = {"description": "It is the one that the client has"}
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
        options = validated(ThumbnailOptions, parameters(request))
        if options.side is not None and options.fill is not None:
            raise BadRequest("a thumbnail takes side or fill, not both", field="fill")
        kind = Kind.REMOTE if await self._service.is_remote([int(row)]) else Kind.THUMBNAILS
        return await self._service.turns.run(
            kind, lambda: self._picture(request, int(row), options)
        )

    def _listed(self, options: ListOptions) -> Response:
        found = self._service.searcher.images(
            options.k, where=options.where, offset=options.offset, order=options.order
        )
        images = [image.to_dict() for image in found.images]
        generation = self._service.generation
        return json_answer({"images": images, "total": found.total, "generation": generation})

    def _picture(self, request: Request, row: int, options: ThumbnailOptions) -> Response:
        searcher = self._service.searcher
        side, fill = options.side or _DEFAULT_SIDE, options.fill
        headers = {"cache-control": "private, max-age=300"}
        if version := searcher.thumbnail_version(row, side, fill=fill):
            headers["etag"] = f'"{version}"'
            if has_copy(request, headers["etag"]):
                return Response(None, 304, headers)
        try:
            jpeg = searcher.thumbnail(row, side, fill=fill)
        except UnreadableImage as error:  # the file was replaced or deleted
            message = f"the image of row {row} cannot be read"
            raise BadRequest(message, 404, code="file_gone") from error
        return Response(jpeg, 200, headers, "image/jpeg")
