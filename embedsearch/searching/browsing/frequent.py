"""The most frequent values of columns; in: rows of a generation, out: values by column."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.searching.columns import RowColumns
from embedsearch.store.snapshot import Snapshot

SAMPLE = 2000  # rows, spread over the store
_KEPT = 5  # values of a column
_LENGTH = 60  # characters of a value that may be shown
_OWN = ["format", "camera"]


def frequent_values(
    snapshot: Snapshot, columns: RowColumns, alive: npt.NDArray[np.bool_] | None
) -> dict[str, list[str]]:
    """Return values that several of a sample of rows have, most frequent first, as texts.

    Of lists, their elements. `alive`, bool (all shard rows,), says which rows are live.
    """
    ordinals = np.arange(int(snapshot.starts[-1])) if alive is None else np.flatnonzero(alive)
    if not len(ordinals):
        return {}
    chosen = ordinals[np.unique(np.linspace(0, len(ordinals) - 1, SAMPLE).astype(np.int64))]
    counts: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    images = snapshot.images(chosen)
    rows = columns.metadata([image.row for image in images])
    for row in [*snapshot.take(chosen, _OWN).to_pylist(), *rows]:
        for name, value in row.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str | bool | int) and len(text := str(each)) <= _LENGTH:
                    counts[name][text] += 1
    return {name: values for name, found in counts.items() if (values := _most(found))}


def _most(counts: Counter[str]) -> list[str]:
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [text for text, count in ranked[:_KEPT] if count > 1]
