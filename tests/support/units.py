"""A store that is indexed by units, with the counting extractor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedsearch.core.session import Session
from embedsearch.indexing.distributed.plan import plan
from embedsearch.indexing.distributed.run import run_units
from embedsearch.indexing.sync import index
from embedsearch.store.units import UnitPlan
from tests.support.stores import live_rows

Factory = Callable[..., Any]


class Shared:
    """A store that is indexed by units, with the counting extractor."""

    def __init__(self, store: Path, factory: Factory) -> None:
        self.store = store
        self._factory = factory

    def plan(self, *folders: Path, shares: int = 4, **options: Any) -> UnitPlan:
        if not self.store.exists():
            options.setdefault("model", "packaged")
        made = plan(list(folders), store=self.store, shares=shares, **options)
        assert made is not None
        return made

    def run(self, *numbers: int, session: Session | None = None) -> Any:
        return run_units(self.store, numbers, extractor_factory=self._factory, session=session)

    def index(self, *folders: Path, **options: Any) -> Any:
        if not self.store.exists():
            options.setdefault("model", "packaged")
        return index(list(folders), store=self.store, extractor_factory=self._factory, **options)

    @property
    def facts(self) -> list[dict[str, Any]]:
        """All that the rows say but their numbers, by key."""
        rows = [{n: v for n, v in row.items() if n != "row"} for row in live_rows(self.store)]
        return sorted(rows, key=lambda row: (row["root"], row["key"]))
