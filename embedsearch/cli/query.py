"""`embedsearch query`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    StoreOption,
    VerboseOption,
    notice,
)
from embedsearch.cli.sheet import write_rows
from embedsearch.config import DEFAULT_K, IndexConfig, SearchConfig
from embedsearch.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.session import Session

if TYPE_CHECKING:
    from embedsearch.queries import Query, Single
    from embedsearch.records import Hit
    from embedsearch.searching import Answer

MAX_STDIN_BYTES = 512 << 20


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

    if json + paths + csv > 1:
        raise UsageError("--json, --paths and --csv exclude each other")
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
    asked = _queries(images or [], key or [], like or [], unlike or [], crop)
    session = Session(notice=notice)
    with open_store(store, device=device, precision=precision, session=session) as searcher:
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        answers = searcher.answers([query for _, query in asked], config=config)
        return _show(answers, [name for name, _ in asked], form, sheet)


def _queries(
    images: list[str], keys: list[str], like: list[str], unlike: list[str], crop: str | None
) -> list[tuple[str, Query]]:
    """Return the queries with their names."""
    from embedsearch.queries import Crop, Key, Mix

    def image_of(name: str) -> str | bytes:
        return _stdin_image() if name == "-" else name

    asked: list[tuple[str, Single]] = []
    for name in images:
        if crop is None:
            asked.append((name, image_of(name)))
        else:
            asked.append((f"{name} {crop}", Crop(image_of(name), *_numbers(crop))))
    if crop is not None and not images:
        raise UsageError("--crop needs an image")
    asked += [(name, Key(name)) for name in keys]
    if not (like or unlike):
        if not asked:
            raise UsageError("name an image to look for, or --key or --like")
        return [*asked]
    more, less = [image_of(name) for name in like], [image_of(name) for name in unlike]
    words = "".join(f" + {name}" for name in like) + "".join(f" - {name}" for name in unlike)
    if not asked:
        return [(words.removeprefix(" + "), Mix(more, less))]
    return [(name + words, Mix([query, *more], less)) for name, query in asked]


def _numbers(crop: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in crop.split(","))
    except ValueError as error:
        raise UsageError(f"--crop is four whole numbers X,Y,W,H, not {crop!r}") from error
    return x, y, width, height


def _show(answers: Iterator[Answer], names: list[str], form: str, sheet: Path | None) -> int:
    """Print the answers as they come; return 1 if an image could not be read."""
    from embedsearch.present.text import HIT_COLUMNS, hit_csv, hit_table, hit_values, json_line

    code = 0
    shown: list[tuple[str | bytes, str, str, list[Hit]]] = []
    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for name, answer in zip(names, answers, strict=True):
        if answer.failure is not None:
            print(f"embedsearch: {answer.failure}", file=sys.stderr)
            code = UnreadableImage.exit_code
            continue
        shown.append((_picture(answer), "query", name, answer.hits))
        rows = [hit_values(name, hit) for hit in answer.hits]
        if form == "json":
            sys.stdout.writelines(json_line(row) + "\n" for row in rows)
        elif form == "csv":
            sys.stdout.write(hit_csv(rows))
        elif form == "paths":
            sys.stdout.flush()
            for hit in answer.hits:
                sys.stdout.buffer.write(os.fsencode(hit.path) + b"\n")
        else:
            sys.stdout.write(hit_table(name, answer.hits))
    if sheet is not None and shown:
        write_rows(sheet, shown)
    return code


def _picture(answer: Answer) -> str | bytes:
    """Return a picture that stands for a query: its first image, or the first hit of a key."""
    from embedsearch.queries import Crop, Key, Mix

    query: object = answer.query
    if isinstance(query, Mix):
        query = query.like[0]
    if isinstance(query, Crop):
        query = query.image
    if isinstance(query, Key):
        return answer.hits[0].path if answer.hits else ""
    assert isinstance(query, str | bytes), "the command line asks by path or stdin"
    return query


def _stdin_image() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin holds more than {MAX_STDIN_BYTES >> 20} MB")
    return data
