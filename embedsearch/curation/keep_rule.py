"""Which image of a group is kept; in: images and the user's wishes, out: a sort key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from embedsearch.core.paths import named_forms
from embedsearch.curation.collection import Picture

_SYNONYMS = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF", "HEIF": "HEIC"}


def format_name(text: str) -> str:
    """Return the name of a format that a user gave, as by a suffix."""
    name = text.strip().removeprefix(".").upper()
    return _SYNONYMS.get(name, name)


class KeepRule:
    """The user's wishes, in order of priority. Folders are looked up once, not for each picture."""

    def __init__(self, wishes: Sequence[str]) -> None:
        self._wishes: list[tuple[str, tuple[str, ...]]] = []
        for wish in wishes:
            name, _, value = wish.partition("=")
            if name == "folder":
                values = tuple(form.rstrip("/") + "/" for form in named_forms(value))
            else:
                values = tuple(map(format_name, value.split(",")))
            self._wishes.append((name, values))

    def rank(self, picture: Picture, *, is_gray: bool = False) -> tuple[Any, ...]:
        """Return the sort key, wish after wish; the image to keep has the lowest.

        What has lost its colors comes after what still has them, then the largest, then the oldest.
        """
        first = [_wish(picture, name, values) for name, values in self._wishes]
        last = (*_wish(picture, "largest", ()), *_wish(picture, "oldest", ()), picture.full_path)
        return (*first, is_gray, *last)


def _wish(picture: Picture, name: str, values: tuple[str, ...]) -> tuple[Any, ...]:
    match name:
        case "largest":
            return (-picture.width * picture.height, -picture.size_bytes)
        case "oldest":
            return (_time(picture),)
        case "newest":
            return (-_time(picture),)
        case "format":
            return (values.index(picture.format) if picture.format in values else len(values),)
    return (not picture.full_path.startswith(values),)


def _time(picture: Picture) -> float:
    """Return when an image was taken, or else written, in seconds."""
    if picture.taken_at is not None:
        with suppress(ValueError, OverflowError, OSError):  # a year that no clock here can tell
            return picture.taken_at.timestamp()
    return picture.mtime_ns / 1e9
