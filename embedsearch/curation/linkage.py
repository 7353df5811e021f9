"""Groups in which every two are alike; in: pairs, best first, out: groups of positions.

Complete linkage: a chain of pairs, each alike, does not make a group of its two ends.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def complete_groups(pairs: Iterable[tuple[int, int]], alike: Alike) -> list[list[int]]:
    """Return groups of two and more, each in ascending order, in the order of their first.

    Pairs come best first. The groups of a pair are joined if each member of one is alike to each of
    the other; two groups that are not are never compared again. Where the ball around the larger
    group proves it, members are not compared one by one: of a hundred thousand copies of one image
    that would be every two.
    """
    home: dict[int, int] = {}  # by position: the name of its group
    groups: dict[int, _Group] = {}
    for first, second in pairs:
        for position in (first, second):
            if position not in home:
                home[position] = position
                groups[position] = _Group([position], alike.ball(np.array([position])))
        one, other = home[first], home[second]
        if one == other or other in groups[one].strangers:
            continue
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
            continue
        del groups[other]
        for position in small.members:
            home[position] = one
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
    return sorted(sorted(group.members) for group in groups.values() if len(group.members) > 1)
