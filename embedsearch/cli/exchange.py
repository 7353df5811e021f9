"""`export`, `import` and `pull`: vectors out of a store or into one, and whole stores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedsearch.cli.app import (
    JsonOption,
    StoreOption,
    VerboseOption,
    WaitOption,
    WhereOption,
    WrittenStoreOption,
    notice,
    session_with_signals,
    shown_session,
)
from embedsearch.cli.completion import centers, models
from embedsearch.cli.help import OUTPUT
from embedsearch.core.errors import UsageError


def export(
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help="The file to write: .parquet, .npy, .jsonl or .faiss."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Sync a vector database: milvus://HOST:19530 or postgresql://HOST/DB.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    store: StoreOption = None,
    where: WhereOption = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="With --to: create the collection or table again.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write rows and vectors to a file or a vector database.

    Parquet holds everything in one file. Beside .npy and .faiss a .csv holds the other columns.
    """
    if (out is None) == (to is None):
        raise UsageError("export needs one target: a file, or a vector database with --to")
    if to is not None:
        if where is not None:
            raise UsageError("--where needs a file: a vector database takes all rows")
        _upload(to, store, replace, json)
        return
    if replace:
        raise UsageError("--replace needs --to")
    assert out is not None, "one of the two was given"
    from embedsearch.cli.output.text import json_line
    from embedsearch.exchange.export import export as export_store

    with shown_session() as session:
        report = export_store(store, out, where=where, session=session)
    text = f"{report.rows:,} rows of {report.dim} components in {' and '.join(report.files)}"
    print(json_line(report.to_dict()) if json else text)


def _upload(url: str, store: str | None, replace: bool, json: bool) -> None:
    """Sync a vector database with the store, and report."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line
    from embedsearch.exchange.upload import upload

    with ProgressDisplay(notice) as on_progress:
        report = upload(
            store, url, replace=replace, session=session_with_signals(), on_progress=on_progress
        )
    if json:
        sys.stdout.write(json_line(report.to_dict()) + "\n")
        return
    print(
        f"{report.rows:,} rows of {report.dim} components in {report.database}: "
        f"{report.uploaded:,} uploaded, {report.unchanged:,} unchanged, "
        f"{report.deleted:,} deleted\n"
        f"generation {report.generation}, {report.elapsed_s:.1f} s; "
        f"sent {report.rate:,.0f} vectors/s"
    )


SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Parquet with the columns path and vector, or a .npy file."
    ),
]
PathColumnOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of the paths.  [default: path, or a usual name]"),
]
VectorColumnOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of the vectors.  [default: vector or embedding]"),
]


def import_(
    source: SourceArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=models,
            help="What made the vectors: a model of `embedsearch models`, or any other name.",
        ),
    ],
    paths: Annotated[
        Path | None,
        typer.Option(help="The paths of a .npy file's rows: one per line, or a CSV."),
    ] = None,
    path_column: PathColumnOption = None,
    vector_column: VectorColumnOption = None,
    root: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder that contains the paths.")
    ] = Path(),
    store: WrittenStoreOption = None,
    center: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=centers,
            help="store, model or none, as for `index`.  [default: none for other models]",
        ),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Add vectors that were made elsewhere, all of them or none."""
    from embedsearch.cli.output.text import json_line
    from embedsearch.exchange.import_vectors import import_vectors

    with shown_session() as session:
        report = import_vectors(
            source,
            model=model,
            paths=paths,
            root=root,
            store=store,
            center=center,
            path_column=path_column,
            vector_column=vector_column,
            session=session,
        )
    if json:
        sys.stdout.write(json_line(report.to_dict()) + "\n")
        return
    print(
        f"{report.rows:,} rows: {report.added:,} added, {report.replaced:,} replaced, "
        f"{report.failed:,} failed, {report.repeated:,} repeated\n"
        f"committed generation {report.generation}: {report.images:,} images"
    )


def pull(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="URL of the store: s3://bucket/photos.es.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="The store to create or update.  [default: named like the URL]"
        ),
    ] = None,
    wait: WaitOption = 0.0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Copy a store from a bucket or web server, or update the copy."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line, pull_lines
    from embedsearch.exchange.pull import pull as fetch

    with ProgressDisplay(notice, unit="MB") as show:
        report = fetch(url, folder, wait_s=wait, session=session_with_signals(), on_progress=show)
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else pull_lines(report))
