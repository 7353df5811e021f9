"""Rows by words; in: what a user typed, out: rows ranked by BM25, and the columns that matched.

FTS5 keeps the lists of documents; the scores are computed here, of the rows that are live, so that
they are those of a file that was just made. Robertson and Zaragoza, "The probabilistic relevance
framework: BM25 and beyond" (2009), with the constants of SQLite.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import DamagedStore, UsageError
from embedsearch.core.lru import LRU
from embedsearch.core.scores import PICTURE, WORDS
from embedsearch.searching.words.documents import OWN, Documents, Numbers, mark_of
from embedsearch.searching.words.terms import Term, terms_of
from embedsearch.store.snapshot import Snapshot

_K1, _B = 1.2, 0.75
_LEAST_IDF = 1e-6  # of a word in more than half of the rows
_DIGITS = 9  # of a score: equal ones tie
_LEAST = 10.0**-_DIGITS  # of one that is not rounded to 0
_POSITION_BITS = 28  # of a word in its document
_PLACE = f"doc << {_POSITION_BITS} | offset"  # of an occurrence
_FREQUENT, _KEPT = 4096, 16  # lists of so many documents are kept for the next text
_DEFAULT_WEIGHTS = {"path": 0.5, "camera": 0.5}  # the user's columns: 1
_CHUNK = 256  # values whose maximum is looked at first
_LAST = "\U0010ffff"  # sorts behind what any word continues with


@dataclass(frozen=True)
class Ranking:
    """Rows with a word that was looked for, best first, and their BM25 scores, float64 (n,).

    `columns` returns where the row at a position matched, in the order of the store. `left_out` are
    the rows with a word that was excluded. `found` counts the rows that would be ranked, however
    few were asked for.
    """

    ordinals: Numbers
    scores: npt.NDArray[np.float64]
    columns: Callable[[int], tuple[str, ...]]
    places: Numbers  # of all shard rows, by root and key
    left_out: Numbers
    found: int


class WordIndex:
    """The words of one generation, open. Any number of threads may use it."""

    def __init__(
        self,
        file: sqlite3.Connection,
        columns: Sequence[str],
        snapshot: Snapshot,
        alive: npt.NDArray[np.bool_] | None,
        damaged: Callable[[Exception], DamagedStore],
    ) -> None:
        """Own the connection. Raises sqlite3.Error, KeyError and ValueError for a damaged file.

        `alive` says which shard rows are live, None for all. `damaged` makes the error for a file
        that turns out to be damaged later.
        """
        self._file = file
        self._damaged = damaged
        self._frequent: LRU[tuple[tuple[str, ...], bool, str], Numbers] = LRU(_KEPT)
        self._using = threading.Lock()
        self._columns = list(columns)
        file.execute("PRAGMA temp_store=MEMORY")
        file.execute("CREATE VIRTUAL TABLE temp.instances USING fts5vocab(main, words, instance)")
        documents = Documents.of(file)
        newest = documents.newest()
        self._lengths = documents.lengths
        self._ordinals = np.full(len(documents.rows), -1, np.int64)
        self._ordinals[newest] = snapshot.ordinals(documents.rows[newest])
        is_there = self._ordinals >= 0
        if alive is not None:
            is_there[is_there] = alive[self._ordinals[is_there]]
        self._is_live = is_there
        self._count = int(is_there.sum())
        self._mean_length = float(self._lengths[is_there].mean()) if self._count else 1.0
        self._places = np.zeros(int(snapshot.starts[-1]), np.int64)
        self._places[self._ordinals[is_there]] = documents.places[is_there]

    def close(self) -> None:
        """Close the file."""
        with self._using:
            self._file.close()

    def ranked(
        self,
        text: str,
        k: int,
        mask: npt.NDArray[np.bool_] | None,
        weights: Mapping[str, float],
    ) -> Ranking:
        """Return the best k rows of those of a mask, bool (all shard rows,); ties by root and key.

        `weights` are of columns. Raises UsageError, DamagedStore.
        """
        terms = terms_of(text, self._columns)
        self._check(weights)
        weighted = {c: weights.get(c, _DEFAULT_WEIGHTS.get(c, 1.0)) for c in self._columns}
        scores = np.zeros(len(self._ordinals))
        matched: list[tuple[str, Numbers]] = []
        excluded: list[Numbers] = []
        for term in sorted(terms, key=lambda term: term.is_excluded):
            found = self._found(term)
            if term.is_excluded:
                excluded += found.values()
                continue
            found = {column: docs for column, docs in found.items() if weighted[column]}
            self._add(scores, found, weighted)
            matched += found.items()
        left_out = np.unique(np.concatenate([np.empty(0, np.int64), *excluded]))
        scores[left_out] = 0.0
        documents = np.flatnonzero(scores)
        if mask is not None:
            documents = documents[mask[self._ordinals[documents]]]
        rounded = scores[documents].round(_DIGITS)
        best, best_scores = self._best(documents, rounded, k)

        def columns(position: int) -> tuple[str, ...]:
            return _columns_of(int(best[position]), matched, self._columns)

        rows, excluded_rows = self._ordinals[best], self._ordinals[left_out]
        count = int(np.count_nonzero(rounded >= _LEAST))
        return Ranking(rows, best_scores, columns, self._places, excluded_rows, count)

    def without(self, text: str) -> Ranking:
        """Return a ranking of no rows, with those that a text leaves out. Raises DamagedStore."""
        terms = [term for term in terms_of(text, self._columns) if term.is_excluded]
        excluded = [docs for term in terms for docs in self._found(term).values()]
        left_out = np.unique(np.concatenate([np.empty(0, np.int64), *excluded]))
        none = np.empty(0, np.int64)
        rows = self._ordinals[left_out]
        return Ranking(none, np.empty(0), lambda _: (), self._places, rows, 0)

    def _check(self, weights: Mapping[str, float]) -> None:
        """Raise UsageError for a weight of a column that is not searched."""
        for name in weights:
            if name not in {*self._columns, PICTURE, WORDS}:
                known = ", ".join([*self._columns, PICTURE, WORDS])
                raise UsageError(f"weight: {name!r} is none of {known}", "weight")

    def _found(self, term: Term) -> dict[str, Numbers]:
        """Return the documents with a term, by the columns where it is. Raises DamagedStore."""
        try:
            with self._using:
                documents = {column: self._documents(term, column) for column in self._columns}
        except (sqlite3.Error, IndexError) as error:
            raise self._damaged(error) from error
        return {column: found for column, found in documents.items() if len(found)}

    def check_searchable(self, mask: npt.NDArray[np.bool_] | None, *, reads_text: bool) -> None:
        """Raise UsageError where nothing but paths could have matched a text."""
        if mask is not None or tuple(self._columns) != OWN:
            return
        if reads_text:
            message = "no path matches, and this store has no columns of text: leave by=words out"
            raise UsageError(message, "by")
        raise UsageError(
            "no path matches, and this store has neither columns of text nor a model that reads "
            "text: give captions with metadata=TABLE, use a model that reads text (such as "
            "clip-resnet50), or search by an image",
            "metadata",
        )

    def _add(
        self,
        scores: npt.NDArray[np.float64],
        found: Mapping[str, Numbers],
        weights: Mapping[str, float],
    ) -> None:
        """Add what a term is worth in the documents where it was found, a column at a time."""
        if not found:
            return
        documents, often = _counted(found, weights)
        count = len(documents)
        idf = max(_LEAST_IDF, float(np.log((self._count - count + 0.5) / (count + 0.5))))
        relative = self._lengths[documents] / self._mean_length
        scores[documents] += idf * often * (_K1 + 1) / (often + _K1 * (1 - _B + _B * relative))

    def _best(
        self, documents: Numbers, scores: npt.NDArray[np.float64], k: int
    ) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """Return the best k documents, in order, and their scores; none that is rounded to 0."""
        least = kth_largest(scores, k) if len(scores) > k else 0.0
        kept = np.flatnonzero(scores >= max(least, _LEAST))
        documents, scores = documents[kept], scores[kept]
        order = np.lexsort((self._places[self._ordinals[documents]], -scores))[:k]
        return documents[order], scores[order]

    def _documents(self, term: Term, column: str) -> Numbers:
        """Return the live documents with a term in a column, as often as it is there, sorted."""
        if term.column not in {None, column}:
            return np.empty(0, np.int64)
        key = (term.words, term.is_prefix, column)
        if (known := self._frequent.find(key)) is not None:
            return known
        marked = [mark_of(self._columns.index(column)) + word for word in term.words]
        if len(marked) == 1:
            documents = self._read("doc", marked[0], is_prefix=term.is_prefix)
        else:
            documents = self._of_phrase(marked, is_prefix=term.is_prefix)
        documents = np.sort(documents) - 1  # rowids count from 1
        live: Numbers = documents[self._is_live[documents]]
        if len(live) >= _FREQUENT:
            self._frequent.keep(key, live)
        return live

    def _of_phrase(self, words: Sequence[str], *, is_prefix: bool) -> Numbers:
        """Return the rowids of marked words that follow each other, as often as they do."""
        starts = np.empty(0, np.int64)
        for number, word in enumerate(words):
            is_last = number == len(words) - 1
            at = self._read(_PLACE, word, is_prefix=is_prefix and is_last) - number
            starts = np.intersect1d(starts, at, assume_unique=True) if number else at
            if not len(starts):
                break
        return starts >> _POSITION_BITS

    def _read(self, what: str, word: str, *, is_prefix: bool) -> Numbers:
        """Return a number for each occurrence of a marked word: its rowid, or its place."""
        where, values = "term = ?", [word]
        if is_prefix:
            where, values = "term >= ? AND term < ?", [word, word + _LAST]
        # One text of all numbers is read three times as fast as a row a number.
        query = f"SELECT group_concat({what}) FROM temp.instances WHERE {where}"
        ((text,),) = self._file.execute(query, values)
        return np.fromstring(text or "", np.int64, sep=",")


def kth_largest(values: npt.NDArray[np.float64], k: int) -> float:
    """Return the k-th largest of at least k values."""
    if len(values) >= k * _CHUNK:  # k of the chunks reach the k-th of their maxima
        chunks = values[: len(values) // _CHUNK * _CHUNK].reshape(-1, _CHUNK)
        values = values[values >= np.partition(chunks.max(axis=1), -k)[-k]]
    return float(np.partition(values, -k)[-k])


def _counted(
    found: Mapping[str, Numbers], weights: Mapping[str, float]
) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Return the documents with a term, sorted, and how often it is there, by weight."""
    if len(found) == 1:
        ((column, documents),) = found.items()
        starts = np.flatnonzero(np.diff(documents, prepend=-1))
        often = np.diff(np.append(starts, len(documents))).astype(np.float64)
        return documents[starts], weights[column] * often
    each = np.repeat([weights[column] for column in found], [len(d) for d in found.values()])
    whole, inverse = np.unique(np.concatenate([*found.values()]), return_inverse=True)
    return whole, np.bincount(inverse, each, len(whole)).astype(np.float64)


def _columns_of(
    document: int, matched: Sequence[tuple[str, Numbers]], columns: Sequence[str]
) -> tuple[str, ...]:
    """Return the columns where some term was found in a document."""
    there = set()
    for column, documents in matched:
        at = int(np.searchsorted(documents, document))
        if at < len(documents) and documents[at] == document:
            there.add(column)
    return tuple(column for column in columns if column in there)
