"""Commands on stores and models: `info`, `check`, `repair`, `failures`, `models`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from embedsearch.cli.app import (
    JsonOption,
    StoreOption,
    VerboseOption,
    WaitOption,
    WrittenStoreOption,
    plain_session,
    session_with_signals,
    shown_session,
)


def info(
    store: StoreOption = None,
    generations: Annotated[
        bool,
        typer.Option("--generations", help="List the generations that `repair --to` can restore."),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what the store holds: images, model, sizes, generation."""
    from embedsearch.cli.output.store_text import generation_lines, info_lines
    from embedsearch.cli.output.text import json_line, json_lines
    from embedsearch.store import info as facts

    session = plain_session()
    if generations:
        rows = [item.to_dict() for item in facts.generations(store, session=session)]
        sys.stdout.write(json_lines(rows) if json else generation_lines(rows))
        return
    found = facts.info(store, session=session).to_dict()
    used = ""
    if verbose:
        from embedsearch.searching.ann.kernels import kernels

        used = kernels()
    sys.stdout.write(json_line(found) + "\n" if json else info_lines(found, used))


def check(
    store: StoreOption = None,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Also decode every page and check every row.")
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Verify the checksums of all files of the current generation.

    The exit code is 5 if anything is wrong.
    """
    from embedsearch.cli.output.text import json_line
    from embedsearch.store.check import check as check_store

    with shown_session() as session:
        found = check_store(store, read_data=read_data, session=session)
    if json:
        print(json_line(found.to_dict()))
    elif found.problems:
        print("\n".join(problem.message for problem in found.problems), file=sys.stderr)
    else:
        sizes = f"{found.images} images in {found.files} files"
        print(f"generation {found.generation} is whole: {sizes}")
    return 5 if found.problems else 0


def repair(
    store: WrittenStoreOption = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", metavar="N", help="Go back to generation N; see `info --generations`."
        ),
    ] = None,
    wait: WaitOption = 0.0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Rebuild search indexes, or go back to an earlier generation."""
    from embedsearch.cli.output.text import json_line
    from embedsearch.indexing.repair import repair as repair_store

    with shown_session() as session:
        done = repair_store(store, to=to, wait_s=wait, session=session)
    print(json_line({"done": done}) if json else "\n".join(done) or "nothing to repair")


def failures(
    store: StoreOption = None,
    ignored: Annotated[
        bool,
        typer.Option(
            "--ignored", help="List what `index` ignores instead; the folders are walked again."
        ),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the files that could not be indexed, and why."""
    from embedsearch.cli.output.text import failure_values, from_here, json_lines, table

    if ignored:
        _list_ignored(store, json)
        return
    from embedsearch.store.info import failures as listed

    found = listed(store, session=plain_session())
    rows = [failure_values(item) for item in found]
    if json:
        sys.stdout.write(json_lines(rows))
    elif rows:
        cells = [
            (row["stage"], row["reason"], from_here(item.full_path), row["detail"])
            for item, row in zip(found, rows, strict=True)
        ]
        sys.stdout.write(table(("stage", "reason", "path", "detail"), cells))
    else:
        print("no failures")


def _list_ignored(store: str | None, json: bool) -> None:
    """Print what `index` passes over, as it is found."""
    from embedsearch.cli.output.text import from_here, json_line
    from embedsearch.core.paths import printable
    from embedsearch.indexing.ignored import ignored_entries

    is_any = False
    for entry in ignored_entries(store, session=session_with_signals()):
        is_any = True
        line = f"{entry.kind:<27}  {printable(from_here(entry.full_path))}"
        print(json_line(entry.to_dict()) if json else line)
    if not is_any and not json:
        print("nothing is ignored")


def relocate(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="The folder or archive as `info` shows it.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where it is now.")],
    store: WrittenStoreOption = None,
    wait: WaitOption = 0.0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Tell the store that a folder has moved; nothing is embedded."""
    from embedsearch.cli.output.text import json_line, roots_line
    from embedsearch.indexing.roots import relocate as relocate_root

    report = relocate_root(old, new, store, wait_s=wait, session=session_with_signals())
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else roots_line(report, new))


def forget(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="The folder, archive or URL as `info` shows it.")
    ],
    store: WrittenStoreOption = None,
    wait: WaitOption = 0.0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Remove a folder from the store; its files stay where they are."""
    from embedsearch.cli.output.text import json_line, roots_line
    from embedsearch.indexing.roots import forget as forget_root

    report = forget_root(folder, store, wait_s=wait, session=session_with_signals())
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else roots_line(report))


def models(json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """List the networks that --model knows, and which are downloaded."""
    from embedsearch.cli.output.text import json_lines, model_lines
    from embedsearch.network.weights import models as catalog

    entries = [entry.to_dict() for entry in catalog()]
    sys.stdout.write(json_lines(entries) if json else model_lines(entries))
