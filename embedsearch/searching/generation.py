"""One generation, open for queries; in: unit vectors and texts, out: hits.

The rows that match a filter (filters/) → the nearest of them (neighbors.py), those with the words
of a text (words/), or both in one ranking → a page of hits (ranking/).
Concurrent queries of several threads are answered in one pass over the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import SearchConfig
from embedsearch.core.errors import EmbedSearchError, ImageNotFound, UsageError
from embedsearch.core.microbatch import MicroBatcher
from embedsearch.core.records import NO_DIGEST, Hit, ImageRecord, Neighbors, StoredPlace
from embedsearch.core.scores import PICTURE
from embedsearch.core.session import Session
from embedsearch.searching.browsing.browser import Browser
from embedsearch.searching.browsing.records import records_of
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.neighbors import RowSearch
from embedsearch.searching.queries import Sought, Vector
from embedsearch.searching.query_vectors import drawn_towards
from embedsearch.searching.ranking import ordering
from embedsearch.searching.ranking.counts import Counter, SearchCounts
from embedsearch.searching.ranking.fusion import POOL
from embedsearch.searching.ranking.ordering import Row
from embedsearch.searching.ranking.page import Pages, Ranked, place_of, pool_of
from embedsearch.searching.ranking.wanted import Wanted, ranked_by
from embedsearch.searching.row_sources import Mask
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from embedsearch.searching.vectordb.conditions import Condition
    from embedsearch.searching.vectordb.database import VectorDatabase
    from embedsearch.searching.vectordb.served_rows import ServedRows
    from embedsearch.searching.words.search import Ranking, WordIndex

QUERIES_AT_ONCE = 512  # share one pass over the rows
_MANY_TIES = 256  # are ordered by a list of all names, which is made once

_Question: TypeAlias = tuple["Wanted", SearchConfig, "_Asked"]
_Outcome: TypeAlias = "_Page | EmbedSearchError"


@dataclass(frozen=True)
class Found:
    """The hits of a query, and how many images were ranked if that was asked."""

    hits: list[Hit]
    counts: SearchCounts | None


class Generation:
    """A snapshot with all that is needed to search it. Any number of threads may query at once."""

    def __init__(
        self, snapshot: Snapshot, session: Session, database: VectorDatabase | None = None
    ) -> None:
        """Own the snapshot: it is closed with this, or at once if this fails.

        A database supplies the candidates instead of FAISS; the caller closes it.
        """
        self._snapshot = snapshot
        self._reading = threading.RLock()  # a Parquet reader is not thread-safe
        try:
            self._rows = RowSearch(snapshot, session)
            self._columns = RowColumns(snapshot, session, self._reading)
            self._session = session
            self._counter = Counter(self._rows, snapshot.manifest.live, self._reading)
            self._words: WordIndex | None = None
            self._pages = Pages(snapshot, self._rows, self._columns)
            self.browser = Browser(snapshot, self._rows, self._columns, self._reading)
            self._served = self._served_by(database, session)
        except BaseException:
            snapshot.close()
            raise
        self._answer_together = MicroBatcher(self._answer_all, QUERIES_AT_ONCE)

    @property
    def manifest(self) -> Manifest:
        """Return its manifest."""
        return self._snapshot.manifest

    def prepare(self, where: str | None) -> None:
        """Start what a condition will need while the query is embedded. Raises MissingLibrary."""
        if where is not None:
            self._columns.prepare(where)

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that a condition can name, and their types."""
        return {field.name: str(field.type) for field in self._columns.schema}

    def close(self) -> None:
        """Release files and memory; no query may be running."""
        with self._reading:
            self._rows.close()
            if self._words is not None:
                self._words.close()
            self._snapshot.close()
        self._columns.close()

    def found(
        self,
        queries: Sequence[Sought],
        config: SearchConfig,
        *,
        counts: bool = False,
        histogram: bool = False,
    ) -> list[Found]:
        """Return the hits of each query; with `counts`, also of how many. Raises UsageError.

        With a `histogram` the counts say how the cosines of the query are distributed.
        """
        answers = []
        asked = self._asked(config.where)
        wanted = [self._prepared(ranked_by(query, config), config, asked) for query in queries]
        outcomes = self._answer_together([(each, config, asked) for each in wanted])
        for query, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, EmbedSearchError):
                raise outcome
            told = None
            if counts or histogram:
                told = self._counter.counts(
                    query, outcome.vector, outcome.hits, config, asked.mask, histogram=histogram
                )
            answers.append(Found(outcome.hits, told))
        return answers

    def word_columns(self) -> list[str]:
        """Return the columns whose words are found."""
        from embedsearch.searching.words.documents import text_columns  # others need no SQLite

        return text_columns(self._columns)

    def measured(self, vector: Vector) -> Vector:
        """Return a unit vector, float32 (D,), measured from the center of the store."""
        center = self._snapshot.center
        return vector if center is None else center.measured(vector)

    def plain(self, measured: Vector) -> Vector:
        """Return the unit vector, float32 (D,), that a measured one, float32 (D,), is of."""
        center = self._snapshot.center
        return measured if center is None else center.plain(measured)

    def vector(self, image: str | int) -> Vector:
        """Return the measured vector of an image of the store. Raises ImageNotFound."""
        with self._reading:
            (vector,) = self._rows.vectors(np.array([self._find(image)]))
        return _unit(vector)

    def plain_vector(self, image: str | int) -> Vector:
        """Return the vector that the network made of an image. Raises ImageNotFound."""
        with self._reading:
            (vector,) = self._snapshot.plain_vectors_of(np.array([self._find(image)]))
        return _unit(vector)

    def record(self, image: str | int) -> ImageRecord:
        """Return what the store knows of an image. Raises ImageNotFound."""
        with self._reading:
            ordinals = np.array([self._find(image)])
            return records_of(self._snapshot, self._columns, ordinals)[0]

    def records(self, rows: Sequence[int]) -> list[ImageRecord]:
        """Return what the store knows of live rows, in order, without rows that it has not."""
        known = [row for row in rows if 0 <= row < 1 << 63]  # what int64 holds
        with self._reading:
            ordinals, alive = self._snapshot.ordinals(known), self._rows.alive
            found = [n for n in ordinals.tolist() if n >= 0 and (alive is None or alive[n])]
            return records_of(self._snapshot, self._columns, np.array(found, np.int64))

    def place(self, image: str | int) -> StoredPlace:
        """Return where an image was when it was indexed. Raises ImageNotFound."""
        with self._reading:
            ordinals = np.array([self._find(image)])
            (stored,) = self._snapshot.images(ordinals)
            (values,) = self._snapshot.take(ordinals, ["digest"]).to_pylist()
        place = place_of(self.manifest, stored)
        digest = None if values["digest"] == NO_DIGEST else values["digest"]
        return StoredPlace(*place, digest, stored.width, stored.height)

    def _find(self, image: str | int) -> int:
        """Return the ordinal of a live image by its key, its full path or its row."""
        if isinstance(image, str):
            ordinals = self._columns.find(image)
            problem = f"no single image of the store has the key or path {image!r}"
            if near := [] if ordinals else self._columns.called(image):
                problem += f"; did you mean {' or '.join(near)}?"
            else:
                problem += "; give it as the results show it"
        elif isinstance(image, Integral):
            number = int(image) if 0 <= image < 1 << 63 else -1  # what int64 holds
            ordinals = [n for n in self._snapshot.ordinals([number]) if n >= 0]
            problem = f"no image of the store has the row {image}"
        else:
            raise UsageError(f"an image of the store is a key, a path or a row, not {image!r}")
        alive = self._rows.alive
        if len(found := [int(n) for n in ordinals if alive is None or alive[n]]) == 1:
            return found[0]
        if len(found) > 1:
            problem = f"{len(found)} images of the store are called {image!r}: give the whole path"
        raise ImageNotFound(problem)

    def _answer_all(self, questions: list[_Question]) -> list[_Outcome]:
        """Return the hits of each query, or why it cannot be answered."""
        by_config: dict[SearchConfig, list[int]] = {}
        for index, (_, config, _) in enumerate(questions):
            by_config.setdefault(config, []).append(index)
        outcomes: dict[int, _Outcome] = {}
        with self._reading:
            for config, indices in by_config.items():
                queries = [questions[index][0] for index in indices]
                try:
                    asked = questions[indices[0]][2]
                    answers: Sequence[_Outcome] = self._answer(queries, config, asked)
                except EmbedSearchError as error:
                    answers = [error] * len(indices)
                outcomes |= dict(zip(indices, answers, strict=True))
        return [outcomes[index] for index in range(len(questions))]

    def _answer(
        self, queries: Sequence[Wanted], config: SearchConfig, asked: _Asked
    ) -> list[_Page]:
        """Return the hits of each of the queries, and the vectors that they are near."""
        pool = pool_of(config)
        numbers = [n for n, query in enumerate(queries) if query.vector is not None]
        vectors = np.array([queries[n].vector for n in numbers], np.float32)
        if numbers and config.expand:
            vectors = self._expanded(vectors, config, asked)
        depth = max((queries[n].depth(pool) for n in numbers), default=pool)
        found = self._nearest(vectors, depth, asked) if numbers else []
        near = dict(zip(numbers, zip(vectors, found, strict=True), strict=True))
        pictures = [n for n in numbers if queries[n].words is None]
        rows = dict(zip(pictures, self._pages.rows_of([near[n][1] for n in pictures]), strict=True))
        answers = []
        for n, query in enumerate(queries):
            vector = near[n][0] if n in near else None
            if query.words is None:
                assert vector is not None, "a query has a vector or words"
                ranked = self._by_picture(vector, rows[n], pool, config, asked)
            else:
                ranked = self._by_words(query, near.get(n), depth, config, asked)
            hits = self._pages.page(ranked, pool, config, vector, of_pictures=not query.reads)
            answers.append(_Page(hits, vector))
        return answers

    def _by_picture(
        self, vector: Vector, rows: list[Row], pool: int, config: SearchConfig, asked: _Asked
    ) -> Ranked:
        """Return a ranking by cosine, of which the `pool` nearest rows are known."""

        def ranked(count: int) -> list[Row]:
            known = rows
            if count > pool:
                (known,) = self._pages.rows_of(self._nearest(vector[None], count, asked))
            return ordering.reaching(ordering.by_score(known)[:count], config.min_score)

        return ranked

    def _by_words(
        self,
        query: Wanted,
        near: tuple[Vector, Neighbors] | None,
        depth: int,
        config: SearchConfig,
        asked: _Asked,
    ) -> Ranked:
        """Return a ranking by words, fused with one by cosine if a query has a vector.

        Of that, the `depth` nearest rows are known.
        """

        def ranked(count: int) -> list[Row]:
            nearest = None
            if near is not None:
                vector, nearest = near
                if (wanted := query.depth(count)) > depth:
                    (nearest,) = self._nearest(vector[None], wanted, asked)
            assert query.words is not None, "it is asked for"
            return self._pages.fused(query.words(count), nearest, count, config)

        return ranked

    def _prepared(self, query: Sought, config: SearchConfig, asked: _Asked) -> Wanted:
        """Return a query with its ranking by words, which holds up no other search."""
        if (text := query.text) is None:
            return Wanted(query.vector, reads=query.reads)
        with self._reading:  # rows are read while the words are opened, once
            if self._words is None:
                from embedsearch.searching.words.file import open_words  # others need no SQLite

                alive = self._rows.alive
                self._words = open_words(self._snapshot, self._columns, alive, self._session)
        index, known = self._words, pool_of(config)
        if config.by == PICTURE:
            nothing = index.without(text)
            left_out = len(nothing.left_out)
            return Wanted(query.vector, lambda _: nothing, left_out, reads=query.reads)
        if query.vector is not None:
            known = max(known, POOL)
        first = index.ranked(text, known, asked.mask, config.weights)
        if query.vector is None and not len(first.ordinals):
            index.check_searchable(asked.mask, reads_text=self.manifest.model.takes_texts)

        def words(count: int) -> Ranking:
            if count <= known:
                return first
            return index.ranked(text, count, asked.mask, config.weights)

        return Wanted(query.vector, words, len(first.left_out), reads=query.reads)

    def _nearest(self, queries: Vector, k: int, asked: _Asked) -> list[Neighbors]:
        """Return the k nearest rows of each query, float32 (Q, D), that meet a condition."""
        if self._served is not None:
            found = self._served.nearest(queries, k, asked.condition, asked.mask)
        else:
            found = self._rows.nearest(queries, k, asked.mask)
        return [near if len(near.scores) <= k else self._first(near, k) for near in found]

    def _first(self, near: Neighbors, k: int) -> Neighbors:
        """Return the k nearest of more rows, of those that tie the first by root and key."""
        kth = np.partition(near.scores, -k)[-k]
        nearer, ties = np.flatnonzero(near.scores > kth), np.flatnonzero(near.scores == kth)
        ordinals = near.ordinals[ties]
        if len(ties) > _MANY_TIES:
            places = self._snapshot.name_order()[ordinals]
        else:
            names = [(image.root, image.key) for image in self._snapshot.images(ordinals)]
            places = np.argsort(sorted(range(len(names)), key=names.__getitem__))
        kept = np.concatenate([nearer, ties[np.argsort(places)[: k - len(nearer)]]])
        return Neighbors(near.ordinals[kept], near.scores[kept])

    def _served_by(self, database: VectorDatabase | None, session: Session) -> ServedRows | None:
        if database is None:
            return None
        from embedsearch.searching.vectordb.served_rows import ServedRows

        return ServedRows(database, self._snapshot, self._rows, self._columns, session)

    def _asked(self, where: str | None) -> _Asked:
        """Return what a condition means here, found out before any lock is taken."""
        condition = None if self._served is None else self._served.condition(where)
        return _Asked(None if where is None else self._columns.where(where), condition)

    def _expanded(self, queries: Vector, config: SearchConfig, asked: _Asked) -> Vector:
        """Return the queries, each moved toward its nearest rows."""
        found = self._nearest(queries, config.expand, asked)
        return np.array(
            [
                drawn_towards(query, near.scores, self._rows.vectors(near.ordinals))
                for query, near in zip(queries, found, strict=True)
            ]
        )


@dataclass(frozen=True)
class _Page:
    """Hits, and what their cosines are with, float32 (D,), None for words alone."""

    hits: list[Hit]
    vector: Vector | None


@dataclass(frozen=True)
class _Asked:
    """A condition: which rows meet it, None for all, and how a database is asked for it."""

    mask: Mask | None
    condition: Condition | None  # None without a database


def _unit(stored: npt.NDArray[np.float16]) -> Vector:
    vector = stored.astype(np.float32)
    unit: Vector = vector / np.linalg.norm(vector)
    return unit
