"""A map of pictures as one self-contained HTML file; in: points, out: a file.

Every name is data, never markup: the points are JSON in which `<` is escaped.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from embedsearch.core.atomic import in_place
from embedsearch.core.paths import printable
from embedsearch.curation.picture_map import MapPoint

_COLORS = 10  # the folders with the most pictures have a color each


def write_map(path: Path, title: str, points: Sequence[MapPoint]) -> None:
    """Write the points, x and y from 0 to 1, colored by folder. Raises StorageError."""
    folders = [os.path.dirname(point.key) for point in points]
    counts = {folder: folders.count(folder) for folder in set(folders)}
    named = sorted(counts, key=lambda folder: (-counts[folder], folder))[:_COLORS]
    data = {
        "folders": [printable(folder) or "." for folder in named],
        "points": [
            [
                round(point.x, 4),
                round(1.0 - point.y, 4),
                named.index(folder) if folder in named else -1,
                printable(point.path),
                "" if point.jpeg is None else base64.b64encode(point.jpeg).decode(),
            ]
            for point, folder in zip(points, folders, strict=True)
        ],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = files("embedsearch.cli.output").joinpath("map.html").read_text()
    with in_place([path]) as (file,):
        file.write_text(page.replace("TITLE", escape(printable(title))).replace('"DATA"', text))
