"""The tools over HTTP; in: a server of tools and its stores, out: an application at /mcp.

Behind the guard of `serve`, with the same probes and the same kind of `/health`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from embedsearch.searching.searcher import Searcher
from embedsearch.web.access import Access
from embedsearch.web.guard import App, Guard
from embedsearch.web.limits import ServerLimits
from embedsearch.web.probes import DEGRADED, LIVE, NOT_READY, OK, READY, Readiness
from embedsearch.web.turns import Turns

PATH, HEALTH = "/mcp", "/health"


@dataclass(frozen=True)
class _Route:
    """What a request reached, as the log shows it."""

    path: str


def http_app(
    server: MCPServer,
    stores: Mapping[str, Searcher],
    access: Access,
    limits: ServerLimits,
    turns: Turns,
) -> App:
    """Return an application that serves the tools at /mcp; `turns` are those of the server."""
    _add_health(server, stores, turns)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=True,
        max_request_body_size=limits.body_bytes,
        host="",  # the guard checks the host name
    )
    return Guard(_with_routes(app), access, limits, lambda *_: None)


def _add_health(server: MCPServer, stores: Mapping[str, Searcher], turns: Turns) -> None:
    readiness = Readiness(turns, lambda: [store.images(1) for store in stores.values()])

    async def live(request: Request) -> Response:
        return JSONResponse({"status": OK})

    async def ready(request: Request) -> Response:
        if await readiness.is_ready():
            return JSONResponse({"status": OK})
        return JSONResponse({"status": NOT_READY}, 503)

    async def health(request: Request) -> Response:
        degraded = any(store.trouble for store in stores.values())
        generations = {name: store.manifest.generation for name, store in stores.items()}
        status = DEGRADED if degraded else OK
        return JSONResponse({"status": status, "generations": generations})

    for path, answer in ((LIVE, live), (READY, ready), (HEALTH, health)):
        server.custom_route(path, methods=["GET"])(answer)


def _with_routes(app: App) -> App:
    """Return an application that says which route a request reached."""
    routes = {path: _Route(path) for path in (PATH, HEALTH, LIVE, READY)}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in routes:
            scope["route"] = routes[scope["path"]]
        await app(scope, receive, send)

    return answer
