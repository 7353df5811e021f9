"""Whole processes under measurement: wall time, and peak memory over all their children."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import embedsearch

SAMPLE_S = 0.02


@dataclass(frozen=True)
class Run:
    """Seconds of one process, and the largest sum of its tree's proportional memory, in MiB."""

    seconds: float
    peak_mib: float
    libraries: frozenset[str]  # shared libraries seen mapped in any process of the tree
    last_line: str  # of what it printed


def run(command: Sequence[object], environment: dict[str, str], *, memory: bool = False) -> Run:
    """Run a command to its end. Raises CalledProcessError with its output if it fails."""
    arguments = list(map(str, command))
    started = time.perf_counter()
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    watch = _Watch(process.pid) if memory else None
    if watch is not None:
        watch.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if watch is not None:
        watch.stop.set()
        watch.join()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, arguments, output)
    return Run(
        seconds,
        0.0 if watch is None else watch.peak_mib,
        frozenset() if watch is None else frozenset(watch.libraries),
        output.decode(errors="replace").rstrip().rpartition("\n")[2],
    )


class _Watch(threading.Thread):
    """Sample a process tree; proportional set size counts a shared page once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.peak_mib = 0.0
        self.libraries: set[str] = set()
        self._pid = pid

    def run(self) -> None:
        while not self.stop.wait(SAMPLE_S):
            total = 0
            for pid in _tree(self._pid):
                try:
                    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                    maps = Path(f"/proc/{pid}/maps").read_text()
                except OSError:  # it has just ended
                    continue
                total += sum(
                    int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
                )
                self.libraries |= {
                    name
                    for name in ("libtorch_cpu", "libopenvino.so", "_imaging.", "swigfaiss")
                    if name in maps
                }
            self.peak_mib = max(self.peak_mib, total / 1024)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return `median (min–max)`."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def machine() -> str:
    """Return what a figure depends on, in a line: day, commit, processors, versions."""
    model, flags = platform.processor(), list[str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
        if line.startswith("flags"):
            flags = [f for f in ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in line]
            break
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{time.strftime('%Y-%m-%d')}, commit {commit}, embedsearch {embedsearch.__version__}, "
        f"{len(os.sched_getaffinity(0))} processors: {model} ({' '.join(flags)}), "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )
