"""`embedsearch prepare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from embedsearch.cli.app import JsonOption, VerboseOption, session_with_signals
from embedsearch.cli.completion import models as completed
from embedsearch.cli.options import NETWORK, TUNE, with_config
from embedsearch.core.config import IndexConfig


@with_config(IndexConfig, NETWORK | TUNE)
def prepare(
    config: IndexConfig,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=completed,
            help="Names from `embedsearch models`, or files of weights.  [default: auto]",
        ),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Download and convert models before they are needed.

    For images of containers, and machines without a network or with a read-only cache: afterwards
    index and query find all they need in EMBEDSEARCH_CACHE. The options are those of index.
    """
    from embedsearch.cli.output.text import json_line
    from embedsearch.network.prepared import PrepareReport, prepare as made_ready

    def lines(report: PrepareReport) -> str:
        runs = f"{report.device} ({report.precision})"
        network = f", {report.network}" if report.network else ""
        did = f"in {report.seconds:.1f} s" if report.done else "as it was before"
        placed = {"weights": report.weights, "converted": report.converted}
        shown = [f"  {name:10} {path}\n" for name, path in placed.items() if path]
        return f"{report.model} is ready {did}: on {runs}{network}\n" + "".join(shown)

    session = session_with_signals()
    for model in models or [config.model]:
        report = made_ready(
            model,
            input_side=config.input_side,
            flip=config.flip,
            device=config.device,
            precision=config.precision,
            tune=config.tune,
            session=session,
        )
        sys.stdout.write(json_line(report.to_dict()) + "\n" if json else lines(report))
        sys.stdout.flush()
