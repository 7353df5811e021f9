"""An audit hook that notes what data must never cause: code, processes, connections, files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

_FORBIDDEN = frozenset(
    {"pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.posix_spawn"}
    | {"os.exec", "os.fork"}
)
_FILTERS = "embedsearch.searching.filters.worker"  # which answers conditions, whatever data says
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OWN_CODE = (sys.prefix, sys.base_prefix, "<")


class Guard:
    """Watches while `is_on`; what it sees goes to `note`. It cannot be taken off again."""

    def __init__(self, note: Callable[[str], None], *allowed: str) -> None:
        """`allowed` are beginnings of paths that may be written to."""
        self.is_on = False
        self._note = note
        self._allowed = ("/dev/", *allowed)
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITES
            is_known = isinstance(path, int)  # a descriptor, open already: of a file in memory
            is_bad = bool(writes) and not (is_known or str(path).startswith(self._allowed))
        elif event == "exec":  # a module imported late is code, too, but not the data's
            name = getattr(arguments[0], "co_filename", "")
            is_bad = not name.startswith((*_OWN_CODE, os.getcwd()))
        elif event == "subprocess.Popen":
            is_bad = _FILTERS not in arguments[1]
        else:
            is_bad = event in _FORBIDDEN
        if is_bad:
            self.is_on = False  # what follows is ours
            self._note(f"{event} {arguments!r:.200}")
            self.is_on = True
