"""The process that answers conditions: `python -P -m embedsearch.searching.filters.worker SOCKET`.

Reads questions from the socket, one at a time, and writes an answer to each. What a condition
takes it takes here: memory up to a limit of the system, time until the parent ends the process.
Exits when the parent closes the socket, which the parent's death does, too.
"""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import socket
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsearch.core.messages import receive, send
from embedsearch.searching.filters.grammar import POSITION_COLUMN, Refused

if TYPE_CHECKING:
    import pyarrow as pa

    from embedsearch.searching.filters.engine import Engine

DATA_BYTES = 192 << 20  # for conditions, beside what the libraries took; maps do not count
_SPARE_S = 2


def main() -> None:
    """Answer until the parent is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    sys.meta_path.insert(0, _WithoutPandas)
    threading.Thread(target=_end_with_parent, args=[connection], daemon=True).start()
    try:
        from embedsearch.searching.filters.engine import Engine
    except ImportError as error:
        send(connection, {"missing": str(error)})
        return
    answers = _Answers(Engine())
    if (taken := _data_bytes()) is not None:  # elsewhere no such limit is enforced
        _limit(resource.RLIMIT_DATA, taken + DATA_BYTES)
    send(connection, {"ready": True})
    while (received := receive(connection)) is not None:
        question, descriptor = received
        signal.alarm(int(question["limit_s"]) + _SPARE_S)  # if no parent is left to end it
        answer = answers.to(question, descriptor)
        signal.alarm(0)
        send(connection, answer)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _data_bytes() -> int | None:
    """Return how much memory of its own this process has reserved; None if not on Linux."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return None
    return int(fields[5]) * resource.getpagesize()


def _end_with_parent(connection: socket.socket) -> None:
    """Exit when the other end is closed, also while a condition is evaluated."""
    poll = select.poll()
    poll.register(connection, 0)  # a hang-up is reported unasked
    poll.poll()
    os._exit(0)


class _WithoutPandas(MetaPathFinder):
    """DuckDB and pyarrow import pandas where it is, which takes longer than all else here."""

    @classmethod
    def find_spec(cls, name: str, *_: object) -> None:
        """Refuse pandas; leave the rest to other finders."""
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


class _Answers:
    """The engine and the tables that it was given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tables: dict[int, pa.Table] = {}

    def to(self, question: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        """Return the answer to a question."""
        try:
            for number in question["dropped"]:
                self._tables.pop(number, None)
            if descriptor is not None:
                self._tables[question["window"]] = _mapped(descriptor)
            match question["do"]:
                case "parse":
                    return self._engine.parse(question["text"], question["names"])
                case "value":
                    sent = self._engine.value(question["expression"], question["kind"])
                    return {"value": sent}
                case _:
                    table = self._tables[question["window"]]
                    return {"bits": self._engine.holds(question["text"], table)}
        except Refused as error:
            refused = {"refused": error.message, "position": error.position}
            return {**refused, "hint": error.hint, "known": error.known}
        except MemoryError:
            return {"spent": True}


def _mapped(descriptor: int) -> pa.Table:
    """Return the table in a file, which is mapped and not read, with its rows numbered."""
    import numpy as np
    import pyarrow as pa

    try:
        size = os.fstat(descriptor).st_size
        data = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
    return table.append_column(POSITION_COLUMN, pa.array(np.arange(len(table))))


if __name__ == "__main__":
    main()
