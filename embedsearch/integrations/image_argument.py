"""What a client writes for an image; in: a path or a data: URI, out: what can be asked for.

Nothing is ever fetched: a client that may name a URL makes a server call whom it likes.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence

from embedsearch.core.errors import UsageError
from embedsearch.searching.queries import Inside

MAX_BYTES = 20 << 20  # of an image that is handed over, not named
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SHOWN = 80


def image_of(text: str, folders: Sequence[str] | None = None) -> str | bytes | Inside:
    """Return the image that a path or a `data:` URI stands for, as a query.

    With `folders`, real paths, only files in them may be named, and no link leads out. Raises
    UsageError for a URL, for words, and for what may not be named.
    """
    if text[:5].lower() == "data:":
        return _data(text)
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    if _URL.match(text):
        raise UsageError(f"{shown} is a URL, and none is fetched: give a path or a data: URI")
    if not text or "\0" in text:
        raise UsageError(f"{shown} is no path of an image")
    if folders is not None:
        return _confined(text, folders, shown)
    if not os.path.isfile(text):
        raise UsageError(f"{shown}: there is no such file; an image is asked for, not words")
    return text


def _data(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise UsageError("a data: URI of an image is data:image/…;base64,…")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise UsageError(f"an image is at most {MAX_BYTES >> 20} MB")
    try:
        image = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the data: URI is no base64: {error}") from error
    if not image:
        raise UsageError("the data: URI is empty")
    return image


def _confined(text: str, folders: Sequence[str], shown: str) -> Inside:
    whole = os.path.realpath(text)
    for folder in folders:
        inside = folder.rstrip("/") + "/"
        if whole.startswith(inside):
            return Inside(folder, whole.removeprefix(inside))
    raise UsageError(f"{shown} is not in a folder that may be asked with")
