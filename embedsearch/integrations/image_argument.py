"""The image argument of a client; in: a path or a data: URI, out: an image for a query.

URLs are never fetched: else a client could make the server call any address.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Sequence

from embedsearch.core.errors import EmbedSearchError, UsageError
from embedsearch.core.paths import local_path
from embedsearch.searching.queries import Inside
from embedsearch.searching.searcher import Searcher

MAX_BYTES = 20 << 20  # of an image in a data: URI
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SHOWN = 80


def image_of(
    text: str,
    folders: Sequence[str] | None = None,
    is_known: Callable[[str], bool] = lambda _: False,
) -> str | bytes | Inside:
    """Return the image of a path or a `data:` URI, as a query.

    With `folders`, which are real paths, the text is a client's: only files in them are allowed,
    and those whose real path `is_known`; links cannot lead out of them, and `~` is
    no home. Raises UsageError for a URL, for text, and for files that are not allowed.
    """
    if text[:5].lower() == "data:":
        return _data(text)
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    if folders is not None and text.startswith("~"):
        raise UsageError(f"{shown} is not in a folder that is allowed: give a full path")
    text = text if "\0" in text else local_path(text)
    if _URL.match(text):
        raise UsageError(f"{shown} is a URL, which is not fetched: give a path or a data: URI")
    if not text or "\0" in text:
        raise UsageError(f"{shown} is not the path of an image")
    if folders is not None:
        return _confined(text, folders, is_known, shown)
    if not os.path.isfile(text):
        raise UsageError(f"{shown}: there is no such file; give an image, not words")
    return text


def is_listed(searcher: Searcher, path: str) -> bool:
    """Return whether a file is an image of the store by its exact path: one that was named."""
    try:
        return "\\x" not in path and searcher.get(path).path == path
    except EmbedSearchError:
        return False


def _data(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise UsageError("a data: URI of an image must be data:image/…;base64,…")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise UsageError(f"an image must be at most {MAX_BYTES >> 20} MB")
    try:
        image = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the data: URI is not base64: {error}") from error
    if not image:
        raise UsageError("the data: URI is empty")
    return image


def _confined(
    text: str, folders: Sequence[str], is_known: Callable[[str], bool], shown: str
) -> Inside:
    whole = os.path.realpath(text)
    for folder in folders:
        if whole.startswith(inside := folder.rstrip("/") + "/"):
            return Inside(folder, whole.removeprefix(inside))
    if is_known(whole):
        return Inside("/", whole.removeprefix("/"))
    raise UsageError(f"{shown} is not in a folder that is allowed")
