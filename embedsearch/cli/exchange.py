"""`embedsearch export` and `embedsearch import`: vectors out of a store, and into one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedsearch.cli.app import JsonOption, StoreOption, VerboseOption, session_with_signals


def export(
    out: Annotated[
        Path, typer.Argument(help="The file to write: .parquet, .npy, .jsonl or .faiss.")
    ],
    store: StoreOption = None,
    where: Annotated[str | None, typer.Option(help="Only rows that meet a SQL condition.")] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write rows and vectors to a file; .npy and .faiss get a .csv with a line a row."""
    from embedsearch.exporting import export as export_store
    from embedsearch.present.text import json_line
    from embedsearch.store.locate import locate_store

    session = session_with_signals()
    report = export_store(locate_store(store), out, where=where, session=session)
    if json:
        sys.stdout.write(json_line(report.to_dict()) + "\n")
    else:
        print(f"{report.rows:,} rows of {report.dim} components in {' and '.join(report.files)}")


def import_(
    source: Annotated[
        Path, typer.Argument(help="Parquet with the columns path and vector, or a .npy file.")
    ],
    model: Annotated[
        str, typer.Option(help="What made the vectors: a model of embedsearch, or another name.")
    ],
    paths: Annotated[
        Path | None, typer.Option(help="The paths of a .npy file's rows: one a line, or a CSV.")
    ] = None,
    root: Annotated[Path, typer.Option(help="The folder that the paths lie in.")] = Path(),
    store: StoreOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Take vectors that were made elsewhere into a store, all or nothing."""
    from embedsearch.importing import import_vectors
    from embedsearch.present.text import json_line

    report = import_vectors(
        source, model=model, paths=paths, root=root, store=store, session=session_with_signals()
    )
    if json:
        sys.stdout.write(json_line(report.to_dict()) + "\n")
        return
    print(
        f"{report.rows:,} rows: {report.added:,} added, {report.replaced:,} replaced, "
        f"{report.failed:,} failed, {report.repeated:,} repeated\n"
        f"committed generation {report.generation}: {report.images:,} images"
    )
