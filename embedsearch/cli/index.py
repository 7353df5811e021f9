"""`embedsearch index`, and `embedsearch commit` for work that was shared out."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from embedsearch.cli.app import (
    DeviceOption,
    FlipOption,
    InputSideOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    VerboseOption,
    WaitOption,
    WorkersOption,
    WrittenStoreOption,
    notice,
    seconds,
    session_with_signals,
    size,
)
from embedsearch.core.config import QUIET_S, DecodeLimits, IndexConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.session import Session

if TYPE_CHECKING:
    from embedsearch.indexing.report import IndexReport


def index(
    folders: Annotated[
        list[str] | None,
        typer.Argument(help="Folders and archives of images; without, all known ones."),
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Only the files that it lists, one a line or by NUL; - is stdin."
        ),
    ] = IndexConfig.files,
    store: WrittenStoreOption = None,
    model: ModelOption = IndexConfig.model,
    input_side: InputSideOption = IndexConfig.input_side,
    flip: FlipOption = IndexConfig.flip,
    device: DeviceOption = IndexConfig.device,
    precision: PrecisionOption = IndexConfig.precision,
    workers: WorkersOption = IndexConfig.workers,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse pictures of more pixels.")
    ] = DecodeLimits.max_pixels,
    max_bytes: Annotated[
        int, typer.Option(help="Refuse files of more bytes.")
    ] = DecodeLimits.max_bytes,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Accept pictures whose end is missing.")
    ] = False,
    metadata: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="CSV, JSON lines or Parquet: more columns, by path or name."
        ),
    ] = IndexConfig.metadata,
    sidecars: Annotated[
        bool,
        typer.Option(
            "--sidecars", help="More columns from photo.jpg.json and photo.txt beside the pictures."
        ),
    ] = IndexConfig.sidecars,
    recall: Annotated[
        float | None,
        typer.Option(help="Of the true 10 nearest, the share that queries have to find.  [0.98]"),
    ] = IndexConfig.recall,
    latency: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="TIME", help="What a query may take.  [10ms]"),
    ] = IndexConfig.latency_s,
    memory: Annotated[
        int | None,
        typer.Option(parser=size, metavar="SIZE", help="What may be searched, mapped.  [4G]"),
    ] = IndexConfig.memory_bytes,
    ann: Annotated[
        str | None,
        typer.Option(help="auto, exact, or a FAISS factory string as IVF1024,SQ8.  [auto]"),
    ] = IndexConfig.ann,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Embed everything anew, the one way to another model."),
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Accept that a folder has vanished or is empty.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only this share of the work, for one of N processes; see commit."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="ray: on the cluster of RAY_ADDRESS, or on Ray on this machine."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and index again whenever something changes.")
    ] = False,
    quiet: Annotated[
        float | None,
        typer.Option(
            parser=seconds, metavar="TIME", help="With --watch: after such a pause.  [2s]"
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file or folder failed.")
    ] = False,
    wait: WaitOption = IndexConfig.wait_s,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Bring the store into step with folders: embed new and changed images, drop deleted ones."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line, report_lines
    from embedsearch.indexing import sync

    config = IndexConfig(
        model=model,
        input_side=input_side,
        flip=flip,
        device=device,
        precision=precision,
        workers=workers,
        files=files,
        limits=DecodeLimits(
            max_pixels=max_pixels, max_bytes=max_bytes, allow_truncated=allow_truncated
        ),
        metadata=metadata,
        sidecars=sidecars,
        recall=recall,
        latency_s=latency,
        memory_bytes=memory,
        ann=ann,
        wait_s=wait,
        rebuild=rebuild,
        allow_empty=allow_empty,
        dry_run=dry_run,
    )
    session = session_with_signals()
    used, _ = config.worker_range(on_gpu=False)
    if workers is not None and used < workers:
        session.notice(f"--workers {workers} is more than pays here: {used} used")
    if engine is not None:
        if watch or unit is not None:
            raise UsageError("--engine goes with neither --unit nor --watch")
        return _on_engine(engine, folders or [], store, config, session, as_json=json)
    if unit is not None:
        if watch:
            raise UsageError("--unit and --watch exclude each other")
        return _share(folders or [], _parsed(unit), store, config, session, as_json=json)
    if watch:
        quiet_s = QUIET_S if quiet is None else quiet
        _watch(folders or [], store, config, quiet_s, session, as_json=json)
    with ProgressDisplay(notice) as on_progress:
        report = sync.index(
            folders or [], store=store, config=config, session=session, on_progress=on_progress
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else report_lines(report))
    return 1 if strict and (report.failed or report.scan_failures) else 0


def _parsed(unit: str) -> tuple[int, int]:
    """Return the numbers of `17/64`. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", unit.strip())
    if match is None:
        raise UsageError(f"--unit is a share such as 17/64, not {unit!r}")
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
    """Do one share of the work, and say what is left of it."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line, units_line
    from embedsearch.indexing.distributed.run import index_share

    with ProgressDisplay(notice) as on_progress:
        report = index_share(
            folders, share, store=store, config=config, session=session, on_progress=on_progress
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if as_json else units_line(report))
    return 0


def _on_engine(
    engine: str,
    folders: list[str],
    store: str | None,
    config: IndexConfig,
    session: Session,
    *,
    as_json: bool,
) -> int:
    """Index on a cluster, and say what came of it."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import commit_lines, json_line
    from embedsearch.store.locate import locate_store

    if engine != "ray":
        raise UsageError(f"--engine is ray, not {engine!r}")
    from embedsearch.indexing.distributed.ray import index_on_ray

    path = locate_store(store, create=bool(folders) or config.files is not None)
    with ProgressDisplay(notice) as on_progress:
        report = index_on_ray(
            folders, store=path, config=config, session=session, on_progress=on_progress
        )
    if as_json:
        sys.stdout.write(json_line({} if report is None else report.to_dict()) + "\n")
    elif report is None:
        print("nothing to embed: the store is in step with its folders")
    else:
        sys.stdout.write(commit_lines(report))
    return 0


def commit(
    store: WrittenStoreOption = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Give the plan up, and the units that are done.")
    ] = False,
    wait: WaitOption = IndexConfig.wait_s,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Take the units of `index --unit` into the store, all of them or none."""
    from embedsearch.cli.output.text import commit_lines, json_line
    from embedsearch.indexing.distributed import run

    session = session_with_signals()
    if drop:
        run.discard_plan(store, wait_s=wait)
        notice("the plan was given up; the store is as it was")
        return
    report = run.commit(store, wait_s=wait, session=session)
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
    """Index until a signal comes, and say what each run did."""
    from embedsearch.cli.output.text import json_line, report_lines, watch_line
    from embedsearch.indexing.watch import watch

    is_first = True

    def on_report(report: IndexReport) -> None:
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

    watch(
        folders,
        store=store,
        config=config,
        quiet_s=quiet_s,
        session=session,
        on_report=on_report,
    )
    raise AssertionError("a watch ends by an exception")
