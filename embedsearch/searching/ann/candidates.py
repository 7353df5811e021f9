"""Which index suits a store; in: its size and a budget, out: factory strings to try, measured.

Bytes per row are known beforehand and exclude some indexes; recall and latency are measured on
rows of the store itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import AUTO_ANN, SearchBudget
from embedsearch.core.records import Neighbors

Answer = Callable[[npt.NDArray[np.float32]], Neighbors]

RECALL_AT = 10
QUERIES = 400  # held-out rows: 4,000 neighbors give a recall of .98 with an error of .002
_ROWS_PER_LIST = 40  # to train k-means on; FAISS wants at least 39
_TRAINING_BYTES = 512 << 20
_HNSW_LINKS = 32
_MAX_HNSW_ROWS = 2_000_000  # above, building takes hours


@dataclass(frozen=True)
class Question:
    """A query, float32 (D,), and the lowest score of its `wanted` nearest rows.

    Any of several tied rows is correct.
    """

    query: npt.NDArray[np.float32]
    wanted: int
    least: float

    def share(self, found: Neighbors) -> float:
        """Return the fraction of the wanted neighbors that was found."""
        return min(int((found.scores >= self.least).sum()), self.wanted) / self.wanted


@dataclass(frozen=True)
class Measured:
    """One setting of an index: recall@10 against exact search, and the median latency.

    `error` is the standard error of the recall; it keeps luck from reaching a target recall.
    """

    setting: int
    recall: float
    latency_s: float
    error: float

    def reaches(self, recall: float) -> bool:
        """Return whether the recall is at least this, with its error subtracted."""
        return self.recall - self.error >= recall


def factories(rows: int, dim: int, budget: SearchBudget, *, loses_rows: bool) -> list[str]:
    """Return the indexes worth building within the memory of the budget, best first.

    With 8 bits per component, IVF is quick to build and HNSW quick to search, but HNSW cannot
    remove rows: it is for stores that never lost a row. RaBitQ takes half or an eighth of their
    memory and has less recall: it is for stores where they do not fit.
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
    """Return the number of lists of an IVF index of n rows: 4 √n, or fewer to train each well."""
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
    """Measure settings from fast to thorough until one reaches the recall.

    `answer_at` returns a function that answers queries at a setting. A setting far above the
    latency is also the last. Without questions the most thorough setting is taken.
    """
    if not questions:
        return [Measured(settings[-1], 1.0, 0.0, 0.0)]
    curve = []
    for setting in settings:
        curve.append(measured(answer_at(setting), setting, questions))
        if curve[-1].reaches(budget.recall) or curve[-1].latency_s > 4 * budget.latency_s:
            break
    return curve


def measured(answer: Answer, setting: int, questions: Sequence[Question]) -> Measured:
    """Measure the answers to questions at a setting."""
    answer(questions[0].query)  # warm-up
    seconds, shares = [], []
    for question in questions:
        started = time.perf_counter()
        found = answer(question.query)
        seconds.append(time.perf_counter() - started)
        shares.append(question.share(found))
    error = float(np.std(shares) / np.sqrt(len(shares)))
    return Measured(setting, float(np.mean(shares)), float(np.median(seconds)), error)
