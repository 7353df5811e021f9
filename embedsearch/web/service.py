"""What all routes of a server share."""

from __future__ import annotations

from dataclasses import dataclass

from embedsearch.core.records import ImageRecord
from embedsearch.searching.searcher import Searcher
from embedsearch.web.limits import Kind, ServerLimits
from embedsearch.web.metrics import Metrics
from embedsearch.web.turns import Turns


@dataclass(frozen=True)
class Service:
    """An open store, and whose turn it is."""

    searcher: Searcher
    turns: Turns
    metrics: Metrics
    limits: ServerLimits

    @property
    def generation(self) -> int:
        """Return the generation of the store that answers."""
        return self.searcher.manifest.generation

    async def is_remote(self, images: list[str | int]) -> bool:
        """Return whether one of these images of the store is fetched from another server."""
        if not any(root.is_remote for root in self.searcher.manifest.roots):
            return False
        return await self.turns.run(Kind.RECORDS, lambda: any(map(self.searcher.is_remote, images)))

    async def records(self, rows: list[int]) -> list[ImageRecord]:
        """Return the records of rows, in order, without those that the store has no more."""
        return await self.turns.run(Kind.RECORDS, lambda: self.searcher.records(rows))
