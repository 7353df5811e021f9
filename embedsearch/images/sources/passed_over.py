"""What a scan passed over, in words, with the way to have it; in: counts, out: a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator

from embedsearch.core.install import install_command
from embedsearch.core.paths import printable
from embedsearch.core.walks import Ignored

FIELDS = ("files", "follow_links", "exclude")  # that the words may name, each with a value
_SHOWN = 3  # suffixes


def passed_over(ignored: Ignored) -> str:
    """Return all that was passed over, by kind; "" where there was nothing."""
    return "; ".join(_phrases(ignored))


def where_archives_lie(ignored: Ignored) -> str:
    """Return how to index the archives that were passed over."""
    above, name = os.path.split(ignored.archive)
    if not os.path.isdir(above):
        return f"none is opened inside another, such as {printable(ignored.archive)}: unpack that"
    dot = name.find(".")
    return f"name them, as in {printable(os.path.join(above, '*' + name[dot:]))}"


def how_raw_is_read() -> str:
    """Return what reads the RAW files that were passed over."""
    return f"{install_command('rawpy')} lets their previews be read"


def _phrases(ignored: Ignored) -> Iterator[str]:
    ways = {
        "hidden": "files=LIST takes what a list names",
        "links": "follow_links=True takes them",
        "left out by patterns": "exclude='!NAME/' takes a folder of that name",
        "videos": "they are not read",
        "sidecars": "",
        "other files": f"{_suffixes(ignored)}files=LIST takes what a list names",
    }
    for kind, count in ignored.kinds().items():
        if kind == "archives":
            way = where_archives_lie(ignored)
        else:
            way = how_raw_is_read() if kind == "RAW" else ways.get(kind, "")
        yield f"{count} {kind}" + (f" ({way})" if way else "")


def _suffixes(ignored: Ignored) -> str:
    most = sorted(ignored.suffixes.items(), key=lambda item: -item[1])[:_SHOWN]
    named = [f"{count} {'.' + suffix if suffix else 'without suffix'}" for suffix, count in most]
    return f"{', '.join(named)}; " if named else ""
