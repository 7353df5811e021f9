"""Two writers at once, holders that die or stop, and runs that get a signal.

In: nothing; out: how often exactly one got the lock, and how the runs ended.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from embedsearch.core.errors import StoreLocked
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Child, Ended, forked
from tests.soak.scenes import Work, finished, indexing
from tests.soak.witness import examine
from tests.support.library import REPOSITORY, paint

_PAIRS = 50
_SIGNALS = 100
_IMAGES = 120
_PHOTOS = 2_000  # some seconds of work, so that a run that does not hear is late
# What `python -m embedsearch` does, with a defect in it where one is asked for.
_COMMAND = """
import sys
mutant = sys.argv.pop(1)
if mutant:
    from tests.soak import mutants
    mutants.apply(mutant)
from embedsearch.cli import main
main()
"""


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Start pairs of writers together; then kill a holder, and stop one."""
    photos = folder / "photos"
    for seed in range(_IMAGES):
        paint(photos / f"{seed:03d}.png", seed)
    work = indexing(photos, checkpoint_images=10)
    whole = finished(work, folder / "whole.es").rows
    for number in range(trial.count(_PAIRS)):
        _pair(finding, folder / "pair.es", work, trial.mutant, number)
        account = forked(lambda report: examine(folder / "pair.es")).value
        if account is None or account.rows != whole:
            finding.accuse(f"pair {number}: the store is not what one writer makes")
    _holders(finding, folder / "held.es", work, trial.mutant)


def _at(start: float, work: Work, store: Path, mutant: str | None) -> None:
    """In a child: work from a moment on."""
    mutants.apply(mutant)
    while time.monotonic() < start:
        pass
    work(store)


def _pair(finding: Finding, store: Path, work: Work, mutant: str | None, number: int) -> None:
    """Start two writers of one store at the same moment."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.monotonic() + 0.05
    pair = [Child(lambda report: _at(start, work, store, mutant)) for _ in range(2)]
    _judge_pair(finding, [child.join() for child in pair], number)
    finding.count("pairs")


def _judge_pair(finding: Finding, ended: list[Ended], number: int) -> None:
    """One is done; the other was told of it, or came so late that it found all done."""
    done = [e for e in ended if not e.has_failed]
    locked = [e for e in ended if isinstance(e.error, StoreLocked)]
    finding.count("told of the other writer", len(locked))
    if len(done) + len(locked) != 2 or not done:
        finding.accuse(f"pair {number}: {[e.words for e in ended]}")


def _holders(finding: Finding, store: Path, work: Work, mutant: str | None) -> None:
    """A holder that is dead holds nothing; one that is stopped still does."""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        shutil.rmtree(store, ignore_errors=True)
        holder = Child(lambda report: _at(0, work, store, mutant))
        while not (store / "CURRENT").exists():
            time.sleep(0.001)
        holder.kill(number)
        if number is signal.SIGKILL:
            holder.join()
        second = forked(lambda report: _at(0, work, store, mutant))
        is_told = isinstance(second.error, StoreLocked)
        if is_told != (number is signal.SIGSTOP):
            finding.accuse(f"the holder got {number.name}, the second: {second.words}")
        finding.count(f"holders given {number.name}")
        if number is signal.SIGSTOP:
            holder.kill(signal.SIGCONT)
            ended = holder.join()
            if ended.has_failed:
                finding.accuse(f"the holder, woken: {ended.words}")


def run_signals(trial: Trial, finding: Finding, folder: Path) -> None:
    """Send SIGINT or SIGTERM to the command line at random moments, with the real network."""
    rng = trial.random()
    # A shell starts what it puts into the background with SIGINT ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for seed in range(_PHOTOS):
        paint(folder / "photos" / f"{seed}.jpg", seed, size=(320, 240))
    store = folder / "s.es"
    _command(folder, store, None).communicate()  # the network is converted once
    for attempt in range(trial.count(_SIGNALS)):
        if attempt == 0 or rng.random() < 0.3:
            shutil.rmtree(store, ignore_errors=True)
        for seed in rng.sample(range(_PHOTOS), 200):
            paint(folder / "photos" / f"{seed}.jpg", rng.randrange(10**6), size=(320, 240))
        process = _command(folder, store, trial.mutant)
        time.sleep(rng.uniform(0.02, 1.5))
        number = rng.choice((signal.SIGINT, signal.SIGTERM))
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=60)
        seconds = time.monotonic() - sent
        _judge_signal(finding, process.returncode, number, seconds, errors, store, attempt)


def _command(folder: Path, store: Path, mutant: str | None) -> subprocess.Popen[str]:
    arguments = ["index", str(folder / "photos"), "--store", str(store), "--model", "packaged"]
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, mutant or "", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _judge_signal(
    finding: Finding,
    code: int,
    number: signal.Signals,
    seconds: float,
    errors: str,
    store: Path,
    attempt: int,
) -> None:
    where = f"{number.name} {attempt}"
    finding.count("signals")
    finding.count("runs that were done before", code == 0)
    slowest = "slowest end, milliseconds"
    finding.figures[slowest] = max(finding.figures[slowest], round(1000 * seconds))
    # Before Python has set its handlers a signal ends it as it ends any program.
    if code not in {0, 128 + number, -number}:
        finding.accuse(f"{where}: exit code {code}: {errors[-300:]}")
    # What hears a signal ends soon; what goes on to its end for seconds has not heard it.
    if seconds > (2 if code == 0 else 5):
        finding.accuse(f"{where}: it took {seconds:.1f} s to end, with exit code {code}")
    if "Traceback" in errors and "embedsearch" in errors.partition("Traceback")[2]:
        finding.accuse(f"{where}: {errors[-600:]}")
    if (store / "CURRENT").exists():
        ended = forked(lambda report: _is_whole(store))
        if ended.has_failed or ended.value:
            finding.accuse(f"{where}: {ended.words} {ended.value}")


def _is_whole(store: Path) -> list[str]:
    read_current(store)
    return [problem.message for problem in check_store(store, read_data=True)[1]]
