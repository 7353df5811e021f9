"""How a store is searched, chosen by measuring; in: a manifest, out: it with a new search record.

Exact search while it stays within the budget, else the ANN index that does so on rows of this
store. Later rows are searched exactly in addition, until `ann.tuning_due` says to add them or to
choose again.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError as NotReady
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import AUTO_ANN, EXACT_ANN, SearchBudget
from embedsearch.core.records import Neighbors
from embedsearch.core.session import Session
from embedsearch.core.unknown_fields import replaced
from embedsearch.searching.ann import candidates, unlike
from embedsearch.searching.ann.build import CandidateBuilder
from embedsearch.searching.ann.candidates import Measured
from embedsearch.searching.ann.tuning_due import Due, due
from embedsearch.searching.ann.unlike import Wide
from embedsearch.searching.neighbors import RowSearch
from embedsearch.store.files import write_new
from embedsearch.store.manifest import AnnRecord, Manifest, SearchRecord, Segment
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter

# Scanned in a millisecond: an index gains nothing, and a busy moment must not decide.
_ALWAYS_EXACT_BYTES = 16 << 20
_EXACT_QUERIES = 9
_EXACT_BATCH = 32
_PAIR_ROWS = 2000
_PAIR_LEVELS = (
    *(0.0, 0.001, 0.01, *(step / 40 for step in range(1, 39)), 0.96, 0.97, 0.98),
    *(0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 0.99999, 1.0),
)
_HELD_RUN = 4  # adjacent rows: each run adds two segments to the index
_SEED = 20240607
_STOP_POLL_S = 0.2

T = TypeVar("T")


def tune(
    writer: StoreWriter, manifest: Manifest, budget: SearchBudget, session: Session
) -> Manifest:
    """Return the manifest with its search chosen by measuring; a new index is written.

    Raises Interrupted.
    """
    with Snapshot(writer.store, manifest) as snapshot:
        tuner = _Tuner(snapshot, budget, session)
        try:
            ann, search = tuner.choose()
            if isinstance(ann, _Built):
                ann = ann.write(writer)
        finally:
            tuner.close()
    return replace(manifest, ann=ann, search=search)


@dataclass(frozen=True)
class _Built:
    """An index that was built and measured but not written yet."""

    builder: CandidateBuilder
    segments: tuple[Segment, ...]
    factory: str
    trained_rows: int
    curve: list[Measured]
    wide: Wide | None

    def write(self, writer: StoreWriter) -> AnnRecord:
        """Write the index file of the next generation."""
        file = write_new(writer.store, "a", writer.next_generation, "faiss", self.builder.pieces())
        return AnnRecord(
            **vars(file),
            segments=self.segments,
            factory=self.factory,
            setting=self.curve[-1].setting,
            trained_rows=self.trained_rows,
            **({} if self.wide is None else _recorded(self.wide)),
        )


@dataclass(frozen=True)
class _RecallTest:
    """The queries and rows that all candidates are measured with."""

    new: npt.NDArray[np.bool_]  # (all shard rows,): rows to add to the index
    held: npt.NDArray[np.bool_]  # of these, rows to add only after the measurement
    questions: list[candidates.Question]
    unlike: list[list[candidates.Question]]  # of queries unlike the rows, by kind


def _recorded(wide: Wide) -> dict[str, Any]:
    """Return fields of an AnnRecord."""
    return {
        "wide_below": wide.below,
        "wide_setting": wide.setting,
        "wide_rescored": wide.rescored,
        "unlike_recall": round(wide.recall, 4),
        "unlike_latency_s": wide.latency_s,
    }


_Choice = tuple[AnnRecord | _Built | None, SearchRecord]


class _Tuner:
    """One choice of an index for an open generation."""

    def __init__(self, snapshot: Snapshot, budget: SearchBudget, session: Session) -> None:
        self._snapshot = snapshot
        self._manifest = snapshot.manifest
        self._budget = budget
        self._session = session
        self._rows = RowSearch(snapshot, session)
        self._live = np.arange(int(snapshot.starts[-1]))
        if self._rows.alive is not None:
            self._live = self._live[self._rows.alive]
        self._exact_s = snapshot.manifest.search.exact_latency_s
        self._rng = np.random.default_rng(_SEED)

    def close(self) -> None:
        """Close the search."""
        self._rows.close()

    def choose(self) -> _Choice:
        """Return the index to search with, None for none, and what was measured."""
        pairs = self._pair_cosines()
        search = replaced(
            self._manifest.search,
            budget=self._budget,
            pair_levels=_PAIR_LEVELS if pairs else (),
            pair_cosines=pairs,
        )
        old = self._manifest.ann
        descriptor = None if old is None else self._snapshot.caches.get(old.name)
        if (
            old is not None
            and isinstance(descriptor, int)
            and due(self._manifest, self._budget) is not Due.CHOOSE
        ):
            return self._grown(old, descriptor, search)
        return self._planned(search)

    def _grown(self, old: AnnRecord, descriptor: int, search: SearchRecord) -> _Choice:
        """Return the old index with the rows added that it does not cover yet."""
        outside = self._rows.outside
        assert outside is not None, "nothing else is due"
        self._session.notice(f"adding {outside.sum():,} images to the search index {old.factory}")
        builder = CandidateBuilder.opened(os.dup(descriptor))
        exam = self._exam(outside)
        built = self._filled(builder, exam, old.segments, old.factory, old.trained_rows)
        return built, self._with_curve(search, built)

    def _planned(self, search: SearchRecord) -> _Choice:
        """Return the first candidate within the budget, else the one that comes closest."""
        live, dim = len(self._live), self._manifest.model.dim
        search = replaced(
            search, measured_rows=live, exact_latency_s=0.0, curve=(), is_reached=True
        )
        size, is_free = 2 * live * dim, self._budget.factory == AUTO_ANN
        if self._budget.factory == EXACT_ANN or (is_free and size <= _ALWAYS_EXACT_BYTES):
            return None, search
        self._exact_s = exact_s = self._exact_latency_s()
        search = replaced(search, exact_latency_s=exact_s)
        fits = size <= self._budget.memory_bytes
        if is_free and fits and exact_s <= self._budget.latency_s:
            return None, search
        if is_free and fits:
            self._session.notice(
                f"exact search takes {1000 * exact_s:.3g} ms, "
                f"more than {1000 * self._budget.latency_s:.3g} ms"
            )
        loses_rows = self._manifest.deleted_rows > 0
        names = candidates.factories(live, dim, self._budget, loses_rows=loses_rows)
        exam = self._exam(np.ones(int(self._snapshot.starts[-1]), np.bool_))
        best: _Built | None = None
        for name in names:
            self._session.notice(f"building the search index {name} of {live:,} images")
            try:
                built = self._built(name, exam)
            except (ValueError, RuntimeError) as error:  # FAISS's own are RuntimeErrors
                message = " ".join(str(error).split())
                self._session.notice(f"index {name} of {live:,} images cannot be built: {message}")
                continue
            if best is None or self._rank(built) > self._rank(best):
                best = built
            if self._is_reached(built):
                break
        if best is None or (is_free and fits and best.curve[-1].latency_s > exact_s):
            return None, replaced(search, is_reached=False)
        return best, self._with_curve(search, best)

    def _built(self, factory: str, exam: _RecallTest) -> _Built:
        """Build a candidate from all shards and measure it. Raises ValueError."""
        dim = self._manifest.model.dim
        training = self._sample(candidates.training_rows(len(self._live), dim))
        builder = self._patiently(lambda: CandidateBuilder.trained(factory, dim, training))
        return self._filled(builder, exam, (), factory, len(self._live))

    def _filled(
        self,
        builder: CandidateBuilder,
        exam: _RecallTest,
        segments: tuple[Segment, ...],
        factory: str,
        trained_rows: int,
    ) -> _Built:
        """Add the new rows; measure before the held-out rows are added."""
        added = exam.new & ~exam.held
        self._add(builder, added)
        segments = (*segments, *self._segments(added))
        curve = self._measured(builder, segments, exam.questions)
        wide = self._widened(builder, segments, exam, curve[-1])
        builder.add(self._rows.vectors(np.flatnonzero(exam.held)))
        segments = (*segments, *self._segments(exam.held))
        return _Built(builder, segments, factory, trained_rows, curve, wide)

    def _add(self, builder: CandidateBuilder, mask: npt.NDArray[np.bool_]) -> None:
        """Add the rows in a mask to an index."""
        start = 0
        for number, shard in enumerate(self._snapshot.shards):
            if not mask[start : start + shard.record.rows].any():
                start += shard.record.rows
                continue
            shard.verify()
            for vectors in self._snapshot.vectors(number):
                builder.add(vectors[mask[start : start + len(vectors)]])
                start += len(vectors)
                self._session.at("building the search index", start, len(mask))

    def _segments(self, mask: npt.NDArray[np.bool_]) -> Iterator[Segment]:
        """Yield the runs of rows in a mask."""
        for shard, start in zip(self._snapshot.shards, self._snapshot.starts, strict=False):
            of_shard = mask[start : start + shard.record.rows]
            edges = np.flatnonzero(np.diff(of_shard, prepend=False, append=False)).tolist()
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                yield Segment(shard.record.name, end - first, first)

    def _exam(self, new: npt.NDArray[np.bool_]) -> _RecallTest:
        """Hold out some live new rows, in short runs, and find their neighbors by exact search.

        A row that is in the index is easier to find, and so are its neighbors.
        """
        live = self._live[new[self._live]]
        runs = min(candidates.QUERIES, len(live) // 2) // _HELD_RUN
        starts = self._rng.choice(len(live) // _HELD_RUN, runs, replace=False) * _HELD_RUN
        held = np.zeros(len(new), np.bool_)
        held[live[np.add.outer(starts, np.arange(_HELD_RUN)).ravel()]] = True
        known = ~held if self._rows.alive is None else self._rows.alive & ~held
        wanted = min(candidates.RECALL_AT, int(known.sum()))
        questions = self._questions(self._units(np.flatnonzero(held)), wanted, known)
        rows = self._units(self._rng.choice(np.flatnonzero(known), unlike.ROWS))
        kinds = unlike.unlike_queries(rows, self._rng) if questions else []
        far = [self._questions(queries, wanted, known) for queries in kinds]
        return _RecallTest(new, held, questions, far)

    def _questions(
        self, queries: npt.NDArray[np.float32], wanted: int, known: npt.NDArray[np.bool_]
    ) -> list[candidates.Question]:
        """Return the queries with what exact search finds among the rows that are known."""
        questions = []
        for start in range(0, len(queries), _EXACT_BATCH):
            self._session.check()
            batch = queries[start : start + _EXACT_BATCH]
            for query, near in zip(batch, self._rows.exact(batch, wanted, known), strict=True):
                lowest = float(np.sort(near.scores)[-wanted])
                questions.append(candidates.Question(query, wanted, lowest))
        return questions

    def _measured(
        self,
        builder: CandidateBuilder,
        segments: tuple[Segment, ...],
        questions: list[candidates.Question],
    ) -> list[Measured]:
        """Find the setting that reaches the recall."""
        index = builder.index()

        def answer_at(setting: int) -> candidates.Answer:
            self._session.check()
            self._rows.use(index, segments, setting, None)
            return self._answer

        return candidates.measure(answer_at, index.settings, questions, self._budget)

    def _widened(
        self,
        builder: CandidateBuilder,
        segments: tuple[Segment, ...],
        exam: _RecallTest,
        like: Measured,
    ) -> Wide | None:
        """Find the setting for queries unlike the rows; None if nothing can be measured."""
        if not exam.unlike:
            return None
        index = builder.index()
        self._rows.use(index, segments, like.setting, None)
        queries = np.array([question.query for question in exam.questions])
        below = unlike.limit_of(self._rows.best_candidates(queries))

        def answer_at(wide: Wide) -> candidates.Answer:
            self._session.check()
            self._rows.use(index, segments, like.setting, wide)
            return self._answer

        started = time.perf_counter()
        for question in exam.questions:
            self._snapshot.images(self._answer(question.query).ordinals)
        all_s = (time.perf_counter() - started) / len(exam.questions)
        return unlike.widened(
            *(answer_at, index.settings, like, below, exam.unlike),
            exact_s=self._exact_s,
            hits_s=max(0.0, all_s - like.latency_s),
        )

    def _answer(self, query: npt.NDArray[np.float32]) -> Neighbors:
        return self._rows.nearest(query[None], candidates.RECALL_AT)[0]

    def _sample(self, count: int) -> npt.NDArray[np.float32]:
        """Return a random sample of `count` live rows, in store order."""
        return self._units(np.sort(self._rng.choice(self._live, count, replace=False)))

    def _units(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        vectors = self._rows.vectors(ordinals).astype(np.float32)
        units: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units

    def _exact_latency_s(self) -> float:
        """Return the median time of a query by exact search."""
        seconds = []
        for query in self._sample(min(_EXACT_QUERIES, len(self._live))):
            started = time.perf_counter()
            self._rows.exact(query[None], min(candidates.RECALL_AT, len(self._live)))
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def _pair_cosines(self) -> tuple[float, ...]:
        """Return the quantiles of the cosines of row pairs at _PAIR_LEVELS; () for a single row."""
        if len(self._live) < 2:
            return ()
        rows = self._sample(min(_PAIR_ROWS, len(self._live)))
        cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        return tuple(round(value, 6) for value in np.quantile(cosines, _PAIR_LEVELS).tolist())

    def _is_reached(self, built: _Built) -> bool:
        last, budget = built.curve[-1], self._budget
        return last.reaches(budget.recall) and last.latency_s <= budget.latency_s

    def _rank(self, built: _Built) -> tuple[bool, float, float]:
        """Return the sort key of an index, higher is better: recall reached first, then latency."""
        last = built.curve[-1]
        return last.reaches(self._budget.recall), -last.latency_s, last.recall

    def _with_curve(self, search: SearchRecord, built: _Built) -> SearchRecord:
        curve = tuple((m.setting, round(m.recall, 4), m.latency_s) for m in built.curve)
        return replaced(search, curve=curve, is_reached=self._is_reached(built))

    def _patiently(self, work: Callable[[], T]) -> T:
        """Return the result of a long call of FAISS; a stop request does not wait for it."""
        executor = ThreadPoolExecutor(1)
        try:
            future = executor.submit(work)
            while True:
                try:
                    return future.result(_STOP_POLL_S)
                except NotReady:
                    self._session.check()
        finally:
            executor.shutdown(wait=False)
