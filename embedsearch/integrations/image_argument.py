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
from embedsearch.core.field_types import shown
from embedsearch.core.paths import local_path, part_below
from embedsearch.images.sources.kinds import HEAD_BYTES, has_image_name, starts_an_image
from embedsearch.searching.queries import Inside, Key, Text
from embedsearch.searching.searcher import Searcher

MAX_BYTES = 20 << 20  # of an image in a data: URI
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SHOWN = 40  # characters of a long text, at its start and at its end
_COLUMN = re.compile(r"\w+:")  # as in path:boat.jpg, which looks for words in a column
_HEAD_LETTERS = -(-HEAD_BYTES // 3) * 4  # of base64, which tell an image


def image_of(given: str | os.PathLike[str]) -> str | bytes:
    """Return the image of a path or a `data:` URI, as a query.

    Raises UsageError for a URL and for text.
    """
    text = os.fsdecode(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise UsageError(f"{shown(given)} is not an image: give a path or a data: URI")
    if text[:5].lower() == "data:":
        return _data(text)
    path = _path(text)
    if not os.path.isfile(path):
        raise UsageError(f"{_shown(text)}: there is no such file; give an image, not words")
    return path


def image_or_text(given: str | os.PathLike[str]) -> str | bytes | Text:
    """Return what a text asks for: the image of a file or a `data:` URI, else its words.

    Raises UsageError for a URL, and for the name of an image that is not there.
    """
    if isinstance(given, os.PathLike):
        return image_of(given)
    if not isinstance(text := given, str):
        raise UsageError(f"{shown(given)} is not a text: give words, a path or a data: URI")
    if text[:5].lower() == "data:":
        return _data(text)
    if not text.strip() or "\0" in text:
        raise UsageError(f"{_shown(text)} is neither the path of an image nor words")
    path = _path(text)
    if os.path.isfile(path):
        return path
    if has_image_name(os.path.basename(path).encode(errors="replace")) and not _COLUMN.match(text):
        raise UsageError(
            f"{_shown(text)}: there is no such file; to look for a name in the columns and paths "
            "of the store, put it into double quotes"
        )
    return Text(text)


def image_of_client(
    text: str, folders: Sequence[str], row_of: Callable[[str], int | None]
) -> bytes | Inside | Key:
    """Return the image that a client names, by a path or a `data:` URI, as a query.

    Only files in these folders are allowed, which are real paths, and images of the store, whose
    row `row_of` knows; links cannot lead out of them, and `~` is no home. Raises UsageError for a
    URL, for text, and for all other files, whether they are there or not.
    """
    if text[:5].lower() == "data:":
        return _data(text)
    if text.startswith("~"):
        raise _refusal(text)
    path = _path(text)
    whole = os.path.realpath(path)
    for name in (os.path.abspath(path), whole):  # an image may be known by the path of a link
        if (row := row_of(name)) is not None:
            return Key(row)
    for folder in folders:
        if inside := part_below(whole, folder):
            return Inside(folder, inside)
    raise _refusal(text)


def row_of(searcher: Searcher, path: str) -> int | None:
    """Return the row of the image of the store that has this exact path, None if none has."""
    try:
        found = searcher.get(path)
    except EmbedSearchError:
        return None
    return found.row if "\\x" not in path and found.full_path == path else None


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


def _path(text: str) -> str:
    if _is_base64(text):
        raise UsageError(f"{_shown(text)} is base64 alone: begin it with data:image/jpeg;base64,")
    path = text if "\0" in text else local_path(text)
    if _URL.match(path):
        message = "is a URL, which is not fetched: give a path or a data: URI"
        raise UsageError(f"{_shown(text)} {message}")
    if not path or "\0" in path:
        raise UsageError(f"{_shown(text)} is not the path of an image")
    return path


def _refusal(text: str) -> UsageError:
    return UsageError(
        f"{_shown(text)} is not in a folder that may be asked with (--allow), and no image of the "
        "store: give the full path, row or key of one"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}…{text[-_SHOWN:]}")


def _is_base64(text: str) -> bool:
    """Return whether a text is the bytes of an image in base64, without what comes before them."""
    try:
        head = base64.b64decode(text[:_HEAD_LETTERS], validate=True)
    except ValueError:
        return False
    return starts_an_image(head[:HEAD_BYTES])
