"""Answers that clients take; in: facts and pictures, out: as many as one answer may hold.

Clients refuse answers of 1 MB and more, and a model reads much less.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from embedsearch.core.errors import UnreadableImage
from embedsearch.searching.searcher import Searcher

T = TypeVar("T")
MAX_BYTES = 900_000  # of an answer, as JSON; the protocol puts some around it
# Facts stand in an answer twice, as values and as text.
_FACTS_BYTES = MAX_BYTES // 3
_VALUE_BYTES = 2000  # of a column of the user's, such as the text of a page
_SIDES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)


def json_size(values: object) -> int:
    """Return the bytes that values take as JSON in an answer, at most."""
    return len(json.dumps(values, default=str))


def shortened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of an image; long values of the user's columns are cut, with `…`."""
    columns = {name: _shortened(value) for name, value in values["metadata"].items()}
    if json_size(columns) > _FACTS_BYTES // 2:
        columns = {"…": f"{len(columns)} columns are left out, which are too long for an answer"}
    return {**values, "metadata": columns}


def fitting(items: Sequence[T], size: Callable[[T], int] = json_size) -> int:
    """Return how many of the items fit into the facts of an answer."""
    left = _FACTS_BYTES
    for number, item in enumerate(items):
        left -= size(item) + 2
        if left < 0:
            return number
    return len(items)


class Pictures:
    """Pictures of a store that fit into one answer together, as Base64 of JPEGs."""

    def __init__(self, searcher: Searcher, used_bytes: int) -> None:
        self._searcher = searcher
        self._left = MAX_BYTES - used_bytes

    def of_rows(self, rows: Sequence[int], side: int) -> tuple[list[str | UnreadableImage], int]:
        """Return the pictures of the first rows, and their side: smaller ones before fewer."""
        sides = [side, *(less for less in _SIDES if less < side)]
        for tried in sides:
            found = self._of_side(rows, tried)
            if len(found) == len(rows) or tried == sides[-1]:
                return found, tried
        raise AssertionError("the last side returns")

    def _of_side(self, rows: Sequence[int], side: int) -> list[str | UnreadableImage]:
        """Return as many pictures as there is room for."""
        found: list[str | UnreadableImage] = []
        left = self._left
        for row in rows:
            try:
                picture = base64.b64encode(self._searcher.thumbnail(row, side)).decode()
            except UnreadableImage as error:  # the file changed since it was indexed
                found.append(error)
                left -= 200 + len(str(error))
                continue
            left -= 100 + len(picture)
            if left < 0:
                break
            found.append(picture)
        return found


def _shortened(value: Any) -> Any:
    if json_size(value) <= _VALUE_BYTES:
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[: _VALUE_BYTES // 2] + "…"
