"""Measures of a ranking; in: which of the ranked items are relevant, out: values a query.

Q queries, N ranked items, best first. Leave one out: a query is not among its items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.learning.reports import Estimate

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
CUTOFFS = (1, 5, 10)
NAMES = ("recall@1", "recall@5", "recall@10", "P@10", "mAP", "nDCG@10", "MRR")
_RESAMPLES = 1_000
_ELEMENTS = 1 << 22  # of a score matrix held at once
_AT_ONCE = 256  # queries
_LEVEL = 95.0  # percent of the confidence interval


def measure(relevant: Bools, wanted: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Return each of NAMES a query, float64 (Q,).

    `relevant` bool (Q, N); `wanted` int64 (Q,), at least 1, says how many relevant items there
    are in all, ranked or not. recall@k, as in metric learning, is 1 where one of the first k is
    relevant. mAP's values are the average precisions; nDCG has gains of 0 and 1.
    """
    found = relevant.cumsum(axis=1)
    ranks = np.arange(1, relevant.shape[1] + 1)
    ideal = np.concatenate([[0.0], _discounts(10).cumsum()])
    first = np.where(found[:, -1] > 0, relevant.argmax(axis=1) + 1.0, np.inf)
    values = {f"recall@{k}": (first <= k).astype(np.float64) for k in CUTOFFS}
    values["P@10"] = relevant[:, :10].sum(axis=1) / 10.0
    values["mAP"] = (found / ranks * relevant).sum(axis=1) / wanted
    top = relevant[:, :10]
    values["nDCG@10"] = (top @ _discounts(top.shape[1])) / ideal[np.minimum(wanted, 10)]
    values["MRR"] = 1.0 / first
    return values


def measure_all(
    queries: Ints,
    wanted: Ints,
    rank: Callable[[Ints], Ints],
    relevant: Callable[[Ints, Ints], Bools],
    between: Callable[[], None] = lambda: None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each of NAMES a query, each one of N rows that asks all others.

    `wanted` int64 (N,) counts what each row should find; `rank` orders the other rows for queries
    (Q,), as (Q, N - 1), and `relevant` tells which of them these should find. Some queries at a
    time: memory does not grow with all of them. `between` is called now and then, and may raise.
    """
    size = min(_AT_ONCE, max(1, _ELEMENTS // max(1, len(wanted))))
    parts = []
    for start in range(0, len(queries), size):
        between()
        chunk = queries[start : start + size]
        parts.append(measure(relevant(chunk, rank(chunk)), wanted[chunk]))
    return {name: np.concatenate([np.empty(0), *(p[name] for p in parts)]) for name in NAMES}


def measure_classes(
    labels: Ints, rank: Callable[[Ints], Ints]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each of NAMES a query: each row that has others of its class, in order.

    `labels` int64 (N,), from 0, are the classes of the rows; `rank` as in `measure_all`.
    """
    others = np.bincount(labels)[labels] - 1

    def same(queries: Ints, order: Ints) -> Bools:
        return np.asarray(labels[order] == labels[queries][:, None])

    return measure_all(np.flatnonzero(others), others, rank, same)


def estimate(values: npt.NDArray[np.float64], seed: int = 0) -> Estimate:
    """Return the mean of float64 (Q,) with its confidence interval."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), _RESAMPLES)
    means = counts @ values / len(values)
    low, high = np.percentile(means, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def rank_others(vectors: Floats, queries: Ints, asked: Floats | None = None) -> Ints:
    """Return for each query, a row of float32 (N, D), all other rows, best first: (Q, N - 1).

    `asked`, float32 (Q, D), are the queries where they are not those rows. Ties keep the order
    of the rows.
    """
    scores = (vectors[queries] if asked is None else asked) @ vectors.T
    scores[np.arange(len(queries)), queries] = -np.inf  # sorts last, and is cut off
    return np.argsort(-scores, axis=1, kind="stable")[:, :-1]


def _discounts(count: int) -> npt.NDArray[np.float64]:
    return 1.0 / np.log2(np.arange(2, count + 2))
