"""What hits are ranked by, and comparisons of cosines.

A cosine of float32 sums is off by some 1e-7: the picture itself has 0.9999999, and an exact copy
reaches a limit of 1.
"""

from __future__ import annotations

from typing import Any

PICTURE, WORDS, BOTH = "picture", "words", "both"
RANKINGS = (BOTH, PICTURE, WORDS)
TOLERANCE = 1e-6


def reaches(score: Any, limit: float) -> Any:
    """Return whether a score, or each of an array, is at least `limit`."""
    return score >= limit - TOLERANCE
