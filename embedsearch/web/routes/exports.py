"""Chosen images to take along; in: rows, out: their facts as CSV, or their files as a ZIP."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.records import ImageRecord
from embedsearch.images.original_zip import Wanted, zip_pieces
from embedsearch.searching.browsing.record_csv import csv_of
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import in_query, told
from embedsearch.web.search_request import BadRequest, Row, json_body, parameters, validated
from embedsearch.web.service import Service
from embedsearch.web.streams import Streamed

_MAX_ROWS = 1000
_ROWS = rf"^[0-9]{{1,12}}(,[0-9]{{1,12}}){{0,{_MAX_ROWS - 1}}}$"


class ExportBody(BaseModel):
    """The rows to take along."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: Annotated[list[Row], Field(min_length=1, max_length=_MAX_ROWS)]


class ExportOptions(BaseModel):
    """The rows to take along, in a link."""

    model_config = ConfigDict(extra="forbid")

    rows: Annotated[
        str, Field(pattern=_ROWS, max_length=13 * _MAX_ROWS, description="numbers, with commas")
    ]


class ExportRoutes:
    """`/export/csv` and `/export/zip`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        content = {"application/json": {"schema": ExportBody.model_json_schema()}}
        posted = {"requestBody": {"required": True, "content": content}}
        linked = {"parameters": in_query(ExportOptions)}
        for path, kind, route in (
            ("/export/csv", "text/csv", self.csv),
            ("/export/zip", "application/zip", self.zip),
        ):
            found: dict[str, Any] = {"content": {kind: {"schema": {"type": "string"}}}}
            app.post(path, **told(found, posted))(route)
            app.get(path, **told(found, linked))(route)

    async def csv(self, request: Request) -> Response:
        """Return the facts of images as CSV, with the user's columns."""
        records = await self._service.records(await self._rows(request))
        if not records:
            raise _none()
        text = await self._service.turns.run(Kind.RECORDS, lambda: csv_of(records))
        return Response(text, 200, _saved_as("images.csv"), "text/csv")

    async def zip(self, request: Request) -> Response:
        """Return the files of images as a ZIP; what cannot be read is listed in it."""
        service, rows = self._service, await self._rows(request)
        records = await service.records(rows)
        if not records:
            raise _none()
        most = service.limits.export_bytes
        if sum(record.size_bytes for record in records) > most:
            message = f"the files have more than {most >> 20:,} MB together: choose fewer"
            raise BadRequest(message, 413, code="too_large")
        there = {record.row for record in records}
        is_remote = await service.is_remote(list(there))
        missing = [f"row {row}: the store does not have it" for row in rows if row not in there]
        pieces = zip_pieces(map(self._wanted, records), most, missing)
        return Streamed(
            pieces,
            service.turns,
            Kind.REMOTE if is_remote else Kind.ORIGINALS,
            status=200,
            headers=_saved_as("images.zip"),
            media_type="application/zip",
        )

    def _wanted(self, record: ImageRecord) -> Wanted:
        return Wanted(record.key, partial(self._service.searcher.original, record.row))

    async def _rows(self, request: Request) -> list[int]:
        """Return the rows that are asked for, each once."""
        if request.method == "GET":
            options = validated(ExportOptions, parameters(request))
            return list(dict.fromkeys(map(int, options.rows.split(","))))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequest("rows are JSON", 415)
        body = json_body(request, await request.body(), self._service.limits)
        return list(dict.fromkeys(validated(ExportBody, body).rows))


def _none() -> BadRequest:
    return BadRequest("the store has none of these rows", 404, code="no_such_image")


def _saved_as(name: str) -> dict[str, str]:
    return {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="{name}"',
    }
