"""`python -m tests.soak NAME [--seed N] [--share X] [--mutant NAME]`: one harness, as one line."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.soak import (
    attackers,
    belongings,
    clocks,
    containers,
    damage,
    faults,
    growth,
    kills,
    lines,
    machine,
    oddities,
    pictures,
    power,
    readers,
    requests,
    scripts,
    writers,
)
from tests.soak.finding import Caught, Finding, Trial
from tests.soak.mutants import MUTANTS

# What `make soak` runs, in this order: the last ones take longest.
HARNESSES: dict[str, Callable[[Trial, Finding, Path], None]] = {
    "pictures": pictures.run,
    "deadly-pictures": pictures.run_deadly,
    "requests": requests.run,
    "attackers": attackers.run,
    "tool-calls": lines.run,
    "containers": containers.run,
    "readers": readers.run,
    "writers": writers.run,
    "scripts": scripts.run,
    "odd-files": oddities.run,
    "clocks": clocks.run,
    "belongings": belongings.run,
    "damage": damage.run,
    "kills": kills.run,
    "random-kills": kills.run_random,
    "signals": writers.run_signals,
    "power-cuts": power.run,
    "full-disks": faults.run_full,
    "sequences": machine.run,
    "growth": growth.run,
    "forged": damage.run_behind,
    "faults": faults.run,
}


def main() -> int:
    """Run a harness; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.soak")
    parser.add_argument("harness", choices=sorted(HARNESSES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--scenes", nargs="*", default=())
    arguments = parser.parse_args()
    started = time.monotonic()
    trial = Trial(arguments.seed, arguments.share, arguments.mutant, tuple(arguments.scenes))
    finding = Finding(first_is_enough=trial.mutant is not None)
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else None
    try:
        with tempfile.TemporaryDirectory(prefix="embedsearch-soak-", dir=parent) as folder:
            HARNESSES[arguments.harness](trial, finding, Path(folder))
    except Caught as caught:
        print(f"{arguments.mutant} was caught: {caught}", file=sys.stderr)
        return 1
    for words in finding.broken[:20]:
        print(words, file=sys.stderr)
    facts = {
        "harness": arguments.harness,
        **vars(trial),
        "seconds": round(time.monotonic() - started, 1),
        "figures": dict(finding.figures),
        "broken": len(finding.broken),
    }
    print(json.dumps(facts))
    return 1 if finding.broken else 0


if __name__ == "__main__":
    sys.exit(main())
