"""A map of pictures as one self-contained HTML file; in: points, out: a file.

Every name is data, never markup: the points are JSON in which `<` is escaped.
"""

from __future__ import annotations

import base64
import json
from html import escape
from importlib.resources import files
from pathlib import Path

from embedsearch.core.paths import printable
from embedsearch.curation.picture_map import PictureMap
from embedsearch.images.output_files import output_files


def write_map(path: Path, title: str, shown: PictureMap) -> None:
    """Write the points, x and y from 0 to 1, with their legend. Raises StorageError."""
    data = {
        "groups": [printable(name) for name in shown.legend.names],
        "isScale": shown.legend.is_scale,
        "points": [
            [
                round(point.x, 4),
                round(1.0 - point.y, 4),
                group,
                printable(point.full_path),
                "" if point.jpeg is None else base64.b64encode(point.jpeg).decode(),
            ]
            for point, group in zip(shown.points, shown.legend.groups, strict=True)
        ],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = files("embedsearch.cli.output").joinpath("map.html").read_text()
    with output_files([path]) as (file,):
        file.write_text(page.replace("TITLE", escape(printable(title))).replace('"DATA"', text))
