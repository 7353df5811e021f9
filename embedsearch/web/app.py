"""The routes; in: an open store, out: an ASGI application that answers searches from it.

One network and one set of workers serve all requests: concurrent ones are decoded, embedded and
searched in one batch.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, TypeAlias

from fastapi import FastAPI, Path
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from embedsearch._version import __version__
from embedsearch.core.errors import (
    EmbedSearchError,
    ImageNotFound,
    IncompatibleStore,
    UnreadableImage,
    UsageError,
)
from embedsearch.core.paths import printable
from embedsearch.core.records import Hit, ImageRecord, Reason
from embedsearch.images.thumbnails import MAX_SIDE
from embedsearch.searching.searcher import Searcher
from embedsearch.web.guard import Access, App, Guard
from embedsearch.web.limits import Kind, ServerLimits
from embedsearch.web.metrics import CONTENT_TYPE, Metrics
from embedsearch.web.plain import error_page, form, hits_page
from embedsearch.web.search_request import (
    BadRequest,
    ListOptions,
    RowOptions,
    SearchBody,
    SearchRequest,
    TextOptions,
    parameters,
    read_search,
    validated,
)
from embedsearch.web.turns import Busy, Turns

_Row: TypeAlias = Annotated[str, Path(pattern="^[0-9]{1,12}$")]
_SIDE = re.compile(r"[0-9]{1,4}")
_DEFAULT_SIDE = 256
_log = logging.getLogger("embedsearch.web")

_SCRIPTS = ("address", "columns", "dom", "facts", "grid", "marks", "query", "search", "store")
_STATIC = {"page.css": "text/css", "icon.svg": "image/svg+xml", "page.js": "text/javascript"}
_STATIC |= {f"{name}.js": "text/javascript" for name in _SCRIPTS}


class SearchAnswer(BaseModel):
    """Hits, best first."""

    hits: list[Hit]


class ListAnswer(BaseModel):
    """Images, and the number of all that match."""

    images: list[ImageRecord]
    total: int


class ErrorAnswer(BaseModel):
    """An error; `reason` is present for an image that cannot be read."""

    error: str
    reason: Reason | None = None


class Health(BaseModel):
    """`degraded`: a newer generation cannot be read, and the previous one still answers."""

    status: str
    generation: int


class StoreInfo(BaseModel):
    """The content of the store. Without `takes_images` a query is a key, a row or a vector.

    With `reads_text` the model compares a text with pictures; words are looked for in any store.
    """

    version: str
    images: int
    generation: int
    created: str
    model: str
    dim: int
    takes_images: bool
    reads_text: bool
    words: list[str]  # columns whose words are searched
    columns: dict[str, str]  # usable in `where`, with their types


def create_app(
    searcher: Searcher, access: Access | None = None, limits: ServerLimits | None = None
) -> App:
    """Return an application that answers from `searcher`, and closes it when it ends."""
    limits = limits or ServerLimits()
    turns = Turns(limits)
    metrics = Metrics(searcher, turns)
    routes = _Routes(searcher, turns, metrics, limits)
    app = FastAPI(
        title="embedsearch",
        version=__version__,
        summary="The images of a store that look most like a picture.",
        lifespan=routes.lifespan,
        openapi_url=None,  # it would be written again for each who asks
        docs_url=None,  # it would load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    routes.add_to(app)
    described = json.dumps(app.openapi(), separators=(",", ":")).encode()

    async def openapi() -> Response:
        return Response(described, media_type="application/json")

    app.get("/openapi.json", include_in_schema=False)(openapi)
    for kind in (BadRequest, RequestValidationError, HTTPException, Busy, EmbedSearchError):
        app.add_exception_handler(kind, _error_answer)
    return Guard(app, access or Access(), limits, metrics.watch)


class _Routes:
    """The routes, and what they share."""

    def __init__(
        self, searcher: Searcher, turns: Turns, metrics: Metrics, limits: ServerLimits
    ) -> None:
        self._searcher = searcher
        self._turns = turns
        self._metrics = metrics
        self._limits = limits

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Close the store at the end."""
        yield
        self._turns.close()
        self._searcher.close()

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        failed: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorAnswer} for status in (400, 404, 422, 503)
        }

        def told(found: dict[str, Any], request: dict[str, Any] | None = None) -> dict[str, Any]:
            """Return what the OpenAPI document says of a route."""
            answers = {200: found, **failed}
            return {"response_class": Response, "responses": answers, "openapi_extra": request}

        hits, images = {"model": SearchAnswer}, {"model": ListAnswer}
        by_row, listed = _in_query(RowOptions), _in_query(ListOptions)
        app.post("/search", **told(hits, _search_schema()))(self.search)
        app.get("/search", **told(hits, {"parameters": by_row}))(self.search)
        app.get("/images", **told(images, {"parameters": listed}))(self.images)
        app.get("/images/{row}", **told({"model": ImageRecord}))(self.image)
        jpeg = told({"content": {"image/jpeg": {}}}, {"parameters": [_side_schema()]})
        app.get("/images/{row}/thumbnail", **jpeg)(self.thumbnail)
        app.get("/", include_in_schema=False)(self.page)
        app.get("/static/{name}", include_in_schema=False)(self.static)
        app.get("/health")(self.health)
        app.get("/info")(self.info)
        app.get("/metrics", response_class=Response)(self.metrics)

    async def page(self) -> Response:
        """Return the page for people."""
        return _html(_read("page.html").decode().replace("<!-- FORM -->", form("./")))

    async def static(self, name: str) -> Response:
        """Return a file of the page."""
        if name not in _STATIC:
            raise BadRequest("there is no such file", 404)
        return Response(_read(name), 200, {"cache-control": "no-cache"}, _STATIC[name])

    async def search(self, request: Request) -> Response:
        """Return the images nearest to an image of the store, a vector or an uploaded image."""
        search = await read_search(request, self._limits)
        hits = await self._turns.run(await self._kind(search), lambda: self._hits(search))
        if _wants_page(request):
            return _html(hits_page(hits, search.config.where, search.config.k, _top(request)))
        return _json({"hits": [hit.to_dict() for hit in hits]})

    async def images(self, request: Request) -> Response:
        """Return images that match a condition, in the store's order."""
        options = validated(ListOptions, parameters(request))
        kind = Kind.RECORDS if options.where is None else Kind.FILTERS
        return await self._turns.run(kind, lambda: self._listed(options))

    async def image(self, row: _Row) -> Response:
        """Return the record of an image."""
        record = await self._turns.run(Kind.RECORDS, lambda: self._searcher.get(int(row)))
        return _json(record.to_dict())

    async def thumbnail(self, request: Request, row: _Row) -> Response:
        """Return an image of the store, upright, as JPEG."""
        pairs = request.query_params.multi_items()
        side = str(_DEFAULT_SIDE) if not pairs else pairs[0][1]
        if len(pairs) > 1 or (pairs and pairs[0][0] != "side") or not _SIDE.fullmatch(side):
            raise BadRequest(f"a thumbnail has one parameter, side, from 1 to {MAX_SIDE}")
        kind = Kind.REMOTE if await self._is_remote([int(row)]) else Kind.THUMBNAILS
        return await self._turns.run(kind, lambda: self._picture(int(row), int(side)))

    async def health(self) -> Health:
        """Return the state of the server."""
        status = "degraded" if self._searcher.trouble else "ok"
        return Health(status=status, generation=self._searcher.manifest.generation)

    async def info(self) -> StoreInfo:
        """Return the content of the store."""
        manifest = self._searcher.manifest
        return StoreInfo(
            version=__version__,
            images=manifest.live,
            generation=manifest.generation,
            created=manifest.created,
            model=manifest.model.name,
            dim=manifest.model.dim,
            takes_images=self._searcher.takes_images,
            reads_text=manifest.model.takes_texts,
            words=[] if manifest.words is None else list(manifest.words.columns),
            columns=self._searcher.columns,
        )

    async def metrics(self) -> Response:
        """Return counters, for Prometheus."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _kind(self, search: SearchRequest) -> Kind:
        """Return which turns a search takes."""
        if search.config.where is not None:
            return Kind.FILTERS
        if await self._is_remote(search.originals):
            return Kind.REMOTE
        if search.has_words and not search.has_picture:
            return Kind.FILTERS
        return Kind.PICTURES if search.has_picture else Kind.RECORDS

    async def _is_remote(self, images: list[str | int]) -> bool:
        """Return whether one of these images of the store is fetched from another server."""
        if not any(root.is_remote for root in self._searcher.manifest.roots):
            return False
        return await self._turns.run(
            Kind.RECORDS, lambda: any(map(self._searcher.is_remote, images))
        )

    def _hits(self, search: SearchRequest) -> list[Hit]:
        (answer,) = self._searcher.answers([search.query], config=search.config)
        if answer.failure is not None:
            raise answer.failure
        return answer.hits

    def _listed(self, options: ListOptions) -> Response:
        found = self._searcher.images(options.k, where=options.where, offset=options.offset)
        return _json({"images": [image.to_dict() for image in found.images], "total": found.total})

    def _picture(self, row: int, side: int) -> Response:
        try:
            jpeg = self._searcher.thumbnail(row, side)
        except UnreadableImage as error:  # the file was replaced or deleted
            raise BadRequest(f"the image of row {row} cannot be read", 404) from error
        return Response(jpeg, 200, {"cache-control": "private, max-age=300"}, "image/jpeg")


def _json(values: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON as ASCII: file names may hold bytes that are not Unicode."""
    body = json.dumps(values, allow_nan=False, separators=(",", ":"))
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(body, status, headers, "application/json")


