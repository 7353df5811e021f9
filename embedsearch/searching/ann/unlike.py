"""Queries unlike the rows of a store, such as another kind of photos; in: rows, out: queries, and
the wider setting that an index needs for them.

An index is set by rows that were held out of it. What is far from all rows has its nearest in
more lists, and codes tell them apart less well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.searching.ann.candidates import Answer, Measured, Question, measured

ROWS = 96  # that queries are made of
RECALL = 0.95  # wanted of the worst kind
_MIXED = 3  # rows in one query
_TIMES = 2.0  # the latency of a query like the rows
_RESCORED = (4, 16, 64, 256)  # candidates for each neighbor wanted
_NARROWER = 8  # times: with more candidates fewer lists can do
_LIKE_BELOW = 0.025  # of the queries like the rows, which pay for it

Units = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wide:
    """How queries are searched whose best candidate has a product under `below`.

    `setting` 0 is exact search. `recall` is the mean of the kinds of queries unlike the rows.
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
    """Return the product below which a query is unlike the rows, from those of rows held out.

    It is -1, below which none is, where no row held out found anything.
    """
    found = [product for product in best if np.isfinite(product)]
    return float(np.quantile(found, _LIKE_BELOW)) if found else -1.0


def widened(
    answer_at: Callable[[Wide], Answer],
    settings: Sequence[int],
    like: Measured,
    below: float,
    kinds: Sequence[Sequence[Question]],
    *,
    exact_s: float,
    hits_s: float,
) -> Wide:
    """Return the first setting that reaches the recall in time, else the best that is in time.

    Exact search is taken if it is faster than what reaches the recall, or nothing else does.

    `exact_s` is the latency of exact search, 0 if it is not known; `hits_s` what the hits of any
    query take besides.
    """
    limit_s = _TIMES * like.latency_s + (_TIMES - 1) * hits_s
    exact = Wide(below, 0, 0, 1.0, exact_s) if 0 < exact_s <= limit_s else None
    best: tuple[bool, float, Wide] | None = None
    for rescored in _RESCORED:
        least = like.setting if rescored == _RESCORED[0] else like.setting // _NARROWER
        for setting in (n for n in settings if n >= least):
            answer = answer_at(Wide(below, setting, rescored, 0.0, 0.0))
            found = [measured(answer, setting, questions) for questions in kinds]
            mean = float(np.mean([kind.recall for kind in found]))
            latency_s = float(np.mean([kind.latency_s for kind in found]))
            if best is not None and latency_s > limit_s:
                break  # and so are all wider ones
            is_reached = min(kind.recall for kind in found) >= RECALL
            wide = Wide(below, setting, rescored, mean, latency_s)
            if best is None or (is_reached, mean) > best[:2]:
                best = (is_reached, mean, wide)
            if is_reached:
                return exact if exact and exact_s <= latency_s else wide
    assert best is not None, "there are settings"
    return exact or best[2]


def _units(rows: npt.NDArray[np.floating]) -> Units:
    units: Units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units
