"""`embedsearch evaluate` and `embedsearch train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedsearch.cli.app import JsonOption, StoreOption, VerboseOption, notice, session_with_signals
from embedsearch.cli.completion import models
from embedsearch.cli.help import FILTERS, LEARNING, NETWORK as NETWORK_GROUP, OUTPUT
from embedsearch.cli.options import CENTER, NETWORK, TRAIN, with_config
from embedsearch.cli.sheet import SheetRow, write_rows
from embedsearch.core.config import IndexConfig, SearchConfig, TrainConfig
from embedsearch.core.errors import MissingLibrary, UsageError

if TYPE_CHECKING:
    from embedsearch.learning.reports import Evaluation

SHEET_HITS = 6  # next to each of the worst queries: one line


FolderArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FOLDER", help="Pictures, one folder per class.  [default: those of the store]"
    ),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        autocompletion=models,
        help="Model to measure. Repeatable, to compare.  [default: auto]",
        rich_help_panel=NETWORK_GROUP,
    ),
]
RelevantOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV with the columns query and relevant, instead of folders.", rich_help_panel=FILTERS
    ),
]
HeldOutOption = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="Only the pictures that `train` held out for the model.",
        rich_help_panel=FILTERS,
    ),
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV with the columns path and caption: find pictures by captions.",
        rich_help_panel=FILTERS,
    ),
]
SheetOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw the worst queries of the last row, as PNG.", rich_help_panel=OUTPUT
    ),
]
ClassesOption = Annotated[
    bool, typer.Option("--csv", help="Print the classes as CSV.", rich_help_panel=OUTPUT)
]


@with_config(IndexConfig, NETWORK | CENTER)
def evaluate(
    config: IndexConfig,
    folder: FolderArgument = None,
    model: ModelsOption = None,
    store: StoreOption = None,
    relevant: RelevantOption = None,
    held_out: HeldOutOption = False,
    text: TextOption = None,
    expand: Annotated[
        int,
        typer.Option(metavar="N", help="Also measure queries expanded by N neighbors."),
    ] = SearchConfig.expand,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Also measure re-ranked hits.")
    ] = SearchConfig.rerank,
    sheet: SheetOption = None,
    json: JsonOption = False,
    csv: ClassesOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how well models find related pictures of yours.

    Each picture is a query for the others in its folder. The table shows recall, mAP, nDCG and
    MRR with their confidence; several models are compared on the same pictures.
    """
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.learning.evaluate import evaluate as measured

    if text is not None:
        if relevant is not None or held_out or expand or rerank or sheet is not None or csv:
            others = "--relevant, --held-out, --expand, --rerank, --sheet and --csv"
            raise UsageError(f"--text goes without {others}")
        _measure_texts(text, folder, model, store, config, json)
        return
    if csv and (json or relevant is not None):
        raise UsageError("--csv lists classes, and goes without --json and --relevant")
    with ProgressDisplay(notice) as on_progress:
        results = measured(
            folder,
            models=model,
            store=store,
            relevant=relevant,
            held_out=held_out,
            expand=expand,
            rerank=rerank,
            config=config,
            session=session_with_signals(),
            on_progress=on_progress,
        )
    _print(results, "json" if json else "csv" if csv else "table")
    if sheet is not None:
        write_rows(sheet, _worst(results[-1]))


def _print(results: Sequence[Evaluation], form: str) -> None:
    from embedsearch.cli.output.learning_text import class_csv, evaluation_lines
    from embedsearch.cli.output.text import exact_unless_shown, json_lines

    if form == "json":
        sys.stdout.write(json_lines(result.to_dict() for result in results))
    elif form == "csv":
        sys.stdout.write(exact_unless_shown(class_csv(results)))
    else:
        sys.stdout.write(evaluation_lines(results))


def _worst(result: Evaluation) -> list[SheetRow]:
    """Return the worst queries as rows of pictures."""
    return [
        SheetRow(w.full_path, f"AP {w.average_precision:.3f}", w.full_path, w.hits[:SHEET_HITS])
        for w in result.worst
    ]


def _measure_texts(
    text: Path,
    folder: str | None,
    models: list[str] | None,
    store: str | None,
    config: IndexConfig,
    json: bool,
) -> None:
    """Print how well captions find their pictures."""
    from embedsearch.cli.output.learning_text import text_evaluation_lines
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_lines
    from embedsearch.learning.evaluate_texts import evaluate_texts

    session = session_with_signals()
    with ProgressDisplay(notice) as on_progress:
        results = evaluate_texts(
            text,
            folder,
            models=models,
            store=store,
            config=config,
            session=session,
            on_progress=on_progress,
        )
    rows = (result.to_dict() for result in results)
    sys.stdout.write(json_lines(rows) if json else text_evaluation_lines(results))


WeightsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="model: start from its weights; none: from random ones.",
        rich_help_panel=LEARNING,
    ),
]
TargetsOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV with path and target columns, instead of folders.", rich_help_panel=LEARNING
    ),
]
ClassifyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Learn this column of classes. Repeatable.",
        rich_help_panel=LEARNING,
    ),
]
RegressOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Learn this column of numbers. Repeatable.",
        rich_help_panel=LEARNING,
    ),
]


@with_config(TrainConfig, TRAIN)
def train(
    config: TrainConfig,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Labeled pictures: one folder per class.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the model to this .safetensors file.")
    ],
    weights: WeightsOption = "model",
    targets: TargetsOption = None,
    classify: ClassifyOption = None,
    regress: RegressOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Teach a network what you mean by similar (transfer learning).

    It learns from pictures in one folder per class, or from columns of a CSV. An interrupted run
    goes on where it stopped: give the same command again.
    """
    from embedsearch.cli.output.learning_text import epoch_line, plan_lines, train_lines
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import json_line

    if weights not in ("model", "none"):
        raise UsageError(f"--weights must be model or none, not {weights!r}")
    config = replace(config, from_scratch=weights == "none")
    session = session_with_signals()
    try:
        from embedsearch.learning.train import train as run_training
    except (ImportError, OSError) as error:
        raise MissingLibrary(f"train needs torch, which cannot be loaded ({error})") from error
    with ProgressDisplay(notice) as on_progress:
        report = run_training(
            folder,
            out,
            targets=targets,
            classify=classify or (),
            regress=regress or (),
            config=config,
            session=session,
            on_plan=lambda plan: print(plan_lines(plan), end="", file=sys.stderr),
            on_epoch=lambda epoch: print(epoch_line(epoch), file=sys.stderr, flush=True),
            on_progress=on_progress,
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else train_lines(report))
