"""Proposed groups, seen closely; in: nodes that may show one picture, out: leaders and versions.

A node is one content: a file, or several of the same bytes. Nodes come in the order in which they
would be kept; each is compared with the leaders before it and becomes one itself if it is no
copy of any. So each copy was compared with the very image that is kept instead of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from embedsearch.curation.copies import CROP, FIRST_PAGE, NOT_CHECKED, is_copy
from embedsearch.curation.similarity import Similarity
from embedsearch.curation.turns import Turn
from embedsearch.images.close_look import Leaders, Look, Verdict, verdict

IsSame: TypeAlias = Callable[[int, int, Turn], "bool | None"]
_MAX_LEADERS = 1000  # in one group; what is no version of any of these is listed nowhere


@dataclass
class Leader:
    """A node to keep, and its versions: how they differ and the cosine, by node."""

    node: int
    look: Look | None
    versions: dict[int, tuple[str, float]] = field(default_factory=dict)


def confirmed(
    seen: Iterable[tuple[int, Look | None]], similarity: Similarity, is_same: IsSame
) -> list[Leader]:
    """Return leaders and their versions, from nodes with their looks, the first to keep first.

    A version that is no copy, such as a recolored one, is a leader too: it may have copies of its
    own. Without any it is listed as a version of the first leader that it is one of. `is_same` has
    the last word on a copy: it looks at two nodes, the first one turned, as closely as it can.
    """
    leaders: list[Leader] = []
    rough = Leaders() if similarity.is_plain else None
    related: dict[int, tuple[Leader, tuple[str, float]]] = {}  # by node, where it is no copy
    for node, look in seen:
        near = range(len(leaders)) if rough is None or look is None else rough.near(look)
        for leader in [leaders[number] for number in near]:
            found = _version(leader, node, look, similarity, is_same)
            if found is None:
                continue
            if is_copy(found[0]):
                leader.versions[node] = found
                break
            related.setdefault(node, (leader, found))
        else:
            if len(leaders) < _MAX_LEADERS:
                leaders.append(Leader(node, look))
                if rough is not None:
                    rough.add(look)
    alone = {leader.node for leader in leaders if not leader.versions}
    for node in reversed(related):  # the last first: what has got one stays a leader
        leader, version = related[node]
        if node in alone:
            leader.versions[node] = version
            alone.discard(leader.node)
    return [leader for leader in leaders if leader.node not in alone & related.keys()]


def how_seen(
    kept: Look | None, other: Look | None, turn: str, is_same: Callable[[], bool | None]
) -> str | None:
    """Return how an image differs from the one that is kept; None if it is another picture.

    `turn` names how one of them was turned before. `is_same` looks closely at a copy; it returns
    None where it cannot.
    """
    if kept is None or other is None:
        return NOT_CHECKED
    found = verdict(kept, other)
    if found is Verdict.DIFFERENT:
        return None
    how = turn if found is Verdict.COPY else found.value
    if not is_copy(how):
        return how
    same = is_same() if kept.is_large and other.is_large else True
    if not same:
        return NOT_CHECKED if same is None else None
    return FIRST_PAGE if other.has_more else how


def _version(
    leader: Leader, node: int, look: Look | None, similarity: Similarity, is_same: IsSame
) -> tuple[str, float] | None:
    scores, numbers = similarity.compared(leader.node, np.array([node]))
    score, number = min(1.0, float(scores[0])), int(numbers[0])
    if number == len(similarity.turns):
        return CROP, score
    turn = similarity.turns[number]
    kept = None if leader.look is None else leader.look.turned(turn.square)
    how = how_seen(kept, look, turn.how, lambda: is_same(leader.node, node, turn))
    return None if how is None else (how, score)
