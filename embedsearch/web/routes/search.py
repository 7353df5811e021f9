"""Searches; in: an image, words, a row or a vector, out: the nearest images of the store."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.records import Hit
from embedsearch.searching.ranking.counts import ScoreCounts
from embedsearch.searching.searcher import Answer
from embedsearch.web.answers import html_answer, json_answer, top_of, wants_page
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import in_query, told
from embedsearch.web.plain import hits_page
from embedsearch.web.search_request import (
    RowOptions,
    SearchBody,
    SearchRequest,
    TextOptions,
    read_search,
)
from embedsearch.web.service import Service


class SearchAnswer(BaseModel):
    """Hits, best first, and how many images are ranked.

    That is estimated in a large store with `min_score`, unless `total_is_exact`. `scores` are there
    if a `histogram` was asked for, and words are not all that was looked for.
    """

    hits: list[Hit]
    total: int
    total_is_exact: bool
    scores: ScoreCounts | None
    generation: int


class SearchRoutes:
    """`/search`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        hits = {"model": SearchAnswer}
        app.post("/search", **told(hits, _schema()))(self.search)
        app.get("/search", **told(hits, {"parameters": in_query(RowOptions)}))(self.search)

    async def search(self, request: Request) -> Response:
        """Return the images nearest to an image of the store, a vector or an uploaded image."""
        service = self._service
        search = await read_search(request, service.limits)
        answer = await service.turns.run(await self._kind(search), lambda: self._answer(search))
        if wants_page(request):
            config = search.config
            return html_answer(hits_page(answer.hits, config.where, config.k, top_of(request)))
        counts = answer.counts
        assert counts is not None, "they are asked for"
        values = {
            "hits": [hit.to_dict() for hit in answer.hits],
            "total": counts.total,
            "total_is_exact": counts.is_exact,
            "scores": counts.scores and counts.scores.to_dict(),
            "generation": service.generation,
        }
        return json_answer(values)

    async def _kind(self, search: SearchRequest) -> Kind:
        """Return which turns a search takes."""
        if search.config.where is not None:
            return Kind.FILTERS
        if await self._service.is_remote(search.originals):
            return Kind.REMOTE
        if search.has_words and not search.has_picture:
            return Kind.FILTERS
        return Kind.PICTURES if search.has_picture else Kind.RECORDS

    def _answer(self, search: SearchRequest) -> Answer:
        (answer,) = self._service.searcher.answers(
            [search.query], config=search.config, counts=True, histogram=search.histogram
        )
        if answer.failure is not None:
            raise answer.failure
        return answer


def _schema() -> dict[str, Any]:
    """Return the parameters and bodies of a search, for the OpenAPI document."""
    picture = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": picture}, "required": ["image"]}
    content = {
        "application/json": {"schema": SearchBody.model_json_schema()},
        "image/*": {"schema": picture},
        "multipart/form-data": {"schema": form},
    }
    parameters = in_query(TextOptions, "with an image: ")
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}
