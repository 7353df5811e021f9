"""Records as text; in: hits, reports, failures, out: lines that are safe to show.

Tables escape characters of file names that could fool a terminal; what programs read is exact.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embedsearch.cli.wording import SETUP_FIELDS, input_words, with_options
from embedsearch.core.names import PATHS, path_fields, unicode_text
from embedsearch.core.paths import file_url, printable
from embedsearch.core.records import SIDECARS, Hit
from embedsearch.images.sources.passed_over import how_raw_is_read, where_archives_lie

if TYPE_CHECKING:  # a query does without indexing
    from embedsearch.exchange.pull import PullReport
    from embedsearch.indexing.bench import BenchReport
    from embedsearch.indexing.distributed.commit import CommitReport
    from embedsearch.indexing.distributed.run import UnitsReport
    from embedsearch.indexing.report import IndexReport, MetadataReport
    from embedsearch.indexing.roots import RootsReport
    from embedsearch.store.info import StoreFailure

HIT_COLUMNS = [
    *("query", "rank", "score", "percentile", "row", *PATHS),
    *("key", "width", "height", "metadata", "rank_score", "words_score", "matched"),
]


def json_line(values: Mapping[str, Any]) -> str:
    """Return one JSON object on one line, of values that `to_dict` gave."""
    return json.dumps(values, default=str, allow_nan=False)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one JSON object per line."""
    return "".join(json_line(row) + "\n" for row in rows)


def hit_values(query: str, hit: Hit) -> dict[str, Any]:
    """Return a hit with its query as JSON-ready values, in the order of HIT_COLUMNS."""
    return {"query": unicode_text(query), **hit.to_dict()}


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV lines, exactly: programs read them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue()


def exact_unless_shown(lines: str) -> str:
    """Return lines for programs as they are, and safe to look at where stdout is a terminal."""
    if not sys.stdout.isatty():
        return lines
    return "\n".join(map(printable, lines.split("\n")))


def hit_table(query: str, hits: Sequence[Hit], link_host: str | None = None) -> str:
    """Return the hits of one query as a table for a terminal.

    With `link_host`, the name of this machine, paths are links (escape sequence OSC 8).
    """
    if not hits:
        return f"{printable(query)}: no image matches\n"
    columns: dict[str, list[str]] = {"rank": [str(hit.rank) for hit in hits]}
    for name, scores in (
        ("score", [hit.score for hit in hits]),
        ("words", [hit.words_score for hit in hits]),
        ("rank score", [hit.rank_score for hit in hits]),
    ):
        if any(score is not None for score in scores):
            columns[name] = [_decimals(score) for score in scores]
    nearer = [hit.percentile for hit in hits]
    if any(one is not None for one in nearer):
        columns["nearer than"] = ["" if one is None else f"{one:.2f} %" for one in nearer]
    columns["size"] = [f"{hit.width} x {hit.height}" if hit.width else "" for hit in hits]
    right = range(len(columns))
    if "words" in columns:
        columns["matched"] = [", ".join(hit.matched) for hit in hits]
    columns["path"] = [from_here(hit.full_path) for hit in hits]
    lines = table([*columns], zip(*columns.values(), strict=True), right)
    if link_host is not None:
        first, *shown = lines.splitlines()
        linked = [
            _linked(line, hit.full_path, link_host) for line, hit in zip(shown, hits, strict=True)
        ]
        lines = "\n".join([first, *linked]) + "\n"
    return f"{printable(query)}\n{lines}"


def _cell(value: Any) -> Any:
    """Return a value as a cell of CSV."""
    if isinstance(value, dict):
        return json.dumps(value)
    return " ".join(value) if isinstance(value, list) else value


