"""Failing system calls, once and for ever, and disks that are really full: exit 4, nothing lost.

strace makes the n-th call of a kind fail, n = 1, 2, …, until a run sees no failure.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from embedsearch.core.errors import StorageError
from tests.soak.finding import Finding, Trial
from tests.soak.forge import forked
from tests.soak.kills import ENOUGH, judge_after, traced
from tests.soak.scenes import Scene, all_scenes

# What a file system says, and what a process is told that has run out of descriptors or rights.
# EINTR comes once only: it asks to try again, which Python does until it goes well.
FAULTS = (
    ("write", ("ENOSPC", "EIO", "EDQUOT", "EINTR")),
    ("fsync", ("EIO", "ENOSPC")),
    ("rename", ("ENOSPC", "EIO", "EACCES")),
    ("unlink", ("EIO", "EACCES")),
    ("mkdir", ("ENOSPC", "EACCES")),
    ("ftruncate", ("EIO",)),
    ("pwrite64", ("ENOSPC", "EIO")),
    ("openat", ("EMFILE", "EACCES", "EIO")),
)

_ALL_FAULTS_SHARE = 0.02  # below, some of them by chance
_SOME_FAULTS = 8


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Let `share` of all calls of every scene fail, each in all its ways."""
    faults = [
        (call, error, lasting)
        for call, errors in FAULTS
        for error in errors
        for lasting in (("",) if error == "EINTR" else ("", "+"))
    ]
    if trial.share < _ALL_FAULTS_SHARE:
        faults = trial.random().sample(faults, _SOME_FAULTS)
    for scene in all_scenes(folder, trial.scenes):
        for fault in faults:
            _fail_at(trial, finding, scene, fault, folder / "f.es")


def _fail_at(
    trial: Trial, finding: Finding, scene: Scene, fault: tuple[str, str, str], store: Path
) -> None:
    """Let the n-th call fail for every n, until two runs one after the other see no failure."""
    call, error, lasting = fault
    step = trial.every()
    quiet = 0
    for number in range(1 + trial.seed * 7 % step, ENOUGH, step):
        scene.copy(store)
        injection = f"{call}:error={error}:when={number}{lasting}"
        ended = traced(scene, store, trial.mutant, injection)
        where = f"{scene.name}, {call} {number}{lasting} with {error}"
        if ended.signal or not (ended.is_expected or _is_import(ended.trace)):
            finding.accuse(f"{where}: {ended.words} {ended.trace[-900:]}")
        if ended.error is None:
            finding.count("runs that got over it")
            quiet += 1
        else:
            finding.count("runs that failed")
            finding.count("… with exit code 4", isinstance(ended.error, StorageError))
            quiet = 0
        finding.count("fault points")
        judge_after(finding, scene, store, ended, where)
        if quiet == 2:
            return
    finding.accuse(f"{scene.name}: {call} had no end")


def _is_import(trace: str) -> bool:
    """Return whether Python itself could not open a module: not a file of ours."""
    return "ImportError" in trace or "ModuleNotFoundError" in trace


def run_full(trial: Trial, finding: Finding, folder: Path) -> None:
    """Index onto file systems of 40 kB to 4 MB, then give them room and run again."""
    scenes = all_scenes(folder, trial.scenes)
    disk = folder / "disk"
    disk.mkdir()
    sizes = [40 * 2 ** (step / 4) for step in range(28)]
    for scene in scenes:
        for size in sizes[trial.seed % trial.every() :: trial.every()]:
            _fill(trial, finding, scene, disk, round(size))


def _fill(trial: Trial, finding: Finding, scene: Scene, disk: Path, kilobytes: int) -> None:
    _mount(disk, f"size={kilobytes}k")
    try:
        try:
            store = scene.copy(disk / "s.es")
        except OSError:
            return  # not even what was there before fits
        ended = forked(lambda report: scene.run(store, trial.mutant, report))
        where = f"{scene.name} on {kilobytes} kB"
        if not ended.is_expected:
            finding.accuse(f"{where}: {ended.words} {ended.trace}")
        if ended.error is not None and "disk is full" not in str(ended.error):
            finding.accuse(f"{where}: it does not say that the disk is full, but {ended.error}")
        finding.count("disks")
        finding.count("disks that were too small", ended.error is not None)
        _mount(disk, "remount,size=64m")
        judge_after(finding, scene, store, ended, where)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _mount(disk: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)]
    subprocess.run(command, check=True, capture_output=True)
