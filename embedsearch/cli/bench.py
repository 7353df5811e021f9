"""`embedsearch bench`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    FlipOption,
    InputSideOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    VerboseOption,
    WorkersOption,
    session_with_signals,
)
from embedsearch.core.config import BENCH_IMAGES, IndexConfig


def bench(
    folder: Annotated[str, typer.Argument(help="Photos of yours.")],
    images: Annotated[int, typer.Option(help="Photos to sample.")] = BENCH_IMAGES,
    model: ModelOption = IndexConfig.model,
    input_side: InputSideOption = IndexConfig.input_side,
    flip: FlipOption = IndexConfig.flip,
    device: DeviceOption = IndexConfig.device,
    precision: PrecisionOption = IndexConfig.precision,
    workers: WorkersOption = IndexConfig.workers,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how fast photos of yours are indexed here, stage by stage; writes nothing."""
    from embedsearch.cli.output.text import bench_lines, json_line
    from embedsearch.indexing.bench import bench as measured

    config = IndexConfig(
        model=model,
        input_side=input_side,
        flip=flip,
        device=device,
        precision=precision,
        workers=workers,
    )
    report = measured(folder, images=images, config=config, session=session_with_signals())
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else bench_lines(report))