async def _error_answer(request: Request, error: Exception) -> Response:
    """Return an error answer, without paths of this machine or tracebacks."""
    headers: dict[str, str] = {}
    more: dict[str, str | None] = {}
    match error:
        case BadRequest():
            status, message = error.status, str(error)
        case RequestValidationError():  # an invalid path: all else is read in search_request.py
            status, message = 404, "no such row"
        case HTTPException():
            status, message, headers = error.status_code, error.detail, dict(error.headers or {})
        case Busy():
            status, message, headers = 503, "too many are asking", {"retry-after": "1"}
        case UnreadableImage():
            status, message, more = 422, str(error), {"reason": error.reason}
        case ImageNotFound():
            status, message = 404, str(error)
        case UsageError() | IncompatibleStore():
            status, message = 400, str(error)
        case _:
            _log.error("%s %s: %s", request.method, printable(request.url.path), error)
            status, message = 503, "this cannot be answered now: see the server's log"
    if _wants_page(request):
        return _html(error_page(message, _top(request)), status, headers)
    return _json({"error": message, **more}, status, headers)


def _wants_page(request: Request) -> bool:
    """Return whether a browser wants a page, and not a program or our script JSON."""
    return "text/html" in request.headers.get("accept", "")


def _top(request: Request) -> str:
    """Return the relative address of the server, as a browser sees it from that of a request."""
    return "../" * (request.scope["path"].count("/") - 1) or "./"


def _html(page: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(page, status, {"cache-control": "no-store", **(headers or {})}, "text/html")


@cache
def _read(name: str) -> bytes:
    return files("embedsearch.web").joinpath("static", name).read_bytes()


def _search_schema() -> dict[str, Any]:
    """Return the parameters and bodies of a search, for the OpenAPI document."""
    picture = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": picture}, "required": ["image"]}
    content = {
        "application/json": {"schema": SearchBody.model_json_schema()},
        "image/*": {"schema": picture},
        "multipart/form-data": {"schema": form},
    }
    parameters = _in_query(TextOptions, "with an image: ")
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


def _in_query(options: type[BaseModel], note: str = "") -> list[dict[str, Any]]:
    """Return the fields of options as parameters of a query string."""
    described = options.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in described.get("required", ()),
            "schema": schema,
            "description": note + schema.get("description", ""),
        }
        for name, schema in described["properties"].items()
    ]


def _side_schema() -> dict[str, Any]:
    return {
        "name": "side",
        "in": "query",
        "required": False,
        "description": "The longer side in pixels",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_SIDE, "default": _DEFAULT_SIDE},
    }
