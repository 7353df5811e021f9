"""A server's application; in: an open store, out: an ASGI application that answers from it.

One network and one set of workers serve all requests: concurrent ones are decoded, embedded and
searched in one batch. The routes are in routes/.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.responses import Response

from embedsearch._version import __version__
from embedsearch.searching.searcher import Searcher
from embedsearch.web.access import Access
from embedsearch.web.answers import ERRORS, error_answer
from embedsearch.web.guard import App, Guard
from embedsearch.web.limits import ServerLimits
from embedsearch.web.metrics import Metrics
from embedsearch.web.routes.browse import BrowseRoutes
from embedsearch.web.routes.exports import ExportRoutes
from embedsearch.web.routes.images import ImageRoutes
from embedsearch.web.routes.originals import OriginalRoutes
from embedsearch.web.routes.page import PageRoutes
from embedsearch.web.routes.search import SearchRoutes
from embedsearch.web.routes.store import StoreRoutes
from embedsearch.web.routes.views import ViewRoutes
from embedsearch.web.service import Service
from embedsearch.web.turns import Turns

_COMPRESSED_BYTES = 1024  # a smaller answer fits in a packet as it is
_LEVEL = 6  # of gzip
_NOT_COMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream", "image/*")


def create_app(
    searcher: Searcher, access: Access | None = None, limits: ServerLimits | None = None
) -> App:
    """Return an application that answers from `searcher`, and closes it when it ends."""
    limits, access = limits or ServerLimits(), access or Access()
    turns = Turns(limits)
    metrics = Metrics(searcher, turns)
    service = Service(searcher, turns, metrics, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        turns.close()
        searcher.close()

    app = FastAPI(
        title="embedsearch",
        version=__version__,
        summary="The images of a store that look most like a picture.",
        lifespan=lifespan,
        openapi_url=None,  # it would be written again for each who asks
        docs_url=None,  # it would load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        # Else a client made from the document would ask at the root of a proxy.
        servers=[{"url": access.origin + access.path or "."}],
    )
    SearchRoutes(service).add_to(app)
    ImageRoutes(service).add_to(app)
    BrowseRoutes(service).add_to(app)
    OriginalRoutes(service).add_to(app)
    ExportRoutes(service).add_to(app)
    StoreRoutes(service).add_to(app)
    ViewRoutes(service).add_to(app)
    PageRoutes(service).add_to(app)
    described = json.dumps(app.openapi(), separators=(",", ":")).encode()

    async def openapi() -> Response:
        return Response(described, media_type="application/json")

    app.get("/openapi.json", include_in_schema=False)(openapi)
    for kind in ERRORS:
        app.add_exception_handler(kind, error_answer)
    app.add_middleware(
        GZipMiddleware,
        minimum_size=_COMPRESSED_BYTES,
        compresslevel=_LEVEL,
        exclude_content_types=_NOT_COMPRESSED,
    )
    return Guard(app, access, limits, metrics.watch)
