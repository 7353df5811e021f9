"""Groups of a map's dots by the values of a column; in: values, out: a legend, a group per dot."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError
from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.store.snapshot import Snapshot

MAX_GROUPS = 10  # the most frequent values have a color each
_STEPS = 7  # of a scale of numbers or times
NO_GROUP = -1  # rare values, and none
_SCALED = (int, float, date)  # a datetime is a date


@dataclass(frozen=True)
class Legend:
    """The names of groups, and the group of each dot; of a scale, the groups are in order."""

    names: list[str]
    groups: list[int]
    is_scale: bool = False


def column_values(
    snapshot: Snapshot, column: str, ordinals: npt.NDArray[np.int64], session: Session
) -> list[Any]:
    """Return the values of a column at ordinals, which ascend. Raises UsageError."""
    with RowColumns(snapshot, session) as columns:
        names = columns.schema.names
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise UsageError(
                f"color: no column {column}{hint}; there are {', '.join(names)}", "color"
            )
        found: list[Any] = []
        for start, table in columns.tables([column]):
            low, high = np.searchsorted(ordinals, (start, start + len(table)))
            found += table.column(0).take(ordinals[low:high] - start).to_pylist()
    if any(isinstance(value, list | dict) for value in found):
        kinds = "name a column of texts, numbers or times"
        raise UsageError(f"color: {column} holds lists or objects; {kinds}", "color")
    return found


def legend_of(values: Sequence[Any]) -> Legend:
    """Return a color per value, or a scale where numbers or times have more values than colors."""
    known = [value for value in values if value is not None and value == value]  # NaN is none
    distinct = set(known)
    if len(distinct) > MAX_GROUPS and all(
        isinstance(value, _SCALED) and not isinstance(value, bool) for value in distinct
    ):
        return _scale(values, sorted(known))
    counts = Counter(map(str, known))
    named = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_GROUPS]
    number = {name: index for index, name in enumerate(named)}
    groups = [NO_GROUP if value is None else number.get(str(value), NO_GROUP) for value in values]
    return Legend(named, groups)


def _scale(values: Sequence[Any], known: Sequence[Any]) -> Legend:
    """Return groups of about the same size, in order; `known` is sorted."""
    marks = [known[round(step * (len(known) - 1) / _STEPS)] for step in range(_STEPS + 1)]
    edges = sorted(set(marks))
    names = [f"{_shown(low)} – {_shown(high)}" for low, high in pairwise(edges)]
    groups = []
    for value in values:
        if value is None or value != value:
            groups.append(NO_GROUP)
        else:
            groups.append(sum(value > edge for edge in edges[1:-1]))
    return Legend(names, groups, is_scale=True)


def _shown(value: Any) -> str:
    """Return a number in four digits, or a day."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return str(value) if isinstance(value, date) else f"{value:.4g}"
