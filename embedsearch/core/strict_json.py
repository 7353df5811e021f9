"""JSON from files and clients; in: bytes, out: values without ambiguity."""

from __future__ import annotations

import json
from typing import Any


def strict_json(data: bytes) -> Any:
    """Parse JSON, refusing duplicate keys, NaN and deep nesting. Raises ValueError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate keys")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
