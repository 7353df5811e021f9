"""What `evaluate` and `train` print; in: their reports, out: lines."""

from __future__ import annotations

from collections.abc import Sequence

from embedsearch.cli.output.text import csv_lines, from_here, table
from embedsearch.core.paths import printable
from embedsearch.learning.reports import (
    Epoch,
    Evaluation,
    GroupMeasure,
    StagePlan,
    TextEvaluation,
    TrainReport,
)

CLASS_COLUMNS = ["model", "expand", "rerank", "name", "images", "recall@1", "mAP"]
_WORST_CLASSES = 5
_PERFECT = 0.9995  # is shown as 1.000


def evaluation_lines(results: Sequence[Evaluation]) -> str:
    """Return a table, a row per model and way to ask; how it depends on groups; the worst."""
    names = list(results[0].measures)
    gain = ["gain in mAP"] if len(results) > 1 else []
    header = ["model", "images", *names, *gain, "served", "images/s"]
    rows = [
        [
            _name(result),
            str(result.images),
            *(f"{result.measures[name].value:.3f}" for name in names),
            *([_gain(result)] if gain else []),
            f"{result.served_recall:.3f}",
            f"{result.images_per_s:.0f}" if result.images_per_s else "",
        ]
        for result in results
    ]
    last = results[-1]
    spread = max((e.high - e.low) / 2 for r in results for e in r.measures.values())
    lines = [
        f"{last.queries} queries, each one left out of what it looks for; 95 % confidence: "
        f"+-{spread:.3f} or less; center: {last.center}",
        f"worst queries of {printable(_name(last))}:",
        *(
            f"  {w.average_precision:.3f}  {printable(from_here(w.full_path))}"
            for w in last.worst[:5]
        ),
    ]
    if last.failed:
        lines.insert(0, f"{last.failed} pictures could not be read")
    shown = table(header, rows, right=range(1, len(header))) + _group_lines(results)
    return shown + _class_lines(last) + "\n".join(lines) + "\n"


def text_evaluation_lines(results: Sequence[TextEvaluation]) -> str:
    """Return a table, a row per model and ranking."""
    names = list(results[0].measures)
    header = ["model", "by", "images", "captions", *names]
    rows = [
        [
            *(result.model, result.by, f"{result.images:,}", f"{result.queries:,}"),
            *(f"{result.measures[name].value:.3f}" for name in names),
        ]
        for result in results
    ]
    spread = max((e.high - e.low) / 2 for r in results for e in r.measures.values())
    note = f"of the first 100 hits; 95 % confidence: +-{spread:.3f} or less\n"
    return table(header, rows, right=range(2, len(header))) + note


def _name(result: Evaluation) -> str:
    """Return the model and the options of query time."""
    expand = f" --expand {result.expand}" if result.expand else ""
    return result.model + expand + (" --rerank" if result.rerank else "")


def _gain(result: Evaluation) -> str:
    """Return the gain over the first row, and half of its confidence interval."""
    if (gain := result.gain) is None:
        return ""
    return f"{gain.value:+.3f} +-{(gain.high - gain.low) / 2:.3f}"


def _group_lines(results: Sequence[Evaluation]) -> str:
    """Return a table of mAP by how many images a query has to find, if that differs."""
    groups = {group.least: group for result in results for group in result.by_group}
    if len(groups) < 2:
        return ""
    columns = [groups[least] for least in sorted(groups)]
    rows = []
    for result in results:
        found = {group.least: f"{group.mean_ap.value:.3f}" for group in result.by_group}
        rows.append([_name(result), *(found.get(column.least, "") for column in columns)])
    rows.append(["queries", *(f"{column.queries:,}" for column in columns)])
    header = ["mAP by number of images to find", *map(_range, columns)]
    return table(header, rows, right=range(1, len(header)))


def _class_lines(result: Evaluation) -> str:
    """Return the classes of lowest mAP as a table, if one of several is not perfect."""
    measured = [(one.mean_ap, one) for one in result.classes if one.mean_ap is not None]
    lacking = [pair for pair in measured if pair[0] < _PERFECT]
    if len(measured) < 2 or not lacking:
        return ""
    worst = sorted(lacking, key=lambda pair: pair[0])[:_WORST_CLASSES]
    rows = [
        [one.name, f"{one.images:,}", f"{one.recall_1 or 0.0:.3f}", f"{mean_ap:.3f}"]
        for mean_ap, one in worst
    ]
    header = [f"worst of {len(result.classes)} classes", "images", "recall@1", "mAP"]
    return table(header, rows, right=(1, 2, 3))


def class_csv(results: Sequence[Evaluation]) -> str:
    """Return the measures of every class as CSV with a header, for each row of the table."""
    rows = (
        {
            **{"model": result.model, "expand": result.expand, "rerank": result.rerank},
            **one.to_dict(),
        }
        for result in results
        for one in result.classes
    )
    return ",".join(CLASS_COLUMNS) + "\n" + csv_lines(rows)


def _range(group: GroupMeasure) -> str:
    if group.most is None:
        return f"{group.least} or more"
    return str(group.least) if group.most == group.least else f"{group.least} to {group.most}"


def plan_lines(plan: Sequence[StagePlan]) -> str:
    """Return which stages learn, from which epoch and how fast."""
    rows = [
        [
            stage.name,
            f"{stage.parameters:,}",
            "frozen" if stage.first_epoch is None else f"from epoch {stage.first_epoch}",
            "" if stage.first_epoch is None else f"{stage.lr:.2g}",
        ]
        for stage in plan
    ]
    total = sum(stage.parameters for stage in plan)
    learning = sum(stage.parameters for stage in plan if stage.first_epoch is not None)
    shown = table(("stage", "parameters", "learns", "rate"), rows, right=(1,))
    return f"{shown}  {learning:,} of {total:,} parameters learn in the end\n"


def epoch_line(epoch: Epoch) -> str:
    """Return the results of one epoch."""
    return (
        f"epoch {epoch.number:>3}  loss {epoch.loss:.3f}  {printable(epoch.quality.words)}  "
        f"{epoch.images_per_s:.0f} images/s"
    )


def train_lines(report: TrainReport) -> str:
    """Return the results of a training."""
    out = printable(report.out)
    return (
        f"{report.images} pictures learned from, {report.held_out} held out, "
        f"{report.failed} failed; {report.elapsed_s:.0f} s on {report.device} "
        f"({report.precision})\n"
        f"before  {printable(report.before.words)}\n"
        f"after   {printable(report.after.words)}  (epoch {report.best_epoch})\n"
        f"written to {out}: embedsearch index FOLDER --model {out}\n"
    )
