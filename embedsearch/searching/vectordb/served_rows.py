"""The nearest rows of one generation, by a vector database; in: unit vectors, out: Neighbors.

The database supplies candidates. The store decides which of them count and scores them, so scores
do not depend on the source of the candidates.
"""

from __future__ import annotations

import numpy as np

from embedsearch.core.errors import IncompatibleStore
from embedsearch.core.lru import LRU
from embedsearch.core.records import Neighbors
from embedsearch.core.session import Session
from embedsearch.searching.ann.search import cosines
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.neighbors import NO_NEIGHBORS, RowSearch, best
from embedsearch.searching.row_sources import Mask, Ordinals, Queries
from embedsearch.searching.vectordb.conditions import Always, Condition
from embedsearch.searching.vectordb.database import DatabaseRecord, Rows, VectorDatabase, vanished
from embedsearch.searching.vectordb.fields import vector_checksums
from embedsearch.store.snapshot import Snapshot

_SPARE = 16  # candidates beyond k
_MORE = 4  # times as many if too few of them count
_SAMPLE = 16  # rows that are compared to check that the database was filled from this store
_CONDITIONS_KEPT = 8
_TIE = 1e-6
_VECTOR = np.int64(-1) << np.int64(32)  # the bits of a mark that hold the vector's checksum


class ServedRows:
    """The rows of a generation, searched by a vector database."""

    def __init__(
        self,
        database: VectorDatabase,
        snapshot: Snapshot,
        rows: RowSearch,
        columns: RowColumns,
        session: Session,
    ) -> None:
        """Compare the database with the generation.

        Raises StorageError, and IncompatibleStore if it holds other images or another model's
        vectors. A database that is out of date is used too, with a notice.
        """
        self._database = database
        self._snapshot = snapshot
        self._rows = rows
        self._columns = columns
        self._session = session
        self._conditions: LRU[str, Condition] = LRU(_CONDITIONS_KEPT)
        self._has_noticed = False
        if (record := database.record()) is None:
            raise vanished(database.place)
        record.check_model(snapshot.manifest.model, database.place)
        self._record = record
        self._check_sample(record)
        is_ours = record.is_of(snapshot.manifest.store_id)
        self._is_current = is_ours and record.generation == snapshot.manifest.generation
        if not is_ours:
            session.notice(
                f"{database.place} holds the rows of another store, or of one that stood here "
                "before: embedsearch export --to with --replace puts these in their place"
            )
        elif not self._is_current:
            session.notice(
                f"{database.place} holds {_generation(record)}, the store generation "
                f"{snapshot.manifest.generation}: embedsearch export --to brings it up to date"
            )

    def nearest(
        self, queries: Queries, k: int, condition: Condition | None, mask: Mask | None
    ) -> list[Neighbors]:
        """Return the neighbors of each query, float32 (Q, D), unit rows, that meet a condition.

        `mask` says which rows meet it: it counts if the database finds too few.
        """
        if not (k := min(k, self._snapshot.manifest.live)):
            return [NO_NEIGHBORS for _ in queries]
        condition = Always(True) if condition is None else condition
        allowed = None if self._is_current else mask
        answers = [NO_NEIGHBORS for _ in queries]
        open_queries, count = list(range(len(queries))), 0
        while open_queries:
            count = min(max(k + _SPARE, count * _MORE), self._database.most)
            still_open = []
            found = self._database.search(queries[open_queries], count, condition)
            for index, rows in zip(open_queries, found, strict=True):
                ordinals = self._counted(rows, allowed)
                scores = cosines(queries[index], self._rows.vectors(ordinals))
                is_all = len(rows) < count or count == self._database.most
                if len(ordinals) >= k:
                    answers[index] = best(ordinals, scores, k)
                    kth = answers[index].scores.min()
                    if not is_all and scores.min() > kth - _TIE:  # others may tie with it
                        still_open.append(index)
                elif not is_all:
                    still_open.append(index)
                elif len(ordinals) < (matching := self._matching(mask)):
                    answers[index] = self._exact(queries[index], min(k, matching), mask)
                elif matching:
                    answers[index] = best(ordinals, scores, matching)
            open_queries = still_open
        return answers

    def _counted(self, rows: Rows, allowed: Mask | None) -> Ordinals:
        """Return the ordinals of the rows that the store has and that are allowed."""
        ordinals = self._snapshot.ordinals(rows)
        ordinals = ordinals[ordinals >= 0]
        counted = self._rows.counted(allowed)
        return ordinals if counted is None else ordinals[counted[ordinals]]

    def _matching(self, allowed: Mask | None) -> int:
        """Return how many live rows are allowed."""
        counted = self._rows.counted(allowed)
        return self._snapshot.manifest.live if counted is None else int(counted.sum())

    def _exact(self, query: Queries, k: int, allowed: Mask | None) -> Neighbors:
        """Return the result of exact search in the store, with a notice the first time."""
        if not self._has_noticed:
            self._has_noticed = True
            self._session.notice(
                f"{self._database.place} found fewer rows than match the query: "
                "the store itself is searched, exactly"
            )
        return self._rows.exact(query[None], k, self._rows.counted(allowed))[0]

    def condition(self, where: str | None) -> Condition:
        """Return a condition for the database; the last ones are cached. Raises UsageError."""
        if where is None:
            return Always(True)
        return self._conditions.get(
            where, lambda: self._columns.condition(where, self._record.fields)
        )

    def _check_sample(self, record: DatabaseRecord) -> None:
        """Raise IncompatibleStore if rows of the same numbers have other vectors."""
        live = self._rows.counted(None)
        ordinals = np.arange(self._snapshot.starts[-1]) if live is None else np.flatnonzero(live)
        ordinals = ordinals[:: max(1, len(ordinals) // _SAMPLE)][:_SAMPLE]
        if not len(ordinals):
            return
        rows = np.array([image.row for image in self._snapshot.images(ordinals)], np.int64)
        # As the network made them: their center may have been another one when they were sent.
        vectors = self._snapshot.plain_vectors_of(ordinals)
        expected = dict(zip(rows.tolist(), vector_checksums(vectors), strict=True))
        for row, mark in zip(*self._database.marks(rows, record), strict=True):
            if mark & _VECTOR != expected[int(row)]:
                raise IncompatibleStore(
                    f"{self._database.place} was filled from another store than "
                    f"{self._snapshot.store}: use that store, or export --to another collection"
                )


def _generation(record: DatabaseRecord) -> str:
    if record.generation:
        return f"generation {record.generation}"
    return "what an interrupted export sent"
