"""Commands that clean collections: `duplicates`, `clusters`, `outliers`, `map`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedsearch.cli.app import (
    CsvOption,
    HtmlOption,
    JsonOption,
    StoreOption,
    VerboseOption,
    WhereOption,
    notice,
    shown_session,
)
from embedsearch.cli.completion import column_names
from embedsearch.cli.help import FILTERS, OUTPUT
from embedsearch.cli.options import DUPLICATES, with_config
from embedsearch.core.config import MAP_IMAGES, DuplicateConfig
from embedsearch.core.errors import UsageError

if TYPE_CHECKING:
    from embedsearch.curation.copies import DuplicateReport


ScriptOption = Annotated[
    Path | None,
    typer.Option(
        help="Write a shell script that deletes the copies: read it, then run it.",
        rich_help_panel=OUTPUT,
    ),
]
MoveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The script moves them into this folder instead.",
        rich_help_panel=OUTPUT,
    ),
]


@with_config(DuplicateConfig, DUPLICATES)
def duplicates(
    config: DuplicateConfig,
    folder: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="Only images in this folder.  [default: all]"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Only copies of images in this folder.",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
    script: ScriptOption = None,
    move_to: MoveOption = None,
    html: HtmlOption = None,
    verbose: VerboseOption = False,
) -> None:
    """List copies, and which one of each group to keep.

    Nothing is deleted. --script writes what would delete the copies, for you to read and run.
    """
    from embedsearch.curation.duplicates import UnmetWish, duplicates as find
    from embedsearch.curation.script import write_script

    _one_form(json, csv)
    if move_to is not None and script is None:
        raise UsageError("move_to needs script, the file to write", "move_to", "script")
    form = "json" if json else "csv" if csv else "table"
    try:
        with shown_session() as session:
            report = find(store, folder, against=against, config=config, session=session)
    except UnmetWish as error:  # to be looked at, and not to be worked off
        _print_groups(error.report, form)
        raise
    _print_groups(report, form)
    if script is not None:
        write_script(script, report.groups, move_to)
        does = "deletes the copies" if move_to is None else f"moves the copies to {move_to}"
        notice(f"nothing was deleted; {script} {does}: read it first")
    if report.unsigned:
        notice(f"{report.unsigned:,} images have no signature: only their bytes were compared")
    message = (
        f"{report.images:,} images, {report.copies:,} of them copies of others, "
        f"{report.bytes / 1e6:,.1f} MB"
    )
    if report.others:
        message += f"; {report.others:,} more listed, which are alike but no copies"
    if html is not None:
        _write_page(html, report, message)
    notice(message)


def _print_groups(report: DuplicateReport, form: str) -> None:
    from embedsearch.cli.output.groups import group_csv, group_lines
    from embedsearch.cli.output.text import exact_unless_shown, json_lines

    rows = [row for n, group in enumerate(report.groups, start=1) for row in group.rows(n)]
    shown = {"json": json_lines, "csv": group_csv, "table": group_lines}[form]
    sys.stdout.write(exact_unless_shown(shown(rows)) if form == "csv" else shown(rows))


def _write_page(path: Path, report: DuplicateReport, message: str) -> None:
    """Write groups of copies as one HTML page, one section each."""
    from embedsearch.cli.output.groups import picture_caption
    from embedsearch.cli.output.page import MAX_FIGURES, THUMBNAIL_SIDE, Figure, Section, write_page
    from embedsearch.images.thumbnails import ThumbnailReader

    kept, left = [], MAX_FIGURES
    for number, group in enumerate(report.groups, start=1):
        rows = group.rows(number)[: max(0, left)]
        left -= len(rows)
        if len(rows) > 1:  # a single picture shows no copy
            paths = [group.keep.full_path, *(copy.picture.full_path for copy in group.copies)]
            kept.append((number, list(zip(rows, paths, strict=False))))
    listed = report.copies + report.others + len(report.groups)
    if (shown := sum(len(members) for _, members in kept)) < listed:
        notice(f"the page is cut after {shown:,} pictures")
    with ThumbnailReader(THUMBNAIL_SIDE) as pictures:
        jpegs = pictures.jpegs(path for _, members in kept for _, path in members)
        sections = (
            Section(
                f"Group {number}",
                f"{len(members)} pictures",
                [
                    Figure(next(jpegs), path, picture_caption(row), path, index == 0)
                    for index, (row, path) in enumerate(members)
                ],
            )
            for number, members in kept
        )
        write_page(path, "Copies", sections, message)
    notice(f"page written to {path}")


def clusters(
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--k",
            min=1,
            metavar="N",
            help="Number of groups.  [default: √(images / 2)]",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    store: StoreOption = None,
    where: WhereOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Group similar pictures, with the most typical ones of each.

    --json and --csv list all members.
    """
    from embedsearch.cli.output.groups import cluster_csv, cluster_lines
    from embedsearch.cli.output.text import exact_unless_shown, json_lines
    from embedsearch.curation.clusters import clusters as find

    _one_form(json, csv)
    with shown_session() as session:
        found = find(store, k, where=where, session=session)
    if csv:
        sys.stdout.write(exact_unless_shown(cluster_csv(found)))
        return
    rows = [cluster.to_dict() for cluster in found]
    sys.stdout.write(json_lines(rows) if json else cluster_lines(rows))


def outliers(
    count: Annotated[
        int,
        typer.Option(
            "-k",
            "--k",
            min=1,
            metavar="N",
            help="Number of pictures to list.",
            rich_help_panel=FILTERS,
        ),
    ] = 20,
    store: StoreOption = None,
    where: WhereOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the pictures that are least like all others.

    They are ordered by the mean score of their ten nearest neighbors.
    """
    from embedsearch.cli.output.groups import outlier_csv, outlier_lines
    from embedsearch.cli.output.text import exact_unless_shown, json_lines
    from embedsearch.curation.clusters import outliers as find

    _one_form(json, csv)
    with shown_session() as session:
        rows = [odd.to_dict() for odd in find(store, count, where=where, session=session)]
    if csv:
        sys.stdout.write(exact_unless_shown(outlier_csv(rows)))
        return
    sys.stdout.write(json_lines(rows) if json else outlier_lines(rows))


def _one_form(json: bool, csv: bool) -> None:
    if json and csv:
        raise UsageError("--json and --csv exclude each other")


def map_(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The HTML file to write.")],
    store: StoreOption = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="pca; umap keeps similar pictures closer together, but is slower."
        ),
    ] = "pca",
    where: WhereOption = None,
    most: Annotated[
        int,
        typer.Option(
            min=3,
            metavar="N",
            help="Maximum number of pictures; of more, a random sample is shown.",
            rich_help_panel=FILTERS,
        ),
    ] = MAP_IMAGES,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            autocompletion=column_names,
            help="Color the dots by this column.  [default: the folder]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Draw all pictures as a map, one HTML file.

    Similar pictures lie near each other; a thumbnail shows when you point at a dot.
    """
    from embedsearch.cli.output.scatter import write_map
    from embedsearch.curation.picture_map import picture_map

    with shown_session() as session:
        found = picture_map(
            store=store,
            method=method,
            where=where,
            max_images=most,
            color=color,
            session=session,
        )
    write_map(out, f"{len(found.points):,} of {found.images:,} pictures", found)
    notice(f"{len(found.points):,} of {found.images:,} pictures written to {out}")
