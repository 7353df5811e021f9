"""Similarity of images; in: signatures or embeddings, out: similar pairs.

A signature is the luma of an image at 16 × 16. Its correlation with another's does not change
with brightness, contrast or color, and hardly with size and compression; turning or
mirroring a signature gives that of the turned or mirrored image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.records import SIGNATURE_SIDE
from embedsearch.core.session import Session
from embedsearch.curation import crops
from embedsearch.curation.linkage import Ball, Members
from embedsearch.curation.turns import AS_IT_IS, Turn
from embedsearch.searching.ann.graph import NearGraph, Pairs

Units = npt.NDArray[np.float16]
_Compared: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
NEAREST = 16  # neighbors that each image is compared with
_PLAIN_LEVELS = 2.0  # standard deviation of the luma below which a picture has no structure
_BLOCK = 2048
# In radians: float16 makes unit vectors up to a 4,000th too long, and cosines near 1 say little.
_ROUNDING = 0.02
_SAME = 0.9995  # the cosine of a float16 vector with itself may be as low


def signature_units(signatures: npt.NDArray[np.uint8]) -> Units:
    """Return signatures, uint8 (n, 256), without their mean, of length 1; without structure, 0."""
    units = np.zeros(signatures.shape, np.float16)
    for start in range(0, len(signatures), _BLOCK):
        some = signatures[start : start + _BLOCK].astype(np.float32)
        some -= some.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(some, axis=1, keepdims=True)
        plain = lengths < _PLAIN_LEVELS * SIGNATURE_SIDE
        units[start : start + _BLOCK] = np.where(plain, 0.0, some / np.where(plain, 1.0, lengths))
    return units


@dataclass(frozen=True)
class CropData:
    """The data for finding crops.

    Signatures uint8 (n, 256), and embeddings float16 (n, D), which choose the pairs to compare.
    """

    signatures: npt.NDArray[np.uint8]
    vectors: Units


class Similarity:
    """Unit vectors that are compared by their cosine, each as it is and turned in some ways."""

    def __init__(
        self,
        units: Units,
        least: float,
        turns: Sequence[Turn],
        session: Session,
        parts: CropData | None = None,
    ) -> None:
        """Take units float16 (n, D); two are alike from a cosine of `least` on.

        With `parts`, also where one shows a part of the other.
        """
        self._units = units
        self._least = min(least, _SAME)
        self.turns = list(turns)
        self._session = session
        self._parts = parts
        self._crops = None if parts is None else crops.Crops(parts.signatures)

    @property
    def is_plain(self) -> bool:
        """Return whether images are compared only as they are, as a whole."""
        return self.turns == [AS_IT_IS] and self._parts is None

    def pairs(self) -> tuple[Pairs, npt.NDArray[np.int8]]:
        """Return each alike pair once, best first, and the number of its turn, int8 (p,).

        The number after the last turn stands for a crop.
        """
        graph = NearGraph(self._units, self._session)
        found = [graph.pairs(turn.of(self._units), NEAREST, self._least) for turn in self.turns]
        found = [some.where(some.first != some.second) for some in found]
        if self._parts is not None:
            found.append(self._part_pairs(self._parts))
        pairs, which = _joined(found)
        low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
        is_part = which == len(self.turns)  # whole images come before crops
        order = np.lexsort((which, high, low, -pairs.scores, is_part))
        _, first = np.unique((low * len(self._units) + high)[order], return_index=True)
        once = order[np.sort(first)]
        return Pairs(low[once], high[once], pairs.scores[once]), which[once]

    def pairs_among(self, some: Members) -> Iterator[tuple[int, int]]:
        """Yield the alike pairs of whole images among some, best first."""
        graph = NearGraph(self._units[some], self._session)
        found = [
            graph.pairs(turn.of(self._units[some]), NEAREST, self._least) for turn in self.turns
        ]
        pairs, _ = _joined([each.where(each.first < each.second) for each in found])
        order = np.argsort(-pairs.scores, kind="stable")
        first, second = some[pairs.first[order]], some[pairs.second[order]]
        yield from zip(first.tolist(), second.tolist(), strict=True)

    def _part_pairs(self, parts: CropData) -> Pairs:
        """Return (whole, part) pairs among images with near embeddings."""
        assert self._crops is not None
        near = NearGraph(parts.vectors, self._session).pairs(
            parts.vectors, NEAREST, crops.MIN_COSINE
        )
        near = near.where(near.first != near.second)
        wholes = np.concatenate([near.first, near.second])
        others = np.concatenate([near.second, near.first])
        order = np.lexsort((others, wholes))
        wholes, others = wholes[order], others[order]
        edges = np.flatnonzero(np.diff(wholes, prepend=-1, append=-1))
        scores = np.empty(len(wholes), np.float32)
        for start, stop in pairwise(edges.tolist()):
            self._session.check()
            scores[start:stop] = self._crops.scores(int(wholes[start]), others[start:stop])
        return Pairs(wholes, others, scores).where(scores >= crops.MIN_SCORE)

    def against(self, queries: Units) -> tuple[Pairs, npt.NDArray[np.int8]]:
        """Return for each query, float16 (Q, D), the rows that are alike, best first."""
        graph = NearGraph(self._units, self._session)
        found = [graph.pairs(turn.of(queries), NEAREST, self._least) for turn in self.turns]
        pairs, which = _joined(found)
        order = np.lexsort((which, pairs.second, -pairs.scores, pairs.first))
        return Pairs(pairs.first[order], pairs.second[order], pairs.scores[order]), which[order]

    @property
    def reach(self) -> float:
        """Return the angle, in radians, up to which two are alike as they are.

        A little less: angles add up, and float16 rounds.
        """
        return math.acos(min(1.0, self._least)) - _ROUNDING

    def ball(self, members: Members) -> Ball:
        """Return a ball around members, as they are."""
        center = self._units[members].astype(np.float32).mean(axis=0)
        center /= max(float(np.linalg.norm(center)), 1e-9)
        return Ball(center, self.farthest(members, center))

    def farthest(self, members: Members, center: npt.NDArray[np.float32]) -> float:
        """Return the angle between a center and the member that is farthest from it."""
        cosines = self._units[members].astype(np.float32) @ center
        return math.acos(min(1.0, max(-1.0, float(cosines.min()))))

    def all_alike(self, some: Members, others: Members) -> bool:
        """Return whether each of some rows is alike to each of the others."""
        for start in range(0, len(some), _BLOCK):
            self._session.check()
            for other in range(0, len(others), _BLOCK):
                if not self._alike(some[start : start + _BLOCK], others[other : other + _BLOCK]):
                    return False
        return True

    def _alike(self, some: Members, others: Members) -> bool:
        scores, _ = self._turned(some, others)
        alike = scores >= self._least
        if self._crops is not None and not alike.all():
            # Crops are looked for only among images that are not alike as a whole.
            first, second = np.flatnonzero(~alike.all(axis=1)), np.flatnonzero(~alike.all(axis=0))
            part = self._crops.matrix(some[first], others[second]) >= crops.MIN_SCORE
            alike[np.ix_(first, second)] |= part
        return bool(alike.all())

    def compared(self, one: int, others: Members) -> _Compared:
        """Return how alike others are to one, float32 (m,), and the numbers of their turns."""
        scores, which = (found[0] for found in self._turned(np.array([one]), others))
        if self._crops is not None:
            part = self._crops.matrix(np.array([one]), others)[0]
            is_part = scores < self._least
            scores = np.where(is_part, part, scores)
            which = np.where(is_part, len(self.turns), which)
        return scores, which

    def _turned(self, some: Members, others: Members) -> _Compared:
        """Return the best cosines of any turn, float32 (n, m), and the numbers of the turns."""
        right = self._units[others].astype(np.float32).T
        left = (turn.of(self._units[some]).astype(np.float32) for turn in self.turns)
        scores = np.stack([turned @ right for turned in left])
        which = scores.argmax(axis=0)
        return np.take_along_axis(scores, which[None], axis=0)[0], which


def _joined(found: list[Pairs]) -> tuple[Pairs, npt.NDArray[np.int8]]:
    """Return all pairs, and for each the number of its part, int8 (p,)."""
    numbers = np.arange(len(found), dtype=np.int8)
    return Pairs.joined(found), np.repeat(numbers, [len(some.first) for some in found])
