"""Groups in which every two are alike; in: pairs, best first, out: groups of positions.

Complete linkage: a chain of pairs, each alike, does not make a group of its two ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Members: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ball:
    """Members are within `radius` radians of `center`, float32 (D,)."""

    center: npt.NDArray[np.float32]
    radius: float


class Alike(Protocol):
    """Knows which positions are alike."""

    @property
    def reach(self) -> float:
        """Return the angle, in radians, up to which two are alike."""

    def ball(self, members: Members) -> Ball:
        """Return a ball around members."""

    def farthest(self, members: Members, center: npt.NDArray[np.float32]) -> float:
        """Return the angle between a center and the member that is farthest from it."""

    def all_alike(self, some: Members, others: Members) -> bool:
        """Return whether each of some is alike to each of the others."""


@dataclass
class _Group:
    members: list[int]
    ball: Ball
    measured: int = 1  # members when the center was measured; those since may have widened the ball
    strangers: set[int] = field(default_factory=set)  # groups that it cannot be joined with


def complete_groups(
    pairs: Iterable[tuple[int, int]],
    alike: Alike,
    pairs_among: Callable[[Members], Iterable[tuple[int, int]]],
) -> list[list[int]]:
    """Return groups of two and more, each in ascending order, in the order of their first.

    Pairs come best first. The groups of a pair are joined if each member of one is alike to each of
    the other; two groups that are not are never compared again. Pairs are those of each position
    with its nearest few, and a large group is all that its members see: so `pairs_among` is asked
    for those of one member of each group, until none can be joined any more.
    """
    linked = _Linked(alike)
    while linked.join(pairs):
        pairs = pairs_among(linked.firsts())
    return sorted(
        sorted(group.members) for group in linked.groups.values() if len(group.members) > 1
    )


class _Linked:
    """Groups while they are joined.

    Where the ball around the larger group proves it, members are not compared one by one: of a
    hundred thousand copies of one image that would be every two.
    """

    def __init__(self, alike: Alike) -> None:
        self._alike = alike
        self._home: dict[int, int] = {}  # by position: the name of its group
        self.groups: dict[int, _Group] = {}

    def join(self, pairs: Iterable[tuple[int, int]]) -> bool:
        """Join the groups of pairs where that can be; return whether any were."""
        count = 0
        for first, second in pairs:
            for position in (first, second):
                if position not in self._home:
                    self._home[position] = position
                    ball = self._alike.ball(np.array([position]))
                    self.groups[position] = _Group([position], ball)
            count += self._join(self._home[first], self._home[second])
        return count > 0

    def firsts(self) -> Members:
        """Return a member of each group."""
        return np.array(sorted(group.members[0] for group in self.groups.values()), np.int64)

    def _join(self, one: int, other: int) -> bool:
        groups, alike = self.groups, self._alike
        if one == other or other in groups[one].strangers:
            return False
        if len(groups[one].members) < len(groups[other].members):
            one, other = other, one
        large, small = groups[one], groups[other]
        others = np.array(small.members)
        spread = alike.farthest(others, large.ball.center)
        is_pair = len(large.members) == len(small.members) == 1
        is_near = large.ball.radius + spread <= alike.reach
        if not (is_pair or is_near or alike.all_alike(np.array(large.members), others)):
            large.strangers.add(other)
            small.strangers.add(one)
            return False
        del groups[other]
        for position in small.members:
            self._home[position] = one
        large.members += small.members
        if len(large.members) >= 2 * large.measured:
            large.ball = alike.ball(np.array(large.members))
            large.measured = len(large.members)
        else:
            large.ball = Ball(large.ball.center, max(large.ball.radius, spread))
        large.strangers |= small.strangers
        for stranger in small.strangers:
            groups[stranger].strangers.discard(other)
            groups[stranger].strangers.add(one)
        return True
