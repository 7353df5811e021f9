"""Contact sheets that commands write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from embedsearch.cli.app import notice

if TYPE_CHECKING:
    from embedsearch.records import Hit

# A query: where to read its picture, its title and its name; and its hits.
SheetRow: TypeAlias = "tuple[str | bytes, str, str, list[Hit]]"


def write_rows(path: Path, rows: list[SheetRow]) -> None:
    """Write queries and their hits as one PNG, a row each."""
    from embedsearch.present.sheet import MAX_TILES, THUMBNAIL_SIDE, Tile, write_sheet
    from embedsearch.thumbnails import tiles

    images: list[str | bytes] = []
    kept = []
    for image, title, name, hits in rows:
        if len(images) < MAX_TILES:
            shown = hits[: MAX_TILES - len(images) - 1]
            images += [image, *(hit.path for hit in shown)]
            kept.append((title, name, shown))
    if len(images) < sum(1 + len(hits) for *_, hits in rows):
        notice(f"the contact sheet is cut after {len(images)} pictures")
    pixels = tiles(images, THUMBNAIL_SIDE)
    lines = []
    for title, name, hits in kept:
        row = [Tile(next(pixels), title, os.path.basename(name), is_query=True)]
        row += [Tile(next(pixels), f"{h.rank}.  {h.score:.3f}", h.key) for h in hits]
        lines.append(row)
    write_sheet(path, lines)
    notice(f"contact sheet written to {path}")
