"""`embedsearch evaluate` and `embedsearch train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    FlipOption,
    InputSideOption,
    JsonOption,
    PrecisionOption,
    StoreOption,
    VerboseOption,
    notice,
    session_with_signals,
)
from embedsearch.cli.sheet import SheetRow, write_rows
from embedsearch.core.config import FREEZABLE, LOSSES, IndexConfig, SearchConfig, TrainConfig
from embedsearch.core.errors import MissingLibrary, UsageError

SHEET_HITS = 6  # beside each of the worst queries: one line


def evaluate(
    folder: Annotated[
        str | None, typer.Argument(help="Pictures, one folder a class; without, a store's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Several are compared.  [default: auto]")
    ] = None,
    store: StoreOption = None,
    relevant: Annotated[
        Path | None,
        typer.Option(help="CSV of two columns, query and relevant, in place of classes."),
    ] = None,
    expand: Annotated[
        int, typer.Option(help="Measure queries expanded by so many neighbours, too.")
    ] = SearchConfig.expand,
    input_side: InputSideOption = IndexConfig.input_side,
    flip: FlipOption = IndexConfig.flip,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the worst queries of the last model to this PNG.")
    ] = None,
    device: DeviceOption = IndexConfig.device,
    precision: PrecisionOption = IndexConfig.precision,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how well models find what belongs together, on labelled pictures."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import evaluation_lines, json_line
    from embedsearch.learning.evaluate import evaluate as measured

    config = IndexConfig(device=device, precision=precision, input_side=input_side, flip=flip)
    with ProgressDisplay(notice) as on_progress:
        results = measured(
            folder,
            models=model,
            store=store,
            relevant=relevant,
            expand=expand,
            config=config,
            session=session_with_signals(),
            on_progress=on_progress,
        )
    if json:
        sys.stdout.writelines(json_line(result.to_dict()) + "\n" for result in results)
    else:
        sys.stdout.write(evaluation_lines(results))
    if sheet is not None:
        worst = results[-1].worst
        write_rows(
            sheet,
            [
                SheetRow(w.path, f"AP {w.average_precision:.3f}", w.path, w.hits[:SHEET_HITS])
                for w in worst
            ],
        )


def train(
    folder: Annotated[str, typer.Argument(help="Labelled pictures: one folder a class.")],
    out: Annotated[Path, typer.Option(help="Where to write the model, a .safetensors file.")],
    model: Annotated[
        str, typer.Option(help="Where to start: a name from `embedsearch models`, or a file.")
    ] = TrainConfig.model,
    weights: Annotated[
        str, typer.Option(help="model: its own; none: random, only its architecture is taken.")
    ] = "model",
    targets: Annotated[
        Path | None, typer.Option(help="CSV of path and targets, in place of class folders.")
    ] = None,
    classify: Annotated[
        list[str] | None, typer.Option(help="A column of classes; may be given again.")
    ] = None,
    regress: Annotated[
        list[str] | None, typer.Option(help="A column of numbers; may be given again.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = TrainConfig.epochs,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = TrainConfig.batch,
    lr: Annotated[
        float, typer.Option(help="Learning rate of the heads; with few pictures, stages have less.")
    ] = TrainConfig.lr,
    loss: Annotated[
        str, typer.Option(help=f"Of classes: {' or '.join(LOSSES)}.")
    ] = TrainConfig.loss,
    margin: Annotated[
        float, typer.Option(help="Of proxies: how much nearer, as a cosine, its own has to be.")
    ] = TrainConfig.margin,
    label_smoothing: Annotated[
        float, typer.Option(help="Of classes.")
    ] = TrainConfig.label_smoothing,
    frozen: Annotated[
        str | None, typer.Option(help=f"Keep this stage and all before: {', '.join(FREEZABLE)}.")
    ] = TrainConfig.frozen,
    holdout: Annotated[
        float, typer.Option(help="Share of each class to measure on.")
    ] = TrainConfig.holdout,
    input_side: InputSideOption = TrainConfig.input_side,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = TrainConfig.seed,
    device: DeviceOption = TrainConfig.device,
    precision: PrecisionOption = TrainConfig.precision,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a model better on labelled pictures: transfer learning. Runs go on after a break."""
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import epoch_line, json_line, plan_lines, train_lines

    if weights not in ("model", "none"):
        raise UsageError(f"--weights is model or none, not {weights!r}")
    config = TrainConfig(
        model=model,
        from_scratch=weights == "none",
        input_side=input_side,
        epochs=epochs,
        batch=batch,
        lr=lr,
        loss=loss,
        margin=margin,
        label_smoothing=label_smoothing,
        frozen=frozen,
        holdout=holdout,
        seed=seed,
        device=device,
        precision=precision,
    )
    session = session_with_signals()
    try:
        from embedsearch.learning.train import train as run_training
    except (ImportError, OSError) as error:
        raise MissingLibrary(f"train needs torch, which does not load ({error})") from error
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
