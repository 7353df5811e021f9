"""`embedsearch index`, and `embedsearch commit` for shared work."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from embedsearch.cli.app import (
    JsonOption,
    VerboseOption,
    WaitOption,
    WrittenStoreOption,
    notice,
    seconds,
    session_with_signals,
)
from embedsearch.cli.help import RUN
from embedsearch.cli.options import INDEX, with_config
from embedsearch.core.config import QUIET_S, IndexConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.session import Session

if TYPE_CHECKING:
    from embedsearch.indexing.report import IndexReport


UnitOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Do only share I of N, for work in many processes; see `commit`.",
        rich_help_panel=RUN,
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="ray: use the cluster at RAY_ADDRESS, or Ray on this machine.",
        rich_help_panel=RUN,
    ),
]
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch", help="Keep running, and index again after changes.", rich_help_panel=RUN
    ),
]
QuietOption = Annotated[
    float | None,
    typer.Option(
        parser=seconds,
        metavar="TIME",
        help="With --watch: wait until changes pause this long.  [default: 2s]",
        rich_help_panel=RUN,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Exit with 1 if any file or folder failed.", rich_help_panel=RUN),
]


@with_config(IndexConfig, INDEX)
def index(
    config: IndexConfig,
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER", help="Folders and archives of images.  [default: those of the store]"
        ),
    ] = None,
    store: WrittenStoreOption = None,
    unit: UnitOption = None,
    engine: EngineOption = None,
    watch: WatchOption = False,
    quiet: QuietOption = None,
    strict: StrictOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Bring the store up to date with folders of images.

    New and changed images are embedded, moved ones keep their vectors, deleted ones go. Run it
    again at any time: what did not change is not read.
    """
    session = session_with_signals()
    used, _ = config.worker_range(on_gpu=False)
    if config.workers is not None and used < config.workers:
        session.notice(f"--workers {config.workers} is more than is useful here: {used} used")
    named = folders or []
    if (unit is not None) + (engine is not None) + watch > 1:
        raise UsageError("--unit, --engine and --watch exclude each other")
    if not watch and (quiet is not None or config.poll_s is not None):
        raise UsageError("--quiet and --poll need --watch")
    if watch and strict:
        raise UsageError("--strict needs a run that ends: leave out --watch")
    if engine is not None:
        failed = _on_engine(engine, named, store, config, session, as_json=json)
        return 1 if strict and failed else 0
    if unit is not None:
        failed = _share(named, _parsed(unit), store, config, session, as_json=json)
        return 1 if strict and failed else 0
    if watch:
        _watch(named, store, config, QUIET_S if quiet is None else quiet, session, as_json=json)
    return _sync(named, store, config, session, as_json=json, strict=strict)


def _sync(
    folders: list[str],
    store: str | None,
    config: IndexConfig,
    session: Session,
    *,
    as_json: bool,
    strict: bool,
) -> int:
    """Index once, and report."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line, report_lines
    from embedsearch.indexing.sync import index as sync
    from embedsearch.store.without_pandas import spare_pandas

    spare_pandas()
    with ProgressDisplay(notice) as on_progress:
        session = replace(session, step=on_progress.step)
        report = sync(folders, store=store, config=config, session=session, on_progress=on_progress)
    sys.stdout.write(json_line(report.to_dict()) + "\n" if as_json else report_lines(report))
    return 1 if strict and (report.failed or report.scan_failures) else 0


def _parsed(unit: str) -> tuple[int, int]:
    """Return the numbers of `17/64`. Raises UsageError."""
    if (match := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", unit.strip())) is None:
        raise UsageError(f"--unit must be a share such as 17/64, not {unit!r}")
    return int(match[1]), int(match[2])


def _share(
    folders: list[str],
    share: tuple[int, int],
    store: str | None,
    config: IndexConfig,
    session: Session,
    *,
    as_json: bool,
) -> int:
    """Do one share of the work, and report what is left of it; return how many files failed."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line, units_line
    from embedsearch.indexing.distributed.run import index_share

    with ProgressDisplay(notice) as on_progress:
        report = index_share(
            folders, share, store=store, config=config, session=session, on_progress=on_progress
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if as_json else units_line(report))
    return report.failed


def _on_engine(
    engine: str,
    folders: list[str],
    store: str | None,
    config: IndexConfig,
    session: Session,
    *,
    as_json: bool,
) -> int:
    """Index on a cluster, and report; return how many files failed."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import commit_lines, json_line
    from embedsearch.store.locate import locate_store

    if engine != "ray":
        raise UsageError(f"--engine must be ray, not {engine!r}")
    from embedsearch.indexing.distributed.ray import index_on_ray

    path = locate_store(store, create=bool(folders) or config.files is not None)
    with ProgressDisplay(notice) as show:
        report = index_on_ray(folders, store=path, config=config, session=session, on_progress=show)
    if as_json:
        sys.stdout.write(json_line({} if report is None else report.to_dict()) + "\n")
    elif report is None:
        print("nothing to embed: the store is in sync with its folders")
    else:
        sys.stdout.write(commit_lines(report))
    return 0 if report is None else report.failed


def commit(
    store: WrittenStoreOption = None,
    drop: Annotated[bool, typer.Option("--drop", help="Discard the plan and its units.")] = False,
    wait: WaitOption = IndexConfig.wait_s,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Add to the store what `index --unit` made, all of it or nothing."""
    from embedsearch.cli.output.text import commit_lines, json_line
    from embedsearch.indexing.distributed.commit import commit as commit_units, discard_plan

    session = session_with_signals()
    if drop:
        discard_plan(store, wait_s=wait)
        notice("the plan was discarded; the store is unchanged")
        return
    report = commit_units(store, wait_s=wait, session=session)
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else commit_lines(report))


def _watch(
    folders: list[str],
    store: str | None,
    config: IndexConfig,
    quiet_s: float,
    session: Session,
    *,
    as_json: bool,
) -> NoReturn:
    """Index until a signal comes, and report what each run did."""
    from embedsearch.cli.output.text import json_line, report_lines, watch_line
    from embedsearch.indexing.watch import watch

    is_first = True

    def show(report: IndexReport) -> None:
        nonlocal is_first
        if as_json:
            sys.stdout.write(json_line(report.to_dict()) + "\n")
        elif is_first:
            sys.stdout.write(report_lines(report))
            notice("watching; Ctrl-C ends")
        else:
            sys.stdout.write(watch_line(report))
        is_first = False
        sys.stdout.flush()

    watch(folders, store=store, config=config, quiet_s=quiet_s, session=session, on_report=show)
    raise AssertionError("a watch ends by an exception")
