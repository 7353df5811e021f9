"""Numbers with units as people type them; in: `4GB`, out: bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping


def size_of(text: str) -> int:
    """Return the bytes of `700M`, `4G` or `4GB`. Raises ValueError."""
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    return round(scaled(text, units | {f"{unit}b": factor for unit, factor in units.items()}))


def scaled(text: str, units: Mapping[str, float]) -> float:
    """Return a number times its unit. Raises ValueError."""
    match = re.fullmatch(r"([0-9.]+) *([a-z]*)", text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(
            f"{text!r} is not a number with one of the units {', '.join(filter(None, units))}"
        )
    return float(match[1]) * units[match[2]]
