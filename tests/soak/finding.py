"""What a harness is asked to do, and what it found."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Trial:
    """One run of a harness; `share` of its full length, 1 being what `make soak` does."""

    seed: int = 1
    share: float = 1.0
    mutant: str | None = None
    scenes: tuple[str, ...] = ()  # of scenes.py; none named is all

    def random(self) -> random.Random:
        """Return a source of chance that the seed alone decides."""
        return random.Random(self.seed)

    def count(self, full: int) -> int:
        """Return how many of `full` repetitions to do, one at least."""
        return max(1, round(full * self.share))

    def every(self) -> int:
        """Return the step that does `share` of all points."""
        return max(1, round(1 / self.share))


class Caught(Exception):
    """A mutant was caught: there is nothing more to find out."""


@dataclass
class Finding:
    """Figures by name, and a line for each promise that was broken; the first may be enough."""

    first_is_enough: bool = False
    figures: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def count(self, name: str, more: int = 1) -> None:
        """Add to a figure."""
        self.figures[name] += more

    def accuse(self, words: str) -> None:
        """Note a broken promise."""
        text = " ".join(words.split())
        # The last steps of a long sequence tell most.
        self.broken.append(text if len(text) <= 3000 else f"{text[:1000]} … {text[-2000:]}")
        if self.first_is_enough:
            raise Caught(self.broken[-1])
