"""The progress of a run on stderr: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from embedsearch.cli.wording import SETUP_FIELDS, with_options

if TYPE_CHECKING:
    from embedsearch.core.records import Progress

LINE_EVERY_S = 10.0


class ProgressDisplay:
    """Call it with each Progress; use it as a context manager."""

    def __init__(self, notice: Callable[[str], None], unit: str = "images") -> None:
        self._notice = notice
        self._unit = unit
        self._shown_at = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress if an update is due."""
        if sys.stderr.isatty():
            self._draw(progress)
        elif time.monotonic() - self._shown_at >= LINE_EVERY_S:
            self._shown_at = time.monotonic()
            done = f"{progress.done} of {progress.total} {self._unit}"
            self._notice(f"{done}, {_rest(progress, self._unit)}")

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bar, TextColumn

            columns = (
                BarColumn(bar_width=20),
                TextColumn("{task.completed}/{task.total} {task.fields[text]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=progress.total, text="")
            self._bar.start()
        self._bar.update(
            self._task, completed=progress.done, text=f"{self._unit}  {_rest(progress, self._unit)}"
        )


def _rest(progress: Progress, unit: str) -> str:
    """Return speed, time left, failures and the note, separated by two spaces."""
    parts = [f"{progress.rate:.0f} {unit}/s"]
    if progress.rate and progress.done < progress.total:
        left_s = round((progress.total - progress.done) / progress.rate)
        parts.append(f"{timedelta(seconds=left_s)} left")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    note = with_options(progress.note, SETUP_FIELDS)
    return "  ".join([*parts, *filter(None, [note])])
