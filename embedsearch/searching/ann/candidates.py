"""Which index serves a store; in: its size and a budget, out: factory strings to try, measured.

What is known beforehand (bytes a row) leaves indexes out; what is not (recall, latency) is
measured on rows of the store itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import AUTO_ANN, SearchBudget
from embedsearch.core.records import Neighbors

Answer = Callable[[npt.NDArray[np.float32]], Neighbors]

RECALL_AT = 10
QUERIES = 400  # rows held out: 4,000 neighbours, so that a recall of .98 is known to .002
_ROWS_PER_LIST = 40  # to train k-means on, of which FAISS wants 39 at least
_TRAINING_BYTES = 512 << 20
_HNSW_LINKS = 32
_MAX_HNSW_ROWS = 2_000_000  # beyond, building it takes hours


@dataclass(frozen=True)
class Question:
    """A query, float32 (D,), and the least score of its `wanted` nearest rows.

    Of rows that tie, any is right.
    """

    query: npt.NDArray[np.float32]
    wanted: int
    least: float

    def share(self, found: Neighbors) -> float:
        """Return the share of the wanted that was found."""
        right = int((found.scores >= self.least).sum())
        return min(right, self.wanted) / self.wanted


@dataclass(frozen=True)
class Measured:
    """One setting of an index: recall@10 against exact search, and the median latency.

    `error` is the standard error of the recall; luck alone does not reach a recall asked for.
    """

    setting: int
    recall: float
    latency_s: float
    error: float

    def reaches(self, recall: float) -> bool:
        """Return whether the recall is that, for sure."""
        return self.recall - self.error >= recall


def factories(rows: int, dim: int, budget: SearchBudget, *, loses_rows: bool) -> list[str]:
    """Return the indexes worth building within the memory of the budget, the first one first.

    Of rows of 8 bits a component, IVF is quick to build and HNSW quick to search, but it cannot
    forget: it is for stores that never lost a row. RaBitQ takes half and an eighth of their
    memory, and finds less: it is for where they do not fit.
    """
    if budget.factory != AUTO_ANN:
        return [budget.factory]
    lists = list_count(rows)
    fixed = 4 * dim * lists  # the centroids

    def fits(row_bytes: int) -> bool:
        return rows * row_bytes + fixed <= budget.memory_bytes

    by_size = {"SQ8": dim + 8, "RaBitQ4": dim // 2 + 40, "RaBitQ": dim // 8 + 40}
    names = [f"IVF{lists},{code}" for code, size in by_size.items() if fits(size)][:1]
    if not loses_rows and rows <= _MAX_HNSW_ROWS and fits(dim + 8 * _HNSW_LINKS + 16):
        names.append(f"HNSW{_HNSW_LINKS},SQ8")
    return names


def list_count(rows: int) -> int:
    """Return how many lists an IVF index of so many rows has: 4 √n, and enough rows to train on."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // _ROWS_PER_LIST))


def training_rows(rows: int, dim: int) -> int:
    """Return how many rows to train on."""
    return min(rows, _ROWS_PER_LIST * list_count(rows), _TRAINING_BYTES // (4 * dim))


def measure(
    answer_at: Callable[[int], Answer],
    settings: list[int],
    questions: list[Question],
    budget: SearchBudget,
) -> list[Measured]:
    """Return what settings reach, from fast to thorough, until one reaches the recall.

    `answer_at` gives what answers a query at a setting. One that is far beyond the latency is the
    last, too. Without questions there is nothing to choose by: the most thorough one is taken.
    """
    if not questions:
        return [Measured(settings[-1], 1.0, 0.0, 0.0)]
    curve = []
    for setting in settings:
        answer = answer_at(setting)
        answer(questions[0].query)  # what a first call alone costs
        seconds, shares = [], []
        for question in questions:
            started = time.perf_counter()
            found = answer(question.query)
            seconds.append(time.perf_counter() - started)
            shares.append(question.share(found))
        error = float(np.std(shares) / np.sqrt(len(shares)))
        curve.append(Measured(setting, float(np.mean(shares)), float(np.median(seconds)), error))
        if curve[-1].reaches(budget.recall) or curve[-1].latency_s > 4 * budget.latency_s:
            break
    return curve
