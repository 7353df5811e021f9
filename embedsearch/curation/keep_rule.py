"""Which image of a group is kept; in: images and the user's wishes, out: a sort key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from embedsearch.core.paths import named_forms
from embedsearch.curation.collection import Picture


def rank(picture: Picture, wishes: Sequence[str], *, is_gray: bool) -> tuple[Any, ...]:
    """Return the sort key, wish after wish; the image to keep has the lowest.

    What has lost its colors comes after what still has them, then the largest, then the oldest.
    """
    first = [_wish(picture, wish) for wish in wishes]
    return (*first, is_gray, *_wish(picture, "largest"), *_wish(picture, "oldest"), picture.path)


def _wish(picture: Picture, wish: str) -> tuple[Any, ...]:
    name, _, value = wish.partition("=")
    match name:
        case "largest":
            return (-picture.width * picture.height, -picture.size_bytes)
        case "oldest":
            return (_time(picture),)
        case "newest":
            return (-_time(picture),)
        case "format":
            formats = [one.upper() for one in value.split(",")]
            return (formats.index(picture.format) if picture.format in formats else len(formats),)
    folders = tuple(form.rstrip("/") + "/" for form in named_forms(value))
    return (not picture.path.startswith(folders),)


def _time(picture: Picture) -> float:
    """Return when an image was taken, or else written, in seconds."""
    if picture.taken_at is not None:
        with suppress(ValueError, OverflowError, OSError):  # a year that no clock here can tell
            return picture.taken_at.timestamp()
    return picture.mtime_ns / 1e9
