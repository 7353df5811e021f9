"""What a store holds, to choose from; in: a column or a condition, out: values, folders."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.records import JsonRecord
from embedsearch.searching.browsing.folders import FolderCount
from embedsearch.searching.browsing.values import MonthCount, ValueCount
from embedsearch.web.answers import json_answer
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import in_query, told
from embedsearch.web.search_request import BadRequest, Where, parameters, validated
from embedsearch.web.service import Service


class BrowseOptions(BaseModel):
    """Which images are counted."""

    model_config = ConfigDict(extra="forbid")

    where: Where = None


class ValuesAnswer(BaseModel):
    """The values of a column, most frequent first; of timestamps also the months, newest first.

    `total` images have a value and `missing` ones none; `distinct` is null where values cannot be
    counted. Of more than 200 values the most frequent ones are listed, and none if each is there
    once.
    """

    column: str
    type: str
    total: int
    missing: int
    distinct: int | None
    values: list[ValueCount]
    min: Any
    max: Any
    months: list[MonthCount]
    generation: int


class FoldersAnswer(BaseModel):
    """The folders by root and path, and the number of all: a long list is `truncated`."""

    folders: list[FolderCount]
    total: int
    truncated: bool
    generation: int


class BrowseRoutes:
    """`/values` and `/folders`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        options = {"parameters": in_query(BrowseOptions)}
        values = told({"model": ValuesAnswer}, options)
        app.get("/values/{column:path}", **values)(self.values)  # a name may hold a slash
        app.get("/folders", **told({"model": FoldersAnswer}, options))(self.folders)

    async def values(self, request: Request, column: str) -> Response:
        """Return which values a column has, and how many images have each."""
        options = validated(BrowseOptions, parameters(request))
        searcher, turns = self._service.searcher, self._service.turns
        if column not in searcher.columns:
            raise BadRequest("there is no such column", 404, code="no_such_column")
        # Of all rows a column is read: that takes the turns of what takes long.
        found = await turns.run(Kind.FILTERS, lambda: searcher.values(column, where=options.where))
        return self._answer(found)

    async def folders(self, request: Request) -> Response:
        """Return the folders, and how many images lie in each."""
        options = validated(BrowseOptions, parameters(request))
        searcher = self._service.searcher
        found = await self._service.turns.run(
            Kind.FILTERS, lambda: searcher.folders(where=options.where)
        )
        return self._answer(found)

    def _answer(self, found: JsonRecord) -> Response:
        return json_answer({**found.to_dict(), "generation": self._service.generation})
