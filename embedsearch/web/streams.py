"""Answers that are read piece by piece; in: pieces, each made by a thread, out: an answer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from embedsearch.core.errors import EmbedSearchError
from embedsearch.core.paths import printable
from embedsearch.web.bodies import Gone
from embedsearch.web.limits import Kind
from embedsearch.web.turns import Busy, Turns

_AGAIN_S = 0.1  # an answer that has begun cannot be refused any more
_log = logging.getLogger("embedsearch.web")


class Streamed(Response):
    """An answer that holds one piece in memory; its client gets them as fast as it reads.

    Where a piece cannot be made, the connection is broken off: a whole answer is a true one.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        turns: Turns,
        kind: Kind,
        *,
        status: int,
        headers: dict[str, str],
        media_type: str,
    ) -> None:
        """Take turns of a kind for each piece; `pieces` is closed at the end, if it can be."""
        super().__init__(None, status, headers, media_type)
        if "content-length" not in headers:
            del self.headers["content-length"]
        self._pieces = pieces
        self._turns = turns
        self._kind = kind
        self._using = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            while piece := await self._next():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (EmbedSearchError, OSError) as error:
            path = printable(scope["path"][:200])
            _log.warning("%s broke off: %s", path, printable(str(error)))
            raise Gone from error
        finally:
            # In a thread: what is made for a client that has gone comes to its end there first.
            asyncio.get_running_loop().run_in_executor(None, self._close)

    async def _next(self) -> bytes:
        """Return the next piece, nothing at the end."""
        while True:
            try:
                return await self._turns.run(self._kind, self._made)
            except Busy:
                await asyncio.sleep(_AGAIN_S)

    def _made(self) -> bytes:
        with self._using:
            return next(self._pieces, b"")

    def _close(self) -> None:
        with self._using:
            if (close := getattr(self._pieces, "close", None)) is not None:
                close()
