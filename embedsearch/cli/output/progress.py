"""What a long run does, on stderr: a bar on a terminal, else a line every ten seconds.

What is over within a second is not shown.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from embedsearch.cli.wording import SETUP_FIELDS, with_options

if TYPE_CHECKING:
    from embedsearch.core.records import Progress

LINE_EVERY_S = 10.0
_FIRST_S = 1.0  # on a terminal
_BAR = 20  # characters


@dataclass(frozen=True)
class _State:
    """What is done now: parts of a line, the most important ones first; total 0 is unknown."""

    done: int
    total: int
    parts: tuple[str, ...]


class ProgressDisplay:
    """Tell it what is done; use it as a context manager."""

    def __init__(self, notice: Callable[[str], None], unit: str = "images") -> None:
        self._notice = notice
        self._unit = unit
        self._state: _State | None = None
        self._is_over = threading.Event()
        self._bar: Any = None
        self._task: Any = None
        shown = self._draw_soon if sys.stderr.isatty() else self._write_lines
        self._thread = threading.Thread(target=shown, name="embedsearch-progress", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Tell how many images are done."""
        parts = (
            f"{progress.done:,} of {progress.total:,} {self._unit}",
            *_rest(progress, self._unit),
        )
        self._tell(_State(progress.done, progress.total, parts))

    def step(self, name: str, done: int, total: int) -> None:
        """Tell what is done where no speed is known: `reading the store`, 200 of 1000."""
        counts = (f"{done:,} of {total:,}",) if total else ()
        self._tell(_State(done, total, (name, *counts)))

    def _tell(self, state: _State) -> None:
        self._state = state
        if self._bar is not None:
            self._update(state)

    def _write_lines(self) -> None:
        """Write a line every ten seconds."""
        while not self._is_over.wait(LINE_EVERY_S):
            if self._state is not None:
                self._notice(", ".join(self._state.parts))

    def _draw_soon(self) -> None:
        """Draw a bar, which refreshes itself, unless all is over before."""
        if self._is_over.wait(_FIRST_S):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress as Bar, TextColumn

        columns = (BarColumn(bar_width=_BAR), TextColumn("{task.fields[text]}", markup=False))
        bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._task = bar.add_task("", total=None, text="")
        bar.start()
        self._bar = bar
        if self._state is not None:
            self._update(self._state)

    def _update(self, state: _State) -> None:
        text = fitting(state.parts, self._bar.console.width - _BAR - 2)
        self._bar.update(self._task, completed=state.done, total=state.total or None, text=text)


def fitting(parts: Sequence[str], width: int) -> str:
    """Return the parts that fit into a width, each whole; the first one always."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


def _rest(progress: Progress, unit: str) -> list[str]:
    """Return speed, time left, failures, the stages and what would help."""
    parts = [f"{progress.rate:.0f} {unit}/s"]
    if progress.rate and progress.done < progress.total:
        left_s = round((progress.total - progress.done) / progress.rate)
        parts.append(f"{timedelta(seconds=left_s)} left")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    stages, arrow, hint = with_options(progress.note, SETUP_FIELDS).partition(" → ")
    if stages:
        parts.append(stages)
    if hint:
        parts.append(f"{arrow.strip()} {hint}")
    return parts
