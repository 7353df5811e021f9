"""What a server writes on stderr; in: records of the loggers, out: lines, as text or as JSON.

Lines hold no token and nothing that was searched for: of an address, the path alone.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]
_LOGGERS = ("embedsearch", "uvicorn.error", "asyncio")
_SAME_AGAIN_S = 60.0


@dataclass(frozen=True)
class RequestLine:
    """A request that was answered."""

    client: str
    method: str
    path: str  # for people, printable; without the query string
    route: str  # the pattern, as /images/{row}; "" where the request reached none
    status: int  # 0: the client was gone before its answer
    seconds: float

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status} {1e3 * self.seconds:.0f} ms"

    def to_dict(self) -> dict[str, str | int | float]:
        """Return what programs count by."""
        return {
            "client": self.client,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(1e3 * self.seconds, 1),
        }


def log_to_stderr(kind: LogFormat | None) -> None:
    """Write warnings as lines of text, or all requests too, in a format."""
    level = logging.WARNING if kind is None else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("embedsearch: %(message)s")
    handler.setFormatter(JsonLines() if kind == "json" else text)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # Network noise is no warning for the operator.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("asyncio").addFilter(_Briefly())


class JsonLines(logging.Formatter):
    """One JSON object a line, with time and level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": at, "level": record.levelname.lower()}
        if isinstance(record.msg, RequestLine):
            line |= record.msg.to_dict()
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Briefly(logging.Filter):
    """The event loop's errors as one line each, the same one once in a minute.

    Out of descriptors, it would write a trace for every connection that it cannot accept.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record, and return whether to write it."""
        message = record.getMessage().split("\n")[0]
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]}"
        record.msg, record.args, record.exc_info = message, (), None
        now = time.monotonic()
        is_new = now - self._logged_at.get(message, -math.inf) > _SAME_AGAIN_S
        if is_new:
            self._logged_at[message] = now
        return is_new
