"""Rows with the very same vector, one of which stands for all in a search.

In: rows that searches met, out: masks and scores. A pass over rows then finds no more ties than
over others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from embedsearch.searching.row_sources import Mask, Ordinals, Vectors

_BLOCK = 4096  # rows read at a time
_DIGEST_BYTES = 16
_LEAST = 16  # rows: fewer are not worth a group

Scores = npt.NDArray[np.float32]


class EqualRows:
    """The groups of equal rows of a generation, as far as searches have met them."""

    def __init__(self, rows: int, read: Callable[[Ordinals], Vectors]) -> None:
        """`rows` are all of the shards; `read` returns the vectors of some."""
        self._rows = rows
        self._read = read
        self._norms: Scores | None = None  # (rows,), NaN where not known yet
        self._groups: Ordinals | None = None  # (rows,): its group's number, -1 for none
        self._members: list[Ordinals] = []  # of each group, ascending
        self._numbers: dict[bytes, int] = {}  # of each group, by the digest of its vector

    def norms(self, ordinals: Ordinals) -> Scores:
        """Return the norms of rows; each row is read once."""
        if self._norms is None:
            self._norms = np.full(self._rows, np.nan, np.float32)
        for part, vectors in self._blocks(ordinals[np.isnan(self._norms[ordinals])]):
            self._norms[part] = np.linalg.norm(vectors.astype(np.float32), axis=1)
        found: Scores = self._norms[ordinals]
        return found

    def learn(self, ordinals: Ordinals) -> None:
        """Find the groups of the rows."""
        if self._groups is None:
            self._groups = np.full(self._rows, -1, np.int64)
        fresh: dict[bytes, list[int]] = {}
        for part, vectors in self._blocks(ordinals[self._groups[ordinals] < 0]):
            for ordinal, vector in zip(part.tolist(), vectors, strict=True):
                digest = hashlib.blake2b(vector.tobytes(), digest_size=_DIGEST_BYTES).digest()
                fresh.setdefault(digest, []).append(ordinal)
        for digest, rows in fresh.items():
            if digest not in self._numbers and len(rows) >= _LEAST:
                self._numbers[digest] = len(self._members)
                self._members.append(np.empty(0, np.int64))
            if (number := self._numbers.get(digest)) is not None:
                self._members[number] = np.union1d(self._members[number], rows)
                self._groups[rows] = number

    def one_each(self, counted: Mask | None) -> Mask | None:
        """Return which rows count, and of each group only the first of those."""
        if not self._members:
            return counted
        mask = np.ones(self._rows, np.bool_) if counted is None else counted.copy()
        for members in self._members:
            mask[members[mask[members]][1:]] = False
        return mask

    def distinct(self, ordinals: Ordinals) -> Ordinals:
        """Return the rows, but of each group only one."""
        if self._groups is None:
            return ordinals
        groups = self._groups[ordinals]
        _, first = np.unique(groups, return_index=True)
        kept = groups < 0
        kept[first] = True
        return ordinals[kept]

    def all_alone(self, ordinals: Ordinals) -> bool:
        """Return whether none of the rows is in a group."""
        return self._groups is None or bool((self._groups[ordinals] < 0).all())

    def spread(
        self, ordinals: Ordinals, scores: Scores, counted: Mask | None
    ) -> tuple[Ordinals, Scores]:
        """Return the rows, distinct ones, and all that count and are equal to one, with scores."""
        if self._groups is None or self.all_alone(ordinals):
            return ordinals, scores
        groups = self._groups[ordinals]
        alone = groups < 0
        rows, values = [ordinals[alone]], [scores[alone]]
        for number, score in zip(groups[~alone].tolist(), scores[~alone], strict=True):
            members = self._members[number]
            rows.append(members if counted is None else members[counted[members]])
            values.append(np.full(len(rows[-1]), score))
        return np.concatenate(rows), np.concatenate(values)

    def _blocks(self, ordinals: Ordinals) -> Iterator[tuple[Ordinals, Vectors]]:
        for start in range(0, len(ordinals), _BLOCK):
            part = ordinals[start : start + _BLOCK]
            yield part, self._read(part)
