"""What a library logs beside the errors that it raises; in: its loggers' names, out: the causes.

Only what this thread causes is kept from the log: the program may use the library too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LoggedCauses(logging.Filter):
    """The exceptions that were logged from the thread that made this, and are not shown."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.causes: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record belongs to others."""
        if record.thread != self._thread:
            return True
        if record.exc_info and record.exc_info[1] is not None:
            self.causes.append(record.exc_info[1])
        return False


@contextmanager
def unlogged(*libraries: str) -> Iterator[LoggedCauses]:
    """Keep what these libraries log in this thread out of the log until the block ends."""
    kept = LoggedCauses()
    known = list(logging.root.manager.loggerDict)
    names = {*libraries, *(name for name in known if name.partition(".")[0] in libraries)}
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(kept)
    try:
        yield kept
    finally:
        for logger in loggers:
            logger.removeFilter(kept)
