"""`embedsearch bench`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from embedsearch.cli.app import JsonOption, VerboseOption, session_with_signals
from embedsearch.cli.options import MODEL, NETWORK, TUNE, WORKERS, with_config
from embedsearch.core.config import BENCH_IMAGES, IndexConfig


@with_config(IndexConfig, MODEL | NETWORK | TUNE | WORKERS)
def bench(
    config: IndexConfig,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of your photos.")],
    images: Annotated[int, typer.Option(metavar="N", help="Photos to sample.")] = BENCH_IMAGES,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how fast this machine indexes your photos.

    Each stage is measured alone, then all together. Nothing is written.
    """
    from embedsearch.cli.output.text import bench_lines, json_line
    from embedsearch.indexing.bench import bench as measured

    report = measured(folder, images=images, config=config, session=session_with_signals())
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else bench_lines(report))
