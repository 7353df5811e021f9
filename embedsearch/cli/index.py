"""`embedsearch index`."""

from __future__ import annotations

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
from embedsearch.config import QUIET_S, DecodeLimits, IndexConfig
from embedsearch.session import Session

if TYPE_CHECKING:
    from embedsearch.records import IndexReport


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
    from embedsearch import indexing
    from embedsearch.present.progress import ProgressDisplay
    from embedsearch.present.text import json_line, report_lines

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
    if watch:
        quiet_s = QUIET_S if quiet is None else quiet
        _watch(folders or [], store, config, quiet_s, session, as_json=json)
    with ProgressDisplay(notice) as on_progress:
        report = indexing.index(
            folders or [], store=store, config=config, session=session, on_progress=on_progress
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else report_lines(report))
    return 1 if strict and (report.failed or report.scan_failures) else 0


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
    from embedsearch.present.text import json_line, report_lines, watch_line
    from embedsearch.watching import watch

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
