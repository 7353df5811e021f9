"""`embedsearch query`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    StoreOption,
    VerboseOption,
    notice,
    session_with_signals,
)
from embedsearch.cli.asking import Asked
from embedsearch.cli.sheet import SheetRow, write_rows
from embedsearch.config import DEFAULT_K, IndexConfig, SearchConfig
from embedsearch.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.session import Session

if TYPE_CHECKING:
    from embedsearch.records import Hit
    from embedsearch.searching import Answer


def query(
    images: Annotated[
        list[str] | None, typer.Argument(help="Images to look for; - reads stdin.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours a query.")] = DEFAULT_K,
    store: StoreOption = None,
    where: Annotated[
        str | None,
        typer.Option(help='Only rows that meet a SQL condition: "width > 1000".'),
    ] = None,
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
    device: DeviceOption = "cpu",
    precision: PrecisionOption = IndexConfig.precision,
    verbose: VerboseOption = False,
) -> int:
    """Show the nearest images of the store, best first."""
    # A single answer is too small to share: starting and stopping threads would cost more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedsearch.searching import open_store

    if json + paths + csv + (out is not None) > 1:
        raise UsageError("--json, --paths, --csv and --out exclude each other")
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
    with open_store(store, device=device, precision=precision, session=session) as searcher:
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        named, queries = tee(asked.queries(searcher.manifest.model.dim))
        found = searcher.answers((query for _, query in queries), config=config)
        answers = _Answers(zip((name for name, _ in named), found, strict=True), sheet is not None)
        if out is None:
            _show(answers, form)
        else:
            _write(answers, out, len(asked), session)
    if sheet is not None and answers.pictured:
        write_rows(sheet, answers.pictured)
    return UnreadableImage.exit_code if answers.failed else 0


class _Answers:
    """The answers with the names of their queries; failures are said on stderr and left out."""

    def __init__(self, pairs: Iterator[tuple[str, Answer]], pictured: bool) -> None:
        self._pairs = pairs
        self._is_pictured = pictured
        self.failed = 0
        self.pictured: list[SheetRow] = []

    def __iter__(self) -> Iterator[tuple[str, list[Hit]]]:
        for name, answer in self._pairs:
            if answer.failure is not None:
                print(f"embedsearch: {answer.failure}", file=sys.stderr)
                self.failed += 1
                continue
            if self._is_pictured:
                self.pictured.append((_picture(answer), "query", name, answer.hits))
            yield name, answer.hits


def _show(answers: _Answers, form: str) -> None:
    """Print the hits as they come."""
    from embedsearch.present.text import HIT_COLUMNS, hit_csv, hit_table, hit_values, json_line

    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for name, hits in answers:
        rows = [hit_values(name, hit) for hit in hits]
        if form == "json":
            sys.stdout.writelines(json_line(row) + "\n" for row in rows)
        elif form == "csv":
            sys.stdout.write(hit_csv(rows))
        elif form == "paths":
            sys.stdout.flush()
            for hit in hits:
                sys.stdout.buffer.write(os.fsencode(hit.path) + b"\n")
        else:
            sys.stdout.write(hit_table(name, hits))


def _write(answers: _Answers, out: Path, total: int, session: Session) -> None:
    """Write the hits to a file as they come, and show how far that is."""
    from embedsearch.present.hits import hits_file
    from embedsearch.present.progress import ProgressDisplay
    from embedsearch.present.text import hit_values
    from embedsearch.records import Progress

    done, started = 0, time.monotonic()
    with hits_file(out) as write, ProgressDisplay(notice) as show:
        for done, (name, hits) in enumerate(answers, start=1):
            session.check()
            write([hit_values(name, hit) for hit in hits])
            show(Progress(done + answers.failed, total, answers.failed, time.monotonic() - started))
    notice(f"the hits of {done:,} queries, {answers.failed:,} failed, written to {out}")


def _picture(answer: Answer) -> str | bytes:
    """Return a picture that stands for a query: its first image, or the first hit of a key."""
    from embedsearch.queries import Crop, Mix

    query: object = answer.query
    if isinstance(query, Mix):
        query = query.like[0]
    if isinstance(query, Crop):
        query = query.image
    if not isinstance(query, str | bytes):  # a key or a vector
        return answer.hits[0].path if answer.hits else ""
    return query
