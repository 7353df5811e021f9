"""A short share of each long harness, and for each a defect that it must catch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.soak.mutants import MUTANTS
from tests.support.library import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace, which .ci/run installs"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount a tmpfs")


def at_length(*values: object) -> Any:
    """Return a case that `make test-scale` runs: of these harnesses `make test` has no share."""
    return pytest.param(*values, marks=pytest.mark.scale)


# The harness, its arguments, and the least of each figure that shows that it did something.
SHORT = [
    pytest.param("kills", "--share 0.1 --scenes sync", {"kill points": 15}, marks=needs_strace),
    pytest.param(
        "kills",
        "--share 0.04 --scenes rebuild columns import",
        {"kill points": 15},
        marks=needs_strace,
    ),
    at_length("random-kills", "--share 0.01", {"kills": 10}),
    pytest.param(
        "faults", "--share 0.006 --scenes sync", {"… with exit code 4": 5}, marks=needs_strace
    ),
    pytest.param(
        "full-disks",
        "--share 0.15 --scenes first sync",
        {"disks that were too small": 2},
        marks=needs_root,
    ),
    ("power-cuts", "--share 0.06 --scenes first import", {"states": 90}),
    ("damage", "--share 0.02", {"noticed by the query": 600, "noticed by check alone": 30}),
    at_length("forged", "--share 0.01", {"forged files": 50}),
    ("pictures", "--share 0.06", {"mutated images": 1200, "decoded": 60}),
    ("deadly-pictures", "--share 0.2", {"failed, decoder_crash": 8}),
    at_length(
        "requests", "--share 0.03", {"requests": 300, "answered with 200": 5, "with 400": 50}
    ),
    at_length("readers", "--share 0.08", {"answers": 40, "answers over a sleep": 6, "commits": 4}),
    ("belongings", "--share 0.1", {"sequences": 2, "runs": 20}),
    ("containers", "--share 0.005", {"mutated files": 20, "taken, or a failure of its own": 8}),
    at_length("attackers", "--share 0.2", {"searches": 200}),
    ("tool-calls", "--share 0.03", {"lines": 300, "errors told": 20, "sensible answers": 6}),
    ("writers", "--share 0.06", {"pairs": 3, "told of the other writer": 1}),
    ("scripts", "--share 0.1", {"scripts": 100, "files gone or moved": 100}),
    ("signals", "--share 0.04", {"signals": 4}),
    at_length("sequences", "--share 0.04", {"sequences": 10, "steps": 100}),
    at_length(
        "odd-files", "--share 0.04", {"files": 80, "indexed": 60, "failed": 2, "commands": 40}
    ),
    at_length("growth", "--share 0.1", {"peak MiB at 12,000 images": 1}),
    at_length("clocks", "", {"changes of time": 30}),
]
CAUGHT = [
    pytest.param("pointer_in_place", "kills", "--share 0.3 --scenes repair", marks=needs_strace),
    pytest.param("pointer_first", "kills", "--share 0.1 --scenes sync", marks=needs_strace),
    pytest.param("columns_later", "kills", "--share 0.1 --scenes rebuild", marks=needs_strace),
    pytest.param("columns_later", "kills", "--share 0.1 --scenes import", marks=needs_strace),
    ("pointer_in_place", "power-cuts", "--share 0.3 --scenes sync"),
    ("no_fsync", "power-cuts", "--share 0.3 --scenes sync"),
    ("no_folder_fsync", "power-cuts", "--share 0.3 --scenes sync"),
    ("pointer_first", "power-cuts", "--share 0.3 --scenes sync"),
    at_length("sweep_first", "readers", "--share 0.15"),
    at_length("tells_all", "requests", "--share 0.01"),
    ("no_hash", "damage", "--share 0.01"),
    ("shared_fate", "pictures", "--share 0.1"),
    ("runs_code", "pictures", "--share 0.01"),
    ("no_lock", "writers", "--share 0.2"),
    at_length("loses_a_row", "random-kills", "--share 0.05 --scenes first"),
    pytest.param("trusts_write", "full-disks", "--share 0.15 --scenes first", marks=needs_root),
    pytest.param("pointer_in_place", "faults", "--share 0.25 --scenes repair", marks=needs_strace),
    at_length("lets_through", "forged", "--share 0.05"),
    ("clears_others", "belongings", "--share 0.3"),
    ("believes_archives", "containers", "--share 0.02"),
    ("tells_agents_all", "tool-calls", "--share 0.03"),
    ("unchecked", "scripts", "--share 0.1"),
    ("deaf", "signals", "--share 0.02"),
    at_length("keeps_deleted", "sequences", "--share 0.1"),
    at_length("leaks", "growth", "--share 0.1"),
    at_length("believes_files", "odd-files", "--share 0.01"),
    at_length("newer_only", "clocks", ""),
    at_length("whole_seconds", "clocks", ""),
]


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one harness in a process of its own, which nothing has been opened in."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.soak", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("harness", "arguments", "least"), SHORT)
def test_nothing_is_broken(harness: str, arguments: str, least: dict[str, int]) -> None:
    done = soak(harness, *arguments.split())
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert all(figures.get(name, 0) >= count for name, count in least.items()), figures


@pytest.mark.parametrize(("mutant", "harness", "arguments"), CAUGHT)
def test_a_defect_is_caught(mutant: str, harness: str, arguments: str) -> None:
    done = soak(harness, *arguments.split(), "--mutant", mutant)
    assert done.returncode == 1, done.stderr
    assert f"{mutant} was caught" in done.stderr or json.loads(done.stdout)["broken"]


def test_every_defect_is_tried() -> None:
    tried = {getattr(case, "values", case)[0] for case in CAUGHT}
    assert tried == set(MUTANTS)
