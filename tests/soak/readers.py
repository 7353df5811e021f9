"""Readers while generations are committed: whole ones only, never an older one again.

Every vector of generation g points to the same place on a circle, so that a score says which
generation a hit is of. In: nothing; out: answers, and those that were mixed or late.
"""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import embedsearch
from embedsearch.core.model_spec import ModelSpec
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import StoreWriter
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Child, Ended, Report, forked
from tests.soak.scenes import indexing
from tests.support.library import paint

_IMAGES = 30
_COMMITS = 50
_READERS = 8
_PAUSE_S = 0.05  # of a reader, between two answers
_COMMIT_EVERY_S = 1.2
_STEP = math.pi / 300  # of the circle, a generation


@dataclass(frozen=True)
class _Answer:
    """What a reader got: when it asked, when it had it, and which mark each hit bore."""

    start: float
    end: float
    generation: int
    marks: tuple[int, ...]


class _Marking:
    """A stand-in for the network: one vector for all pictures of a run."""

    device, precision, lanes = "cpu", "fp32", 1

    def __init__(self, spec: ModelSpec, mark: int) -> None:
        self._vector = np.zeros(spec.dim, np.float32)
        self._vector[:2] = math.cos(mark * _STEP), math.sin(mark * _STEP)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.tile(self._vector, (len(pixels), 1))


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Let readers ask while a writer commits, and one sleep through some of it."""
    photos, store = folder / "photos", folder / "s.es"
    _index(photos, store, 0)
    commits = max(6, trial.count(_COMMITS))
    quiet: list[_Answer] = forked(lambda report: _read(store, 1.0)).result()
    sleeper = Child(lambda report: _sleep_through(store))
    time.sleep(0.5)
    sleeper.kill(signal.SIGSTOP)
    readers = [Child(lambda report: _read(store)) for _ in range(max(2, trial.count(_READERS)))]
    writer = Child(lambda report: _write(photos, store, commits, trial.mutant, report))
    written = writer.join(commits * 20)
    (folder / "over").touch()
    sleeper.kill(signal.SIGCONT)
    answers = [reader.join() for reader in readers]
    if written.has_failed:
        finding.accuse(f"the writer: {written.words} {written.trace}")
    for number, ended in enumerate(answers):
        _judge(finding, ended, written.reports, f"reader {number}")
    slept = sleeper.join()
    finding.count("answers over a sleep", len(slept.value or ()))
    if slept.has_failed or len(set(slept.value)) != 1:
        finding.accuse(f"the reader that slept: {slept.words} {slept.trace} {slept.value}")
    finding.count("commits", len(written.reports))
    _compare(finding, quiet, [answer for ended in answers for answer in ended.value or ()])


def _index(photos: Path, store: Path, mark: int) -> None:
    """Change every picture and index them, all in one commit."""
    for number in range(_IMAGES):
        path = paint(photos / f"{number}.png", 1000 * mark + number)
        os.utime(path, ns=(10**18 + mark * 10**9, 10**18 + mark * 10**9))
    marking = indexing(
        photos, checkpoint_images=10_000, extractor_factory=lambda spec, *_: _Marking(spec, mark)
    )
    marking(store)


def _write(photos: Path, store: Path, commits: int, mutant: str | None, report: Report) -> None:
    """In a child: commit marked generations; report (time before, time after, mark)."""
    commit = StoreWriter.commit
    mutants.apply(mutant)
    for mark in range(1, commits + 1):
        started = time.monotonic()

        def timed(writer: StoreWriter, manifest: Manifest, mark: int = mark) -> None:
            before = time.monotonic()
            commit(writer, manifest)
            report((before, time.monotonic(), mark))

        mutants.put("embedsearch.store.writer.StoreWriter.commit", timed)
        _index(photos, store, mark)
        time.sleep(max(0.0, started + _COMMIT_EVERY_S - time.monotonic()))


def _ask(searcher: Any) -> tuple[int, ...]:
    query = np.zeros(512, np.float32)
    query[0] = 1.0
    hits = searcher.query(query, k=_IMAGES)
    return tuple(round(math.acos(min(1.0, hit.score)) / _STEP) for hit in hits)


def _read(store: Path, seconds: float = math.inf) -> list[_Answer]:
    """In a child: open, ask and close, over and over."""
    answers = []
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (store.parent / "over").exists():
        start = time.monotonic()
        with embedsearch.open_store(store) as searcher:
            marks = _ask(searcher)
            answers.append(_Answer(start, time.monotonic(), searcher.manifest.generation, marks))
        time.sleep(_PAUSE_S)
    return answers


def _sleep_through(store: Path) -> list[tuple[int, ...]]:
    """In a child: answer from one generation, however many are committed meanwhile."""
    answers = []
    with embedsearch.open_store(store) as searcher:
        while not (store.parent / "over").exists():
            answers.append(_ask(searcher))
            time.sleep(_PAUSE_S)
        answers += [_ask(searcher) for _ in range(10)]
    return answers


def _judge(
    finding: Finding, ended: Ended, commits: list[tuple[float, float, int]], who: str
) -> None:
    if ended.has_failed:
        finding.accuse(f"{who}: {ended.words} {ended.trace}")
        return
    last = -1
    for answer in ended.value:
        finding.count("answers")
        mark = answer.marks[0] if answer.marks else -1
        if len(answer.marks) != _IMAGES or set(answer.marks) != {mark}:
            finding.accuse(f"{who}: generation {answer.generation} is mixed: {answer.marks}")
        if answer.generation < last:
            finding.accuse(f"{who} went back from generation {last} to {answer.generation}")
        last = answer.generation
        least = max((m for _, end, m in commits if end <= answer.start), default=0)
        most = max((m for start, _, m in commits if start <= answer.end), default=0)
        if not least <= mark <= most:
            finding.accuse(f"{who}: {mark} was read where {least} to {most} were committed")


def _compare(finding: Finding, quiet: list[_Answer], busy: list[_Answer]) -> None:
    for name, answers in (("quiet", quiet), ("during commits", busy)):
        seconds = [answer.end - answer.start for answer in answers]
        if seconds:
            value = round(1e6 * float(np.percentile(seconds, 99)))
            finding.count(f"99 % of open-and-ask within, {name}, microseconds", value)
