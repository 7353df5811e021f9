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
from embedsearch.config import DEFAULT_K, IndexConfig
from embedsearch.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.session import Session

if TYPE_CHECKING:
    from embedsearch.records import Hit
    from embedsearch.searching import Answer

MAX_STDIN_BYTES = 512 << 20


def query(
    images: Annotated[list[str], typer.Argument(help="Images to look for; - reads stdin.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours a query.")] = DEFAULT_K,
    store: StoreOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Leave out lower cosines.")
    ] = None,
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
    queries = [_stdin_image() if image == "-" else image for image in images]
    session = Session(notice=notice)
    with open_store(store, device=device, precision=precision, session=session) as searcher:
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        answers = searcher.answers(queries, k, min_score=min_score)
        return _show(answers, images, form, sheet)


def _show(answers: Iterator[Answer], images: list[str], form: str, sheet: Path | None) -> int:
    """Print the answers as they come; return 1 if an image could not be read."""
    from embedsearch.present.text import HIT_COLUMNS, hit_csv, hit_table, hit_values, json_line

    code = 0
    shown: list[tuple[str | bytes, str, str, list[Hit]]] = []
    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for name, answer in zip(images, answers, strict=True):
        if answer.failure is not None:
            print(f"embedsearch: {answer.failure}", file=sys.stderr)
            code = UnreadableImage.exit_code
            continue
        assert isinstance(answer.query, str | bytes), "the command line asks by path or stdin"
        shown.append((answer.query, "query", name, answer.hits))
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


def _stdin_image() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin holds more than {MAX_STDIN_BYTES >> 20} MB")
    return data
