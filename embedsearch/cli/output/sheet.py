"""A contact sheet; in: thumbnails and captions, out: one PNG with the query first.

One row per query: the query in a frame, then its hits with rank, score and name.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from embedsearch.cli.output.fonts import draw_text, text_width
from embedsearch.core.errors import StorageError
from embedsearch.core.paths import printable
from embedsearch.images.output_files import SHEET_TAG, output_files

THUMBNAIL_SIDE = 180
_GAP = 14
_CAPTION = 40
_COLUMNS = 7
MAX_TILES = 400  # more make a PNG that programs cannot open
_PAPER, _INK, _FAINT, _FRAME = "#ffffff", "#1c1c1c", "#767676", "#1f6feb"


@dataclass(frozen=True)
class Tile:
    """A picture on the sheet: pixels uint8 (S, S, 3), or None if it cannot be read."""

    pixels: npt.NDArray[np.uint8] | None
    title: str
    name: str
    is_query: bool = False


def write_sheet(path: Path, rows: Sequence[Sequence[Tile]]) -> None:
    """Write the rows of tiles as a PNG; long rows are continued below. Raises StorageError."""
    lines = [line for row in rows for line in _wrap(row)]
    side = THUMBNAIL_SIDE
    width = _GAP + max(len(line) for line in lines) * (side + _GAP)
    sheet = Image.new("RGB", (width, _GAP + len(lines) * (side + _CAPTION + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for line_number, line in enumerate(lines):
        top = _GAP + line_number * (side + _CAPTION + _GAP)
        for column, tile in enumerate(line):
            if tile is not None:
                _paint(sheet, draw, tile, _GAP + column * (side + _GAP), top)
    if path.is_dir():
        raise StorageError(f"--sheet {path} is a folder: name a file to write")
    with output_files([path]) as (temporary,):
        tag = PngInfo()
        tag.add_text(*SHEET_TAG)
        sheet.save(temporary, format="PNG", pnginfo=tag)


def _wrap(row: Sequence[Tile]) -> list[list[Tile | None]]:
    """Return a row as lines: the query on the left, hits in the other columns."""
    query, hits = row[0], row[1:]
    hit_columns = _COLUMNS - 1
    lines: list[list[Tile | None]] = []
    for start in range(0, max(len(hits), 1), hit_columns):
        lines.append([query if start == 0 else None, *hits[start : start + hit_columns]])
    return lines


def _paint(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    side = THUMBNAIL_SIDE
    if tile.pixels is None:
        draw.rectangle((left, top, left + side, top + side), outline=_FAINT)
        draw.text((left + 10, top + side // 2), "cannot be read", fill=_FAINT, font_size=14)
    else:
        sheet.paste(Image.fromarray(tile.pixels), (left, top))
    if tile.is_query:
        draw.rectangle(
            (left - 3, top - 3, left + side + 2, top + side + 2), outline=_FRAME, width=3
        )
    draw_text(draw, left, top + side + 17, tile.title, 14, _INK)
    name = _shorten(printable(tile.name), 12, side)
    draw_text(draw, left, top + side + 34, name, 12, _FAINT)


def _shorten(text: str, size: int, width: int) -> str:
    """Return the text, without its middle if it is wider than `width` pixels."""
    most = 4 * width  # characters: no font sets as many, and each costs time to measure
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-most // 2 :]}"
    if text_width(text, size) <= width:
        return text

    def without_middle(keep: int) -> str:
        return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"

    fits = bisect(
        range(2, len(text)),
        False,
        key=lambda keep: text_width(without_middle(keep), size) > width,
    )
    return without_middle(1 + fits) if fits else text[:1]
