"""Every harness in full, as a table: `make soak`, or `python -m tests.soak.all --seed N`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.measure import machine
from tests.soak.__main__ import HARNESSES
from tests.support.library import REPOSITORY

_SHARES = {"faults": "0.1"}  # in full it is every call of every scene in every way: many hours


def main() -> int:
    """Run them one after another; return 1 if any promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.soak.all")
    parser.add_argument("--seed", type=int, default=1)
    seed = str(parser.parse_args().seed)
    print(
        f"{machine()}; seed {seed}\n\n| harness | figures | seconds | broken |\n|---|---|---|---|"
    )
    codes = []
    for name in HARNESSES:
        words = f"{name} --share {_SHARES.get(name, '1')} --seed {seed}"
        command = [sys.executable, "-W", "ignore", "-m", "tests.soak", *words.split()]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        codes.append(done.returncode)
        if not done.stdout:
            print(f"| `{words}` | did not end: exit status {done.returncode} | | |", flush=True)
            continue
        found = json.loads(done.stdout)
        figures = ", ".join(f"{name} {count:,}" for name, count in found["figures"].items())
        cells = (f"`{words}`", figures, f"{found['seconds']:.0f}", str(found["broken"]))
        print(f"| {' | '.join(cells)} |", flush=True)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
