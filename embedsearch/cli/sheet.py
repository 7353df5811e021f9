"""Contact sheets and pages of commands; in: queries with their hits, out: one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsearch.cli.app import notice

if TYPE_CHECKING:
    from embedsearch.cli.output.page import Figure, Section
    from embedsearch.core.records import Hit

_MAX_COLUMNS = 12  # of the user, below a picture ...
_MAX_CHARACTERS = 300  # ... and characters of each


@dataclass(frozen=True)
class SheetRow:
    """A query and its hits; `picture` is a path, "" for no picture, or the bytes of a file."""

    picture: str | bytes
    title: str
    name: str
    hits: list[Hit]


def write_rows(path: Path, rows: list[SheetRow]) -> None:
    """Write queries and their hits as one PNG, one row each."""
    from embedsearch.cli.output.sheet import MAX_TILES, THUMBNAIL_SIDE, Tile, write_sheet
    from embedsearch.images.thumbnails import ThumbnailReader

    kept = _cut(rows, MAX_TILES, "contact sheet")
    lines = []
    with ThumbnailReader(THUMBNAIL_SIDE) as pictures:
        pixels = pictures.tiles(_images(kept))
        for row in kept:
            line = [Tile(next(pixels), row.title, os.path.basename(row.name), is_query=True)]
            line += [Tile(next(pixels), f"{h.rank}.  {_scores(h)}", h.key) for h in row.hits]
            lines.append(line)
    write_sheet(path, lines)
    notice(f"contact sheet written to {path}")


def write_html(path: Path, rows: list[SheetRow], lead: str) -> None:
    """Write queries and their hits as one HTML page, one section each."""
    from embedsearch.cli.output.page import MAX_FIGURES, THUMBNAIL_SIDE, write_page
    from embedsearch.images.thumbnails import ThumbnailReader

    kept = _cut(rows, MAX_FIGURES, "page")
    with ThumbnailReader(THUMBNAIL_SIDE) as pictures:
        jpegs = pictures.jpegs(_images(kept))
        write_page(path, "Nearest images", (_section(row, jpegs) for row in kept), lead)
    notice(f"page written to {path}")


def _cut(rows: list[SheetRow], max_pictures: int, noun: str) -> list[SheetRow]:
    """Return the first rows with at most `max_pictures`; notice if some are left out."""
    left, kept = max_pictures, []
    for row in rows:
        if left > 0:
            kept.append(SheetRow(row.picture, row.title, row.name, row.hits[: left - 1]))
            left -= 1 + len(kept[-1].hits)
    if sum(1 + len(row.hits) for row in rows) > max_pictures:
        notice(f"the {noun} is cut after {max_pictures:,} pictures")
    return kept


def _images(rows: Iterable[SheetRow]) -> Iterator[str | bytes]:
    for row in rows:
        yield row.picture
        yield from (hit.full_path for hit in row.hits)


def _section(row: SheetRow, jpegs: Iterator[bytes | None]) -> Section:
    from embedsearch.cli.output.page import Figure, Section

    path = row.picture if isinstance(row.picture, str) and row.picture else None
    figures = [Figure(next(jpegs), os.path.basename(row.name), (row.title,), path, is_query=True)]
    figures += [_figure(hit, jpegs) for hit in row.hits]
    count = len(row.hits)
    return Section(row.name, f"{count} image{'' if count == 1 else 's'}", figures)


def _figure(hit: Hit, jpegs: Iterator[bytes | None]) -> Figure:
    from embedsearch.cli.output.page import Figure

    captions = [f"{hit.rank} · {_scores(hit)}"]
    if hit.width:
        captions.append(f"{hit.width} × {hit.height}")
    columns = [(name, value) for name, value in hit.metadata.items() if value is not None]
    captions += [f"{name}: {_shown(value)}" for name, value in columns[:_MAX_COLUMNS]]
    if len(columns) > _MAX_COLUMNS:
        captions.append(f"and {len(columns) - _MAX_COLUMNS} more columns")
    return Figure(next(jpegs), hit.key, tuple(captions), hit.full_path)


def _scores(hit: Hit) -> str:
    """Return the cosine, what the words are worth, and what else hits are ordered by."""
    scores = [] if hit.score is None else [f"{hit.score:.3f}"]
    if hit.words_score is not None:
        scores.append(f"{', '.join(hit.matched[hit.score is not None :])} {hit.words_score:.2f}")
    rank = "" if hit.rank_score is None else f" ({hit.rank_score:.3f})"
    return " · ".join(scores) + rank


def _shown(value: Any) -> str:
    """Return a column's value on one line, shortened if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"
