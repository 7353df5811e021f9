"""How a converted network runs fastest here; in: its folder, out: the settings that were measured.

Streams, batch and a static shape are tried once for a model, a precision and a number of
processors. What was measured is kept beside the network, also by a process that is killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.core.errors import MissingLibrary
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors
from embedsearch.network.converted import RUNTIME_NOTE, Known, compile_model, read_note, write_note
from embedsearch.network.feed import AUTOMATIC, Settings

BUDGET_S = 20.0  # of all measuring
_NOTE = "tuning.json"
_MEASURED_S = 0.4  # of a setting, and no less than two batches a stream
_BATCHES = (16, 32, 4, 1)  # tried after those of Settings
_GAIN = 1.03  # a setting must be that much faster than OpenVINO's own choice, or it is noise


def tuned_settings(folder: Path, precision: str) -> Settings:
    """Return the settings that were measured for these processors, else OpenVINO's own."""
    best = _kept(folder, precision).get("best")
    return Settings(**best) if best else AUTOMATIC


def best_rate(folder: Path, precision: str) -> float:
    """Return the images/s of a precision as it runs fastest, 0 where it was not measured."""
    kept = _kept(folder, precision)
    return max(kept["images_per_s"].values()) if kept.get("best") else 0.0


def tune(folder: Path, precision: str, known: Known, session: Session) -> None:
    """Measure the settings for these processors, unless that was done.

    Nothing is measured for a cache that cannot be written: each run would do it again. Raises
    Interrupted.
    """
    kept = _kept(folder, precision)
    if kept.get("best") or not os.access(folder, os.W_OK):
        return
    if read_note(folder / RUNTIME_NOTE).get("batch"):
        return  # it takes one picture at a time: there is nothing to choose
    session.notice("measuring how the network runs fastest here (once, 20 seconds at most)")
    rates: dict[str, float] = kept.get("images_per_s", {})
    until = time.monotonic() + BUDGET_S
    longest = 0.0

    def measure(settings: Settings) -> float:
        nonlocal longest
        session.check()
        begun = time.monotonic()
        found = _rate(folder, precision, known, settings, session)
        longest = max(longest, time.monotonic() - begun)
        return found

    def best_of(candidates: list[Settings]) -> Settings:
        for settings in candidates:
            if str(settings) not in rates and time.monotonic() + longest < until:
                rates[str(settings)] = round(measure(settings), 1)
                _keep(folder, precision, {"images_per_s": rates})  # a killed run goes on here
        return max(candidates, key=lambda settings: rates.get(str(settings), 0.0))

    processors = available_processors()
    counts = sorted({1, min(2, processors), processors})
    shapes = [Settings(streams, is_static=static) for streams in counts for static in (True, False)]
    best = best_of([AUTOMATIC, *shapes])
    fixed = best if best.streams else Settings(processors, is_static=True)
    best = best_of([best, *(replace(fixed, batch=batch) for batch in _BATCHES)])
    # What else runs here meanwhile must not decide: both once more, and the best against the worst.
    if best != AUTOMATIC and min(measure(best), rates[str(best)]) < _GAIN * max(
        measure(AUTOMATIC), rates[str(AUTOMATIC)]
    ):
        best = AUTOMATIC
    _keep(folder, precision, {"images_per_s": rates, "best": asdict(best)})


def _rate(
    folder: Path, precision: str, known: Known, settings: Settings, session: Session
) -> float:
    """Return the images/s of a setting, on all its streams, 0 where it cannot be compiled."""
    try:
        compiled = compile_model(folder, precision, known, settings, session, keep=False)
    except MissingLibrary:  # not in these settings, say for want of memory
        return 0.0
    if compiled is None:  # not in this precision: loading says so
        return 0.0
    lanes = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    side = compiled.input(0).partial_shape.get_min_shape()[1]
    pixels = np.zeros((settings.batch, side, side, 3), np.uint8)
    requests = [compiled.create_infer_request() for _ in range(lanes)]
    for request in requests:  # the first allocates; one after the other, as in the runtime
        request.infer(pixels, share_inputs=True)
    started = time.monotonic()

    def work(request: Any) -> int:
        done = 0
        while done < 2 or time.monotonic() - started < _MEASURED_S:
            request.infer(pixels, share_inputs=True)
            done += 1
        return done

    with ThreadPoolExecutor(lanes) as threads:
        batches = sum(threads.map(work, requests))
    return batches * settings.batch / (time.monotonic() - started)


def _kept(folder: Path, precision: str) -> dict[str, Any]:
    """Return what was measured for a precision and these processors."""
    kept: dict[str, Any] = read_note(folder / _NOTE).get(_name(precision), {})
    return kept


def _keep(folder: Path, precision: str, measured: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it is measured again
        write_note(folder / _NOTE, {**read_note(folder / _NOTE), _name(precision): measured})


def _name(precision: str) -> str:
    return f"{precision} on {available_processors()}"
