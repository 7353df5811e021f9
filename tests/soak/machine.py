"""Any order of events against a dictionary: files, runs, kills, queries, damages, repairs.

In: a seed; out: sequences of steps after each of which the store was what the dictionary says.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from embedsearch.indexing.repair import repair
from embedsearch.store.writer import StoreWriter
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Child, Ended, forked
from tests.soak.scenes import indexing
from tests.soak.witness import Account, examine
from tests.support.library import paint

_RUNS = 500
_STEPS = 50
_NAMES = ("a.png", "b.png", "d/a.png", "d/c.png", "e-f.png", "e/f.png", "ä\udcff.png")
_ALWAYS = "always.png"


class StoreMachine(RuleBasedStateMachine):
    """Files and what was indexed of them: name to seed, below 0 for a broken file."""

    finding: ClassVar[Finding]
    mutant: ClassVar[str | None]
    workshop: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=self.workshop))
        self.folder, self.store = self.base / "photos", self.base / "s.es"
        self.clock = 10**18
        self.content: dict[str, int] = {}
        self.indexed: dict[str, int] | None = None
        self.vectors: dict[int, bytes] = {}
        self._write(_ALWAYS, 0)
        self.finding.count("sequences")

    def teardown(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.base)

    def _write(self, name: str, seed: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if seed < 0:
            path.write_bytes(b"broken %d" % seed)
        else:
            paint(path, seed)
        self._stamp(name)
        self.content[name] = seed

    def _stamp(self, name: str) -> None:
        self.clock += 10**9  # a file system's clock may be coarse; two writes differ in time
        os.utime(self.folder / name, ns=(self.clock, self.clock))

    def _do(self, work: Callable[[], Any]) -> Ended:
        def in_child(report: object) -> Any:
            mutants.apply(self.mutant)
            return work()

        self.finding.count("steps")
        return forked(in_child)

    names = st.sampled_from(_NAMES)

    @rule(name=names, seed=st.integers(-2, 6))
    def write(self, name: str, seed: int) -> None:
        """A file comes or changes."""
        self._write(name, seed)

    @rule(name=names)
    def delete(self, name: str) -> None:
        """A file goes."""
        if self.content.pop(name, None) is not None:
            (self.folder / name).unlink()

    @rule(old=names, new=names)
    def rename(self, old: str, new: str) -> None:
        """A file moves."""
        if old in self.content and new not in self.content:
            (self.folder / new).parent.mkdir(exist_ok=True)
            (self.folder / old).rename(self.folder / new)
            self.content[new] = self.content.pop(old)

    @rule(name=names)
    def touch(self, name: str) -> None:
        """A file gets another time, and keeps its bytes."""
        if name in self.content:
            self._stamp(name)

    @rule()
    def index(self) -> None:
        """A run from start to end."""
        ended = self._do(lambda: indexing(self.folder, checkpoint_images=2)(self.store))
        report = ended.result()
        counted = report.found, report.failed
        assert counted == (len(self.content), sum(seed < 0 for seed in self.content.values()))
        self.indexed = dict(self.content)
        self._compare()

    @rule(share=st.floats(0, 1))
    def killed_index(self, share: float) -> None:
        """A run that is killed on its way: old and new rows, nothing else."""
        self.finding.count("steps")
        child = Child(lambda report: self._killed_work())
        time.sleep(0.3 * share)
        child.kill()
        child.join()
        account = self._examined()
        if account is None:
            assert self.indexed is None, "nothing is left of what was committed"
            return
        old = self.indexed or {}
        for (_, key), row in account.rows.items():
            name = os.fsdecode(key)
            seeds = {old.get(name), self.content.get(name)} - {None}
            known = {self.vectors.get(seed, row.vector) for seed in seeds if seed is not None}
            assert row.vector in known, f"{name} has a row of neither"
        kept = {n for n, seed in old.items() if seed >= 0 and self.content.get(n) == seed}
        assert kept <= {os.fsdecode(key) for _, key in account.rows}, "a committed row was lost"
        self.index()  # what was half done is not in the dictionary

    def _killed_work(self) -> None:
        mutants.apply(self.mutant)
        indexing(self.folder, checkpoint_images=2)(self.store)

    @rule()
    def sweep(self) -> None:
        """A writer opens the store, sweeps, and leaves."""
        if self.indexed is not None:
            self._do(self._open_writer).result()
            self._compare()

    def _open_writer(self) -> None:
        with StoreWriter(self.store):
            pass

    @rule(seed=st.integers(0, 1000))
    def damage_and_repair(self, seed: int) -> None:
        """A FAISS file or CURRENT is damaged, and mended."""
        if self.indexed is None:
            return
        rng = random.Random(seed)
        path = rng.choice([self.store / "CURRENT", *sorted(self.store.glob("ann/*"))])
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[: rng.randrange(60)])
        self._do(lambda: repair(self.store)).result()
        self._compare()

    @rule()
    def query(self) -> None:
        """The store is read by the witness and asked: both agree."""
        if self.indexed is not None:
            self._compare()

    def _examined(self) -> Account | None:
        account: Account | None = self._do(lambda: examine(self.store)).result()
        return account

    def _compare(self) -> None:
        assert self.indexed is not None
        account = self._examined()
        assert account is not None, "nothing is left"
        good = {os.fsencode(name): seed for name, seed in self.indexed.items() if seed >= 0}
        rows = {key: row.vector for (_, key), row in account.rows.items()}
        assert rows.keys() == good.keys(), f"{sorted(rows)} are there, {sorted(good)} should be"
        assert account.failed == {os.fsencode(n) for n, seed in self.indexed.items() if seed < 0}
        for key, seed in good.items():
            assert self.vectors.setdefault(seed, rows[key]) == rows[key], f"{key!r}: other vector"


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Run `share` of the sequences."""
    StoreMachine.finding, StoreMachine.mutant = finding, trial.mutant
    StoreMachine.workshop = folder
    run_machine(StoreMachine, trial, finding, _RUNS, _STEPS if trial.share == 1 else 20)


def run_machine(
    kind: type[RuleBasedStateMachine], trial: Trial, finding: Finding, sequences: int, steps: int
) -> None:
    """Run `share` of the sequences of a machine, each of up to so many steps."""
    machine = hypothesis.seed(trial.seed)(kind)
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=trial.count(sequences),
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=(Phase.generate,),  # a shorter sequence takes hours to find
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        steps_done = getattr(error, "__notes__", "")
        finding.accuse(f"{place.lineno} {type(error).__name__}: {error} {steps_done}")
