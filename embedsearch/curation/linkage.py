"""Pairs to groups in which every two are alike; in: pairs, best first, out: groups of positions.

Complete linkage: a chain of pairs, each alike, does not make a group of its two ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Members: TypeAlias = npt.NDArray[np.int64]
# Whether each of some members is alike to each of some others.
AllAlike: TypeAlias = Callable[[Members, Members], bool]


def complete_groups(pairs: Iterable[tuple[int, int]], all_alike: AllAlike) -> list[list[int]]:
    """Return groups of two and more, each in ascending order, in the order of their first.

    Pairs come best first: the groups of a pair are joined, if each member of one is alike to each
    of the other. Two groups that are not are never compared again, whatever joins them.
    """
    home: dict[int, int] = {}  # of a position: the name of its group
    groups: dict[int, list[int]] = {}
    strangers: dict[int, set[int]] = {}  # of a group: those that it cannot be joined with
    for first, second in pairs:
        for place in (first, second):
            if place not in home:
                home[place] = place
                groups[place], strangers[place] = [place], set()
        one, other = home[first], home[second]
        if one == other or other in strangers[one]:
            continue
        if len(groups[one]) < len(groups[other]):
            one, other = other, one
        is_pair = len(groups[one]) == len(groups[other]) == 1
        if not is_pair and not all_alike(np.array(groups[one]), np.array(groups[other])):
            strangers[one].add(other)
            strangers[other].add(one)
            continue
        for place in groups[other]:
            home[place] = one
        groups[one] += groups.pop(other)
        for stranger in strangers.pop(other):
            strangers[stranger].discard(other)
            strangers[stranger].add(one)
            strangers[one].add(stranger)
    found = [sorted(group) for group in groups.values() if len(group) > 1]
    return sorted(found)
