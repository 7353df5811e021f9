"""What of a query counts; in: a query and a config, out: what is ranked, and how far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedsearch.core.config import SearchConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.scores import PICTURE, WORDS
from embedsearch.searching.queries import Sought, Vector
from embedsearch.searching.ranking.fusion import POOL

if TYPE_CHECKING:
    from embedsearch.searching.words.search import Ranking


@dataclass(frozen=True)
class Wanted:
    """What is searched for: near which measured vector, and with which words, the best so many."""

    vector: Vector | None
    words: Callable[[int], Ranking] | None = None
    left_out: int = 0  # rows, for their words
    reads: bool = False  # the vector is of a text

    def depth(self, count: int) -> int:
        """Return how many of the nearest rows are needed for so many rows of a ranking."""
        return count if self.words is None else max(count, POOL) + self.left_out


def ranked_by(query: Sought, config: SearchConfig) -> Sought:
    """Return what counts of a query. Raises UsageError if nothing is left."""
    if config.by == WORDS:
        if query.text is None:
            raise UsageError("by=words needs a text to look for", "by")
        return Sought(None, query.text)
    if config.by == PICTURE:
        if query.vector is None:
            raise UsageError("by=picture needs an image: this store's model reads no text", "by")
        if query.text is not None:
            from embedsearch.searching.words.terms import excludes  # others need no patterns

            if not excludes(query.text):
                return Sought(query.vector, reads=query.reads)
    return query
