"""`python -m tests.soak NAME [--seed N] [--share X] [--mutant NAME]`: one harness, as one line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from tests.soak import (
    clocks,
    damage,
    faults,
    growth,
    kills,
    machine,
    pictures,
    power,
    readers,
    writers,
)
from tests.soak.finding import Caught, Finding, Trial
from tests.soak.mutants import MUTANTS, PICTURE_MUTANTS

HARNESSES: dict[str, Callable[[Trial], Finding]] = {
    "kills": kills.run,
    "random-kills": kills.run_random,
    "faults": faults.run,
    "full-disks": faults.run_full,
    "power-cuts": power.run,
    "damage": damage.run,
    "forged": damage.run_behind,
    "pictures": pictures.run,
    "deadly-pictures": pictures.run_deadly,
    "readers": readers.run,
    "writers": writers.run,
    "signals": writers.run_signals,
    "sequences": machine.run,
    "growth": growth.run,
    "clocks": clocks.run,
}


def main() -> int:
    """Run a harness; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.soak")
    parser.add_argument("harness", choices=sorted(HARNESSES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--mutant", choices=sorted({*MUTANTS, *PICTURE_MUTANTS}))
    parser.add_argument("--scenes", nargs="*", default=())
    arguments = parser.parse_args()
    started = time.monotonic()
    trial = Trial(arguments.seed, arguments.share, arguments.mutant, tuple(arguments.scenes))
    try:
        finding = HARNESSES[arguments.harness](trial)
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
