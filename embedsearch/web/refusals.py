"""Requests that are refused before any route; in: why, out: JSON, or a page for a browser."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from html import escape

from embedsearch.web.bodies import Message

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>embedsearch</title>
</head>
<body>
<main>
<h1>embedsearch</h1>
<p>{message}</p>
{more}</main>
</body>
</html>
"""
# By GET: the token goes into a cookie, and the address is opened again without it.
_TOKEN_FORM = """<form>
<label>Token <input name="token" type="password" autocomplete="current-password" required></label>
<button>Open</button>
</form>
"""
TOKEN_NEEDED = "token_needed"


@dataclass
class Refused(Exception):
    """A request that is refused; `name` is the option that is concerned, if there is one."""

    status: int
    code: str
    message: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: str | None = None


async def refuse(
    refused: Refused, send: Callable[[Message], Awaitable[None]], *, as_page: bool
) -> None:
    """Answer a request that is refused, and close its connection."""
    if as_page:
        more = _TOKEN_FORM if refused.code == TOKEN_NEEDED else ""
        body, kind = _PAGE.format(message=escape(refused.message), more=more), "text/html"
    else:
        values = {"error": refused.message, "code": refused.code}
        values |= {} if refused.name is None else {"field": refused.name}
        body, kind = json.dumps(values), "application/json"
    content = body.encode()
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode() if as_page else kind.encode()),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),  # the rest of the request is not read
        *refused.headers,
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
