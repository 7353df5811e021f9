"""How far a run is, on stderr: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedsearch.records import Progress

LINE_EVERY_S = 10.0


class ProgressDisplay:
    """Call it with each Progress; use it as a context manager."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._said_at = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress, if it is time to."""
        if sys.stderr.isatty():
            self._draw(progress)
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            self._notice(
                f"{progress.done} of {progress.total} images, {progress.rate:.0f} images/s, "
                f"{progress.note or f'{progress.failed} failed'}"
            )

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(),
                TextColumn("{task.completed}/{task.total} images  {task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=progress.total, rate="")
            self._bar.start()
        rate = f"{progress.rate:.0f} images/s  {progress.note}"
        self._bar.update(self._task, completed=progress.done, rate=rate)