def _decimals(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _linked(line: str, path: str, host: str) -> str:
    """Return a line with the path at its end as a link."""
    shown = printable(from_here(path)).rstrip()
    return f"{line.removesuffix(shown)}\x1b]8;;{file_url(path, host)}\x1b\\{shown}\x1b]8;;\x1b\\"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return aligned columns with a header; `right` numbers the right-aligned ones."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
    lines = []
    for row in [list(header), *shown]:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def pull_lines(report: PullReport) -> str:
    """Return a PullReport as a line or two for a person."""
    lines = ["nothing new"]
    if report.files or report.generation != report.former:
        noun = "file" if report.files == 1 else "files"
        megabytes = f"{report.fetched_bytes / 1e6:,.1f} of {report.bytes / 1e6:,.1f} MB"
        lines = [f"{report.files} {noun} fetched, {megabytes}, in {report.elapsed_s:.1f} s"]
    lines.append(f"{report.store} holds generation {report.generation}: {report.images:,} images")
    return "\n".join(lines) + "\n"


def report_lines(report: IndexReport) -> str:
    """Return an IndexReport as a few lines for a person."""
    noun = "image" if report.found == 1 else "images"
    lines = [
        f"{report.found} {noun} found: {report.added} added, {report.changed} changed, "
        f"{report.moved} moved, {report.unchanged} unchanged, {report.failed} failed; "
        f"{report.deleted} deleted"
    ]
    if report.ignored.total:
        named = ", ".join(f"{count} {kind}" for kind, count in report.ignored.kinds().items())
        noun = "entry" if report.ignored.total == 1 else "entries"
        lines.append(f"{report.ignored.total} {noun} ignored: {named}")
    if report.ignored.archives:
        noun = "archive" if report.ignored.archives == 1 else "archives"
        lines.append(f"{report.ignored.archives} {noun}: {where_archives_lie(report.ignored)}")
    if report.ignored.raw:
        lines.append(f"{report.ignored.raw} RAW: {how_raw_is_read()}")
    if report.left_out:
        lines.append(f"{report.left_out} of the deleted are left out by --exclude or the defaults")
    if report.behind_links:
        lines.append(f"{report.behind_links} of the deleted are behind links: --no-follow-links")
    if report.scan_failures:
        lines.append(f"{report.scan_failures} folders, archives or names could not be listed")
    if report.dry_run:
        return "\n".join([*lines, "a dry run: nothing was done"]) + "\n"
    if report.embedded:
        rate = report.embedded / report.elapsed_s if report.elapsed_s else 0.0
        lines.append(
            f"{report.embedded} embedded with {report.model} on {report.device} "
            f"({report.precision}) in {report.elapsed_s:.1f} s, {rate:.0f} images/s"
        )
        lines.append(_stage_line(report))
    if report.metadata is not None:
        lines.append(_metadata_line(report.metadata))
    if report.failed:
        listed = f"embedsearch failures --store {report.store}"
        noun = "file" if report.failed == 1 else "files"
        lines.append(f"{report.failed} {noun} failed, listed by: {listed}")
    if report.over_limits:
        verb = "is" if report.over_limits == 1 else "are"
        lines.append(f"{report.over_limits} of them {verb} above --max-pixels or --max-bytes")
    verb = "committed generation" if report.committed else "nothing new; the store is at generation"
    where = printable(report.store)
    lines.append(f"{verb} {report.generation}: {report.images} images in {where}")
    return "\n".join(lines) + "\n"


def roots_line(report: RootsReport, new: str | None = None) -> str:
    """Return what happened to roots: forgotten, or now at `new`."""
    what = "forgotten" if new is None else f"now at {printable(new)}"
    names = ", ".join(map(printable, report.roots))
    return f"{names}: {report.images:,} images {what}; generation {report.generation}\n"


def units_line(report: UnitsReport) -> str:
    """Return the result of a share of the work, and the next step, as a line."""
    if not report.units:
        return "nothing to embed: the store is in sync with its folders\n"
    line = f"{report.ran} unit{'' if report.ran == 1 else 's'} done, {report.images} images"
    if report.failed:
        line += f", {report.failed} files failed"
    if report.missing:
        return f"{line}; {report.missing} of {report.units} units are left\n"
    return f"{line}; all {report.units} units are done: embedsearch commit --store {report.store}\n"


def commit_lines(report: CommitReport) -> str:
    """Return a CommitReport as two lines."""
    return (
        f"{report.units} units: {report.added} added, {report.changed} changed, "
        f"{report.failed} failed\n"
        f"committed generation {report.generation}: {report.images} images\n"
    )


def _metadata_line(table: MetadataReport) -> str:
    if table.source == SIDECARS:
        line = f"{table.matched} images have sidecars; {table.images} images have metadata"
        if table.unreadable:
            line += f"\n{table.unreadable} sidecars cannot be read: "
            line += _first_names(table.unreadable_names, table.unreadable)
        if table.unused:
            line += f"\n{_unused(table)}"
        return line
    line = (
        f"{table.matched} of {table.rows} rows of {printable(table.source)} name images; "
        f"{table.images} images have metadata"
    )
    if table.unmatched:
        line += f"\n{table.unmatched} rows name no image: "
        line += _first_names(table.unmatched_names, table.unmatched)
    if table.unmatched and not table.matched:
        line += "\npaths must be as `embedsearch query --csv` shows them in `path`, or whole"
    return line


def _unused(table: MetadataReport) -> str:
    """Return how many files of each suffix look like sidecars and are beside no image."""
    of_kind = [name.rpartition(".")[2].lower() for name in table.unused_names]
    kinds = " and ".join(f".{kind}" for kind in dict.fromkeys(of_kind))
    files, are = ("file", "is") if table.unused == 1 else ("files", "are")
    names = _first_names(table.unused_names, table.unused)
    return f"{table.unused} {kinds} {files} {are} beside no image: {names}"


def _first_names(names: Sequence[str], count: int) -> str:
    """Return the first of `count` names."""
    return ", ".join(map(printable, names[:5])) + (", …" if count > 5 else "")


def _stage_line(report: IndexReport) -> str:
    """Return the fraction of the time that each stage was busy, and what would help."""
    shown = sorted(report.stage_share.items(), key=lambda item: -item[1])
    parts = [f"{name} {_percent(share)}" for name, share in shown if share >= 0.005]
    slowest = _slowest(report, helps=report.elapsed_s >= _LONG_S)
    return f"{slowest} ({' · '.join(parts)})"


_LONG_S = 30.0  # nobody waits for a shorter run
_STAGES = {
    "load": "loading the network (one-time conversion for this CPU)",
    "tune": "choosing a search index (once the store has grown)",
}


def _slowest(report: IndexReport | BenchReport, *, helps: bool) -> str:
    """Return what holds the run back, and what would help, if that is worth it."""
    hint = f" → {with_options(report.advice, SETUP_FIELDS)}" if report.advice and helps else ""
    stage = report.slowest_stage
    if report.images_per_s_at_most and stage in {"read", "decode", "embed"}:
        return (
            f"{report.images_per_s:,.0f} of at most {report.images_per_s_at_most:,.0f} images/s; "
            f"the network takes {_percent(report.network_share)} of the processors{hint}"
        )
    return f"slowest stage: {_STAGES.get(stage, stage)}{hint}"


def bench_lines(report: BenchReport) -> str:
    """Return the speed of each stage alone and in the run, and which one to make faster."""
    failed = f", {report.failed} failed" if report.failed else ""
    passes = f" {report.passes} times" if report.passes > 1 else ""
    rows = [
        (name, f"{rate:,.0f}", _percent(report.stage_share.get(name)))
        for name, rate in report.rates.items()
    ]
    return (
        f"{report.images} of {report.found} images{passes}{failed}, "
        f"{report.megapixels:.1f} megapixels (median), "
        f"with {report.model} on {report.device} ({report.precision})\n"
        + (f"the network runs in {report.network}\n" if report.network else "")
        + table(("stage", "images/s alone", "busy in the run"), rows, right=(1, 2))
        + f"all together: {report.images_per_s:,.0f} images/s with {report.workers} decoding "
        f"process{'es' if report.workers > 1 else ''}; the network was ready after "
        f"{report.load_s:.1f} s\n"
        f"{_slowest(report, helps=True)}\n"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def model_lines(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the catalog as a table, with the licenses of its weights below."""
    rows = [
        (
            entry["name"] + (" (auto)" if entry["auto"] else ""),
            str(entry["dim"]),
            str(entry["input_side"]),
            f"{entry['megabytes']:.0f} MB",
            "yes" if entry["here"] else "download",
            entry["quality"],
        )
        for entry in entries
    ]
    header = ("name", "dims", "input px", "size", "here", "quality")
    terms: dict[str, list[str]] = {}
    inputs: dict[str, list[str]] = {}
    for entry in entries:
        terms.setdefault(entry["licence"], []).append(entry["name"])
        inputs.setdefault(input_words(entry), []).append(entry["name"])
    usual, *others = sorted(inputs, key=lambda words: -len(inputs[words]))
    notes = [f"pictures: {usual}", *(f"{', '.join(inputs[words])}: {words}" for words in others)]
    notes += [f"{', '.join(names)}: {licence}" for licence, names in terms.items()]
    return table(header, rows, right=(1, 2, 3)) + "\n" + "\n".join(notes) + "\n"


def failure_values(found: StoreFailure) -> dict[str, Any]:
    """Return a failure as JSON-ready values."""
    failure = found.failure
    return {
        **path_fields(failure.key, found.full_path),
        "key": unicode_text(failure.key),
        "stage": str(failure.stage),
        "reason": str(failure.reason),
        "detail": with_options(failure.detail, ("max_pixels", "max_bytes")),
    }


def from_here(path: str) -> str:
    """Return a path as one would type it: relative if it is below the current folder."""
    return path.removeprefix(os.getcwd().rstrip("/") + "/")


def watch_line(report: IndexReport) -> str:
    """Return what a run of a watch changed, on one line with the time of day."""
    names = ("added", "changed", "moved", "deleted", "failed")
    counts = [f"{getattr(report, name):,} {name}" for name in names if getattr(report, name)]
    changes = ", ".join(counts) or "columns changed"
    return f"{datetime.now():%H:%M:%S}  {changes}; {report.images:,} images\n"
