"""Queries unlike the rows of a store, such as another kind of photos; in: rows, out: queries, and
the wider setting that an index needs for them.

An index is set by rows that were held out of it. What is far from all rows has its nearest in
more lists, and codes tell them apart less well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.searching.ann.candidates import Answer, Measured, Question, measured

ROWS = 96  # that queries are made of
RECALL = 0.95  # of the worst kind
_MIXED = 3  # rows in one query
_TIMES = 2.0  # the latency of a query like the rows
_RESCORED = (4, 16, 64)  # candidates for each neighbor wanted
_LIKE_BELOW = 0.025  # of the queries like the rows, which pay for it

Units = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wide:
    """How queries are searched whose best candidate has a product under `below`.

    `setting` 0 is exact search. `recall` is that of the worst kind of queries unlike the rows.
    """

    below: float
    setting: int
    rescored: int
    recall: float
    latency_s: float


def unlike_queries(rows: Units, rng: np.random.Generator) -> list[Units]:
    """Return four kinds of queries, units of (n, D), made from rows, units of (4 n, D).

    Noise; the numbers of a row in any order; mixtures of rows; rows as far off as near.
    """
    parts = np.array_split(rows, 4)
    noise = rng.standard_normal(parts[0].shape)
    shuffled = rng.permuted(parts[1], axis=1)
    mixed = sum(rng.permutation(parts[2]) for _ in range(_MIXED))
    away = rng.standard_normal(parts[3].shape)
    away = parts[3] + away / np.linalg.norm(away, axis=1, keepdims=True)
    return [_units(kind) for kind in (noise, shuffled, np.asarray(mixed), away)]


def limit_of(best: Sequence[float]) -> float:
    """Return the product below which a query is unlike the rows, from those of rows held out."""
    return float(np.quantile(best, _LIKE_BELOW))


def widened(
    answer_at: Callable[[Wide], Answer],
    settings: Sequence[int],
    like: Measured,
    below: float,
    kinds: Sequence[Sequence[Question]],
    exact_s: float,
) -> Wide:
    """Return the first setting that reaches the recall in time, else the best that is in time.

    `exact_s` is the latency of exact search, 0 if it is not known.
    """
    limit_s = _TIMES * like.latency_s
    best: Wide | None = None
    for setting, rescored in _steps(settings, like.setting):
        tried = Wide(below, setting, rescored, 0.0, 0.0)
        answer = answer_at(tried)
        shares = [measured(answer, setting, questions) for questions in kinds]
        tried = Wide(
            *(below, setting, rescored),
            min(kind.recall for kind in shares),
            float(np.mean([kind.latency_s for kind in shares])),
        )
        in_time = tried.latency_s <= limit_s
        if best is None or (in_time and tried.recall > best.recall):
            best = tried
        if in_time and tried.recall >= RECALL:
            return tried
        if not in_time and rescored == _RESCORED[0]:
            break  # and so are all wider ones
    assert best is not None, "the setting itself is among them"
    if 0 < exact_s <= limit_s:
        return Wide(below, 0, 0, 1.0, exact_s)
    return best


def _steps(settings: Sequence[int], least: int) -> Iterator[tuple[int, int]]:
    for setting in settings:
        if setting >= least:
            yield from ((setting, rescored) for rescored in _RESCORED)


def _units(rows: npt.NDArray[np.floating]) -> Units:
    units: Units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units
