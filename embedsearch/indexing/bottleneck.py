"""What a run spent its time on; in: seconds per stage, out: the slowest stage and advice."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from embedsearch.core.system import available_processors, processor_share


@dataclass(frozen=True)
class Setup:
    """What a run works with, which decides what could make it faster."""

    device: str
    precision: str
    workers: int
    input_side: int  # 0 for a network that takes one side only
    int8_pays: bool = False  # as it was measured here
    on_cpu_only: bool = False


class StageClock:
    """The busy seconds of each stage of a run; the run starts with the clock."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def elapsed_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._started

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Record the seconds of a block as those of a stage."""
        started = time.monotonic()
        yield
        self.seconds[stage] += time.monotonic() - started


def slowest_stage(busy_s: Mapping[str, float]) -> str:
    """Return the stage that kept the others waiting, "" if nothing was done.

    Stages overlap, so it is the one that was busy longest. The same processes read and decode, so
    these two count together.
    """
    if not any(busy_s.values()):
        return ""
    together = {name: s for name, s in busy_s.items() if name not in {"read", "decode"}}
    together["files"] = busy_s.get("read", 0.0) + busy_s.get("decode", 0.0)
    if (slowest := max(together, key=lambda name: together[name])) != "files":
        return slowest
    return "read" if busy_s.get("read", 0.0) > busy_s.get("decode", 0.0) else "decode"


def shares(busy_s: Mapping[str, float], elapsed_s: float) -> dict[str, float]:
    """Return the fraction of the time that each stage was busy, 0 to 1; stages overlap."""
    if elapsed_s <= 0:
        return {}
    return {name: round(min(1.0, s / elapsed_s), 3) for name, s in busy_s.items()}


def at_most(images: int, cpu_s: Mapping[str, float]) -> float:
    """Return the images/s that the processors allow, which decoding and the network share."""
    seconds = sum(cpu_s.values())
    return images * processor_share() / seconds if seconds else 0.0


def advice(stage: str, setup: Setup) -> str:
    """Return the option or hardware that would make the slowest stage faster."""
    if stage in {"read", "decode"}:
        return _more_workers(stage, setup)
    if stage == "embed":
        return _faster_network(setup)
    disks = {"scan": "a faster disk for the folders", "write": "a store on a faster disk"}
    return disks.get(stage, "")


def summary(busy_s: Mapping[str, float], elapsed_s: float, setup: Setup) -> str:
    """Return e.g. `decode 71 % · embed 22 % → workers=8`, the slowest stage first."""
    first = slowest_stage(busy_s)
    part = shares(busy_s, elapsed_s)
    order = sorted(part, key=lambda name: (name != first, -part[name]))
    shown = [f"{name} {part[name]:.0%}".replace("%", " %") for name in order if part[name] >= 0.01]
    hint = advice(first, setup)
    return " · ".join(shown) + (f" → {hint}" if hint else "")


def _more_workers(stage: str, setup: Setup) -> str:
    if setup.workers < (processors := available_processors()):
        return f"workers={processors}"
    if stage == "read":
        return f"a faster disk, or workers={2 * processors} to wait for several files at once"
    return f"more processors: all {processors} decode"


def _faster_network(setup: Setup) -> str:
    if setup.device != "cpu":
        return "precision=auto" if setup.precision == "fp32" else "another GPU, or a smaller model"
    if setup.int8_pays:
        return "precision=int8"
    side = min(160, setup.input_side)
    smaller = f" or input_side={side}" if side < setup.input_side else ""
    return f"{'' if setup.on_cpu_only else 'a GPU, or '}a smaller model{smaller}"
