"""One ranking of two, by reciprocal ranks; in: rankings of rows, out: their rows, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
# learning methods" (SIGIR 2009).
RRF_K = 60
POOL = 256  # the best of each ranking are fused; the others follow

Ordinals: TypeAlias = npt.NDArray[np.int64]


def fused(
    rankings: Sequence[Ordinals], weights: Sequence[float], places: Ordinals
) -> tuple[Ordinals, npt.NDArray[np.float64]]:
    """Return the rows of all rankings, best first, and their scores, float64.

    The score of a row is the sum of weight / (RRF_K + rank) over the rankings that have it among
    their first POOL, ranks counted from 1. Equal ones are ordered by `places`, one a row of the
    shards. Rows beyond any POOL follow with a score of 0, those of the first ranking first: what a
    longer ranking adds comes after what a shorter one had.
    """
    heads = [ranking[:POOL] for ranking in rankings]
    rows, index = np.unique(np.concatenate(heads), return_inverse=True)
    ranks = np.concatenate([np.arange(1, len(head) + 1) for head in heads])
    each = np.repeat(weights, [len(head) for head in heads])
    scores = np.bincount(index, each / (RRF_K + ranks), len(rows))
    order = np.lexsort((places[rows], -scores))
    rest = np.concatenate([ranking[POOL:] for ranking in rankings])
    _, first = np.unique(rest, return_index=True)
    rest = rest[np.sort(first)]
    rest = rest[~np.isin(rest, rows)]
    return np.concatenate([rows[order], rest]), np.concatenate([scores[order], np.zeros(len(rest))])
