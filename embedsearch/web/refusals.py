"""Requests that are refused before any route; in: why, out: JSON, or a page for a browser."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from html import escape

from embedsearch.web.bodies import Message

# In the page itself, since the files of the page need the token, too.
_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 40rem; margin: 12vh auto; padding: 0 1.5rem; }
h1 { font-size: 1.25rem; }
form { display: flex; flex-wrap: wrap; gap: .75rem; align-items: end; }
label { flex: 1 1 16rem; }
input { display: block; box-sizing: border-box; width: 100%; }
input, button { font: inherit; padding: .5rem .75rem; }
"""
STYLE_SOURCE = (
    "'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>embedsearch</title>
<style>{style}</style>
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
        body, kind = (
            _PAGE.format(style=_STYLE, message=_sentence(refused.message), more=more),
            "text/html",
        )
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


def _sentence(message: str) -> str:
    return escape(f"{message[:1].upper()}{message[1:].removesuffix('.')}.")
