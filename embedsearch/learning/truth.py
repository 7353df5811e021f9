"""What each image should find; in: keys with classes or pairs, out: the relevant images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import printable
from embedsearch.learning.metrics import Bools, Ints
from embedsearch.learning.reports import ClassMeasure

_NAMED = 3
_SHOWN = ("recall@1", "mAP")  # of a class
Values: TypeAlias = "Mapping[str, npt.NDArray[np.float64]]"  # (Q,) by the name of the measure
Pairs: TypeAlias = "list[tuple[str, str]]"  # keys of a query and an image that it should find


class Truth(Protocol):
    """What each of N images should find; `wanted` int64 (N,) says how many these are."""

    wanted: Ints

    def relevant(self, queries: Ints, order: Ints) -> Bools:
        """Return bool (Q, N): which of the ranked items each query should find."""

    def class_measures(self, queries: Ints, values: Values) -> list[ClassMeasure]:
        """Return the means of each class over its queries, of whose measures these are values."""


def queries_of(truth: Truth) -> Ints:
    """Return the images that have others to find, int64 (Q,). Raises UsageError without any."""
    if not len(queries := np.flatnonzero(truth.wanted)):
        raise UsageError(
            "no picture has another one to find: evaluate needs one folder per class, each with "
            "at least two images, or relevant=pairs.csv",
            "relevant",
        )
    return queries


def of_folders(keys: Sequence[str]) -> ClassTruth:
    """Return the truth where the first folder of a key is the class. Raises UsageError."""
    return ClassTruth([key.partition("/")[0] if "/" in key else "" for key in keys])


class ClassTruth:
    """Images of a class should find each other; one without a class has none to find."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are the classes of the images, "" for none. Raises UsageError for only one."""
        self._classes = sorted({name for name in names if name})
        numbers = {name: number for number, name in enumerate(self._classes)}
        self._labels = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
        if len(self._classes) == 1:
            raise UsageError(
                f"all pictures in folders are of one class, {printable(self._classes[0])}: "
                "evaluate needs at least two folders, one per class"
            )
        self._members = np.bincount(self._labels + 1, minlength=len(self._classes) + 1)
        members = self._members - 1
        members[0] = 0  # of images without a class
        self.wanted = members[self._labels + 1]

    def relevant(self, queries: Ints, order: Ints) -> Bools:
        """Return bool (Q, N): which of the ranked items each query should find."""
        return np.asarray(self._labels[order] == self._labels[queries][:, None])

    def class_measures(self, queries: Ints, values: Values) -> list[ClassMeasure]:
        """Return the means of each class over its queries, of whose measures these are values."""
        labels, found = self._labels[queries], []
        for number, name in enumerate(self._classes):
            mine = labels == number
            means = [float(values[name][mine].mean()) if mine.any() else None for name in _SHOWN]
            found.append(ClassMeasure(name, int(self._members[number + 1]), *means))
        return found


class PairTruth:
    """Images should find those that pairs of keys name."""

    def __init__(self, keys: list[str], pairs: Pairs, notice: Callable[[str], None]) -> None:
        """Raise UsageError for a key that is there twice; tell of names that are not there."""
        numbers = {key: number for number, key in enumerate(keys)}
        if len(numbers) < len(keys):
            raise UsageError(
                "relevant names keys, and two folders of the store hold the same key", "relevant"
            )
        absent = sorted({key for pair in pairs for key in pair} - numbers.keys())
        if absent:
            shown = ", ".join(map(printable, absent[:_NAMED]))
            notice(f"{len(absent)} names in relevant are not among the images: {shown}")
        self._others: dict[int, set[int]] = {}
        for query, other in pairs:
            if query in numbers and other in numbers and query != other:
                self._others.setdefault(numbers[query], set()).add(numbers[other])
        self.wanted = np.array([len(self._others.get(i, ())) for i in range(len(keys))], np.int64)

    def relevant(self, queries: Ints, order: Ints) -> Bools:
        """Return bool (Q, N): which of the ranked items each query should find."""
        rows = [np.isin(order[i], list(self._others[int(q)])) for i, q in enumerate(queries)]
        return np.array(rows)

    def class_measures(self, queries: Ints, values: Values) -> list[ClassMeasure]:
        """Return nothing: there are no classes."""
        return []
