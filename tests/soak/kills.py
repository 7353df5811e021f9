"""Death at every system call, and at random moments: nothing committed is lost, nothing to repair.

strace kills a run at its n-th call of each kind, n = 1, 2, …, until a run gets through.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.soak.finding import Finding, Trial
from tests.soak.forge import Child, Ended, Report, forked
from tests.soak.scenes import Scene, all_scenes
from tests.soak.witness import examine

CALLS = ("openat", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "pwrite64")
ENOUGH = 3000  # calls of one kind: a run that makes more is not the one that was meant


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Kill every scene at `share` of its system calls."""
    for scene in all_scenes(folder, trial.scenes):
        for call in CALLS:
            _kill_at(trial, finding, scene, call, folder / "broken.es")


def _kill_at(trial: Trial, finding: Finding, scene: Scene, call: str, store: Path) -> None:
    step = trial.every()
    first = 1 + trial.seed * 7 % step
    for number in range(first, ENOUGH, step):
        scene.copy(store)
        ended = traced(scene, store, trial.mutant, f"{call}:signal=SIGKILL:when={number}")
        if ended.is_late or not ended.signal:
            if not ended.is_expected:
                finding.accuse(f"{scene.name}, {call} {number}: {ended.words} {ended.trace}")
            return
        finding.count("kill points")
        judge_after(finding, scene, store, ended, f"{scene.name}, killed at {call} {number}")
    finding.accuse(f"{scene.name}: {call} had no end")


def traced(scene: Scene, store: Path, mutant: str | None, injection: str) -> Ended:
    """Run a scene under strace with an injection."""
    child = Child(lambda report: scene.run(store, mutant, report), traced=True)
    call = injection.partition(":")[0]
    command = [shutil.which("strace") or "strace", "-f", "-qq", "-o", "/dev/null"]
    command += ["-e", f"trace={call}", "-e", f"inject={injection}", "-p", str(child.pid)]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        child.begin()
        return child.join()
    finally:
        tracer.terminate()
        tracer.communicate()


def judge_after(finding: Finding, scene: Scene, store: Path, ended: Ended, where: str) -> None:
    """Examine what a run left, run it again to its end, and examine that."""
    left = forked(lambda report: examine(store, without_cache=scene.without_cache))
    if left.has_failed:
        finding.accuse(f"{where}: {left.words}")
        return
    if words := scene.judge(left.value, ended.reports):
        finding.accuse(f"{where}: {words}")
    run_again(finding, scene, store, where)


def run_again(finding: Finding, scene: Scene, store: Path, where: str) -> None:
    """Run a scene to its end without repair, and examine what that makes."""
    again = forked(lambda report: scene.work(store))
    if again.has_failed:
        finding.accuse(f"{where}: run again, {again.words} {again.trace}")
        return
    final = forked(lambda report: examine(store))
    if final.has_failed:
        finding.accuse(f"{where}: run again, {final.words} {final.trace}")
    elif words := scene.judge_final(final.value):
        finding.accuse(f"{where}: {words}")


def run_random(trial: Trial, finding: Finding, folder: Path) -> None:
    """Kill scenes at random moments; where a run was quicker, it was no kill."""
    rng = trial.random()
    scenes = all_scenes(folder, trial.scenes)
    lengths = {scene.name: _seconds(scene, folder / "timed.es") for scene in scenes}
    while finding.figures["kills"] < trial.count(1000):
        scene = rng.choice(scenes)
        store = scene.copy(folder / "broken.es")

        def work(report: Report, scene: Scene = scene, store: Path = store) -> None:
            scene.run(store, trial.mutant, report)

        child = Child(work)
        time.sleep(rng.uniform(0, lengths[scene.name]))
        child.kill()
        ended = child.join()
        if not ended.signal:
            finding.count("runs that were quicker")
            continue
        finding.count("kills")
        where = f"{scene.name}, kill {finding.figures['kills']}"
        judge_after(finding, scene, store, ended, where)


def _seconds(scene: Scene, store: Path) -> float:
    scene.copy(store)
    return forked(lambda report: scene.work(store)).seconds
