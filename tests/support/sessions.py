"""Compare what a page shows with what its commands print, whatever the machine."""

from __future__ import annotations

import re

import pytest

# What differs from run to run and machine to machine.
TIMES = re.compile(
    r"\((fp32|bf16)\) in [\d.]+ s, \d+ images/s\n(slowest stage: |[\d,]+ of at most ).*"
)
SCORE = re.compile(r"(?<![\d.])-?[01]\.\d{3}\b")
PERCENTILE = re.compile(r" *\b(\d+\.\d{2}) %")


def assert_same(shown: str, wanted: str) -> None:
    """Compare what a command printed; a score may differ in its third digit by the processor."""
    theirs, ours = (TIMES.sub("(…)", text) for text in (shown, wanted))
    percentiles = [[float(p) for p in PERCENTILE.findall(text)] for text in (theirs, ours)]
    assert percentiles[0] == pytest.approx(percentiles[1], abs=1.5)
    theirs, ours = (PERCENTILE.sub(" … %", text) for text in (theirs, ours))
    assert SCORE.sub("0.…", theirs) == SCORE.sub("0.…", ours)
    scores = [[float(score) for score in SCORE.findall(text)] for text in (theirs, ours)]
    assert scores[0] == pytest.approx(scores[1], abs=0.006)


def masked(text: str) -> list[str]:
    """Return the lines without what another processor's rounding changes: numbers, precision."""
    text = re.sub(r"\S+\.(jpg|png|webp)", "FILE", text)
    text = re.sub(r"-?\d[\d,]*(\.\d+)?", "#", TIMES.sub("TIMES", text).replace("bf16", "fp32"))
    return [" ".join(line.split()) for line in text.splitlines()]
