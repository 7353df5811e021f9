"""Answers; in: values or an error, out: JSON, or a page where a browser without scripts asks."""

from __future__ import annotations

import json
import logging
import re

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.errors import (
    EmbedSearchError,
    FilterTooSlow,
    ImageNotFound,
    IncompatibleStore,
    UnreadableImage,
    UsageError,
)
from embedsearch.core.paths import printable
from embedsearch.core.records import Reason
from embedsearch.web.plain import error_page
from embedsearch.web.search_request import BadRequest
from embedsearch.web.turns import Busy

ERRORS = (BadRequest, RequestValidationError, HTTPException, Busy, EmbedSearchError)
_log = logging.getLogger("embedsearch.web")


class ErrorAnswer(BaseModel):
    """An error; `reason` is present for an image that cannot be read.

    `code` is one of a closed list, for programs; `field` names the option that is wrong, if known.
    """

    error: str
    code: str
    field: str | None = None
    reason: Reason | None = None


def json_answer(
    values: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return JSON as ASCII: file names may hold bytes that are not Unicode."""
    body = json.dumps(values, allow_nan=False, separators=(",", ":"))
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(body, status, headers, "application/json")


def html_answer(page: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a page."""
    return Response(page, status, {"cache-control": "no-store", **(headers or {})}, "text/html")


async def error_answer(request: Request, error: Exception) -> Response:
    """Return an error answer, without paths of this machine or tracebacks."""
    headers: dict[str, str] = {}
    more: dict[str, str | None] = {}
    match error:
        case BadRequest():
            status, message, code = error.status, str(error), error.code
            more = {} if error.field is None else {"field": error.field}
        case RequestValidationError():  # an invalid path: all else is read in search_request.py
            status, message, code = 404, "no such row", "no_such_image"
        case HTTPException():
            status, message, headers = error.status_code, error.detail, dict(error.headers or {})
            code = "no_such_address" if status == 404 else "bad_request"
        case Busy():
            status, message, headers = 503, "too many are asking", {"retry-after": "1"}
            code = "busy"
        case UnreadableImage():
            status, message, more = 422, str(error), {"reason": error.reason}
            code = "unreadable_image"
        case ImageNotFound():
            status, message, code = 404, str(error), "no_such_image"
        case UsageError() if error.fields[:1] == ("where",):
            status, message, more = 400, str(error).removeprefix("where: "), {"field": "where"}
            code = "filter_too_slow" if isinstance(error, FilterTooSlow) else "bad_filter"
        case UsageError() | IncompatibleStore():
            status, message, code = 400, str(error), "bad_request"
            if isinstance(error, UsageError) and error.fields:
                more = {"field": error.fields[0]}
        case _:
            _log.error("%s %s: %s", request.method, printable(request.url.path), error)
            status, message = 503, "this cannot be answered now: see the server's log"
            code = "failed"
    if wants_page(request):
        return html_answer(error_page(message, top_of(request)), status, headers)
    return json_answer({"error": message, "code": code, **more}, status, headers)


def has_copy(request: Request, etag: str) -> bool:
    """Return whether the client has what this tag, in quotes, names: it needs no body again."""
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in re.findall(r'"[^"]*"', known)


def wants_page(request: Request) -> bool:
    """Return whether a browser wants a page, and not a program or our script JSON."""
    return "text/html" in request.headers.get("accept", "")


def top_of(request: Request) -> str:
    """Return the relative address of the server, as a browser sees it from that of a request."""
    return "../" * (request.scope["path"].count("/") - 1) or "./"
