"""`embedsearch query`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from embedsearch.cli.app import (
    DeviceOption,
    HtmlOption,
    PrecisionOption,
    ServeFromOption,
    StoreOption,
    VerboseOption,
    WhereOption,
    notice,
    session_with_signals,
)
from embedsearch.cli.asking import Asked
from embedsearch.cli.sheet import SheetRow, write_html, write_rows
from embedsearch.core.config import DEFAULT_K, IndexConfig, SearchConfig
from embedsearch.core.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.core.session import Session

if TYPE_CHECKING:
    from embedsearch.searching.searcher import Answer

_ShowPictures: TypeAlias = "Callable[[SheetRow], None]"


def query(
    images: Annotated[
        list[str] | None, typer.Argument(help="Images to look for; - reads stdin.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours a query.")] = DEFAULT_K,
    store: StoreOption = None,
    where: WhereOption = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Look for an image of the store, by its key or path.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="Hits are to be like this image, too.")
    ] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="Hits are not to be like it.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Look for all that a file lists: an image a line, or vectors as .npy.",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Look for this part of the images, in pixels."),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many of the nearest.")] = 0,
    min_score: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Leave out lower cosines.")
    ] = None,
    collapse: Annotated[
        float | None,
        typer.Option(help="Leave out hits whose cosine with a better one reaches this."),
    ] = None,
    diverse: Annotated[
        float | None, typer.Option(help="How much hits are to differ: 0 not at all, 1 only that.")
    ] = None,
    expand: Annotated[
        int, typer.Option(help="Ask again with the mean of the query and so many neighbours.")
    ] = SearchConfig.expand,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths of the hits.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the hits to this .jsonl, .csv or .parquet.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet, a PNG, to this file.")
    ] = None,
    html: HtmlOption = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Show the pictures, too, on a terminal.")
    ] = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = IndexConfig.precision,
    serve_from: ServeFromOption = None,
    verbose: VerboseOption = False,
) -> int:
    """Show the nearest images of the store, best first."""
    # A single answer is too small to share: starting and stopping threads would cost more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedsearch.searching.searcher import open_store

    if json + paths + csv + (out is not None) > 1:
        raise UsageError("--json, --paths, --csv and --out exclude each other")
    if thumbnails and (json or paths or csv or out is not None):
        raise UsageError("--thumbnails go with the table")
    form = "json" if json else "paths" if paths else "csv" if csv else "table"
    config = SearchConfig(
        k=k,
        offset=offset,
        where=where,
        min_score=min_score,
        collapse=collapse,
        diverse=diverse,
        expand=expand,
    )
    asked = Asked(images or [], key or [], like or [], unlike or [], crop, source)
    session = Session(notice=notice) if out is None else session_with_signals()
    with open_store(
        store, device=device, precision=precision, serve_from=serve_from, session=session
    ) as searcher:
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        named, queries = tee(asked.queries(searcher.manifest.model.dim))
        found = searcher.answers((query for _, query in queries), config=config)
        is_kept = sheet is not None or html is not None
        answers = _Answers(zip((name for name, _ in named), found, strict=True), is_kept)
        if out is not None:
            _write(answers, out, len(asked), session)
        elif form == "table":
            _show_tables(answers, thumbnails)
        else:
            _show(answers, form)
        place = str(searcher.store)
    if sheet is not None and answers.pictured:
        write_rows(sheet, answers.pictured)
    if html is not None and answers.pictured:
        write_html(html, answers.pictured, f"from {place}")
    return UnreadableImage.exit_code if answers.failed else 0


class _Answers:
    """The answers, as rows of pictures; failures are said on stderr and left out."""

    def __init__(self, pairs: Iterator[tuple[str, Answer]], is_kept: bool) -> None:
        self._pairs = pairs
        self._is_kept = is_kept
        self.failed = 0
        self.pictured: list[SheetRow] = []  # all of them, where they are kept

    def __iter__(self) -> Iterator[SheetRow]:
        for name, answer in self._pairs:
            if answer.failure is not None:
                print(f"embedsearch: {answer.failure}", file=sys.stderr)
                self.failed += 1
                continue
            row = SheetRow(_picture(answer), "query", name, answer.hits)
            if self._is_kept:
                self.pictured.append(row)
            yield row


def _show(answers: _Answers, form: str) -> None:
    """Print the hits for programs, as they come."""
    from embedsearch.cli.output.text import HIT_COLUMNS, csv_lines, hit_values, json_line

    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for answer in answers:
        rows = [hit_values(answer.name, hit) for hit in answer.hits]
        if form == "json":
            sys.stdout.writelines(json_line(row) + "\n" for row in rows)
        elif form == "csv":
            sys.stdout.write(csv_lines(rows))
        else:
            sys.stdout.flush()
            for hit in answer.hits:
                sys.stdout.buffer.write(os.fsencode(hit.path) + b"\n")


def _show_tables(answers: _Answers, thumbnails: bool) -> None:
    """Print the hits for a person, as they come."""
    from embedsearch.cli.output.text import hit_table

    host = None
    if _is_smart_terminal():
        from socket import gethostname  # as `ls --hyperlink` does: over ssh, a path is not here

        host = gethostname()
    with ExitStack() as opened:
        show = _pictures(opened) if thumbnails else None
        for row in answers:
            sys.stdout.write(hit_table(row.name, row.hits, link_host=host))
            if show is not None:
                show(row)


def _is_smart_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _pictures(opened: ExitStack) -> _ShowPictures | None:
    """Return what shows the pictures of a query, or say why there is no way to."""
    why = ""
    if not _is_smart_terminal():
        why = "stdout is no terminal that could show them"
    elif os.environ.get("NO_COLOR"):
        why = "NO_COLOR is set"
    elif sys.stdout.encoding.lower() != "utf-8":
        why = f"the terminal's text is {sys.stdout.encoding}, not UTF-8"
    if why:
        notice(f"without thumbnails: {why}")
        return None
    from embedsearch.cli.output.terminal import SIDE, Thumbnail, ThumbnailRows
    from embedsearch.images.thumbnails import ThumbnailReader

    rows = ThumbnailRows(sys.stdout, shutil.get_terminal_size().columns)
    pictures = opened.enter_context(ThumbnailReader(SIDE))

    def show(row: SheetRow) -> None:
        captions = [row.title, *(f"{hit.rank}  {hit.score:.3f}" for hit in row.hits)]
        pixels = pictures.pixels([row.picture, *(hit.path for hit in row.hits)])
        shown = zip(pixels, captions, strict=True)
        rows.show(
            [Thumbnail(p, words if p is not None else f"{words}  lost") for p, words in shown]
        )

    return show


def _write(answers: _Answers, out: Path, total: int, session: Session) -> None:
    """Write the hits to a file as they come, and show how far that is."""
    from embedsearch.cli.output.hits import hits_file
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import hit_values
    from embedsearch.core.records import Progress

    done, started = 0, time.monotonic()
    with hits_file(out) as write, ProgressDisplay(notice) as show:
        for done, row in enumerate(answers, start=1):
            session.check()
            write([hit_values(row.name, hit) for hit in row.hits])
            show(Progress(done + answers.failed, total, answers.failed, time.monotonic() - started))
    notice(f"the hits of {done:,} queries, {answers.failed:,} failed, written to {out}")


def _picture(answer: Answer) -> str | bytes:
    """Return a picture that stands for a query: its first image, or the first hit of a key."""
    from embedsearch.searching.queries import Crop, Mix

    query: object = answer.query
    if isinstance(query, Mix):
        query = query.like[0]
    if isinstance(query, Crop):
        query = query.image
    if not isinstance(query, str | bytes):  # a key or a vector
        return answer.hits[0].path if answer.hits else ""
    return query
