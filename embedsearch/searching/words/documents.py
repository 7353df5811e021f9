"""The words of a generation in one file; in: its rows, out: a SQLite file with an FTS5 index.

A document a row: the words of its path, its camera and the user's columns of text. The texts
themselves are not kept. A document that is not the newest of its row is stale and never found; once
many are, the file is rebuilt.

Each word is stored behind a character for its column, so that FTS5 keeps a list of documents for
each word of each column.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.session import Session
from embedsearch.searching.columns import BUILT_IN, RowColumns
from embedsearch.searching.words.tokens import words_of
from embedsearch.store.snapshot import Snapshot

OWN = ("path", "camera")  # columns of text that every store has
_FIRST_MARK = 0xE000  # of Unicode's private use
# SQLite's own names of what FTS5 keeps are `words_…`.
SCHEMA = {
    "words": "CREATE VIRTUAL TABLE words USING fts5("
    "text, content='', columnsize=0, tokenize='ascii')",
    "documents": "CREATE TABLE documents (name TEXT PRIMARY KEY, numbers BLOB NOT NULL)",
}
_MAX_STALE = 0.05  # of the documents
_BATCH = 4096
# While a file is written: pages of SQLite, and words before they become a part of the index.
_PAGES_KB, _WAITING_BYTES = 64_000, 64 << 20

Numbers: TypeAlias = npt.NDArray[np.int64]
_Text: TypeAlias = "str | list[str | None] | None"
_Row: TypeAlias = "tuple[int, Sequence[_Text]]"


@dataclass(frozen=True)
class Documents:
    """What the documents of a file stand for, in order; each int64 (n,)."""

    rows: Numbers
    digests: Numbers  # of their texts
    lengths: Numbers  # in words
    places: Numbers  # of their rows, by root and key

    @classmethod
    def of(cls, file: sqlite3.Connection) -> Documents:
        """Read those of a file. Raises sqlite3.Error, KeyError and ValueError."""
        blobs = dict(file.execute("SELECT name, numbers FROM documents"))
        found = cls(*(np.frombuffer(blobs[field.name], "<i8") for field in fields(cls)))
        if len({len(getattr(found, field.name)) for field in fields(cls)}) > 1:
            raise ValueError("the documents differ in number")
        return found

    def write(self, file: sqlite3.Connection) -> None:
        """Replace those of a file. Raises sqlite3.Error."""
        for field in fields(self):
            numbers = getattr(self, field.name).astype("<i8").tobytes()
            file.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (field.name, numbers))

    def newest(self) -> Numbers:
        """Return the newest document of each row, in the order of the rows' numbers."""
        _, last = np.unique(self.rows[::-1], return_index=True)
        newest: Numbers = len(self.rows) - 1 - last
        return newest


def text_columns(columns: RowColumns) -> list[str]:
    """Return the names of the columns whose words are found."""
    own = [f.name for f in columns.schema if f.name not in BUILT_IN and _is_text(f.type)]
    return [*OWN, *own]


def mark_of(number: int) -> str:
    """Return the character before each word of a column."""
    return chr(_FIRST_MARK + number)


def write_documents(
    path: Path, snapshot: Snapshot, columns: RowColumns, session: Session, *, more: bool
) -> bool:
    """Write the words of all live rows; with `more`, to a file that has those of a generation.

    Returns whether the file is as good as a new one: False if too many of its documents are stale.
    Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_PAGES_KB}"):
            file.execute(f"PRAGMA {setting}")
        file.execute("BEGIN")
        if not more:
            for statement in SCHEMA.values():
                file.execute(statement)
        file.execute(f"INSERT INTO words(words, rank) VALUES ('hashsize', {_WAITING_BYTES})")
        known = Documents.of(file) if more else _none()
        marks = [mark_of(number) for number in range(len(text_columns(columns)))]
        added, live = _add(file, known, _rows(snapshot, columns), marks, session)
        rows, digests, lengths = (
            np.concatenate(parts)
            for parts in zip((known.rows, known.digests, known.lengths), *added, strict=True)
        )
        ordinals = snapshot.ordinals(rows)
        order = snapshot.name_order() if len(rows) else rows
        places = np.where(ordinals < 0, -1, order[ordinals]) if len(rows) else rows
        Documents(rows, digests, lengths, places).write(file)
        file.execute("COMMIT")
    return len(rows) - live <= _MAX_STALE * len(rows)


def _add(
    file: sqlite3.Connection,
    known: Documents,
    rows: Iterator[_Row],
    marks: Sequence[str],
    session: Session,
) -> tuple[list[tuple[Numbers, Numbers, Numbers]], int]:
    """Write the documents that are not known; return their numbers, and how many rows there are.

    The numbers, of a batch each, are those of rows, hashes of their texts, and lengths in words.
    """
    newest = known.newest()
    known_rows, known_digests = known.rows[newest], known.digests[newest]
    added: list[tuple[Numbers, Numbers, Numbers]] = []
    live, first = 0, 1 + len(known.rows)
    while batch := list(islice(rows, _BATCH)):
        session.check()
        live += len(batch)
        numbers = np.array([row for row, _ in batch], np.int64)
        digests = np.array([_digest(texts) for _, texts in batch], np.int64)
        at = np.searchsorted(known_rows, numbers)
        is_known = at < len(known_rows)
        found = at[is_known]
        is_same = known_digests[found] == digests[is_known]
        is_known[is_known] = (known_rows[found] == numbers[is_known]) & is_same
        fresh = np.flatnonzero(~is_known)
        words = [_marked(batch[n][1], marks) for n in fresh.tolist()]
        file.executemany(
            "INSERT INTO words(rowid, text) VALUES (?, ?)",
            ((first + n, " ".join(each)) for n, each in enumerate(words)),
        )
        first += len(words)
        lengths = np.array([len(each) for each in words], np.int64)
        added.append((numbers[fresh], digests[fresh], lengths))
    return added, live


def _rows(snapshot: Snapshot, columns: RowColumns) -> Iterator[_Row]:
    """Yield the number of each live row, and its texts."""
    deleted = set(snapshot.deleted.tolist())
    for _, table in columns.tables(["row", *text_columns(columns)]):
        rows, *values = (column.to_pylist() for column in table.columns)
        for row, *texts in zip(rows, *values, strict=True):
            if row not in deleted:
                yield row, texts


def _marked(texts: Sequence[_Text], marks: Sequence[str]) -> list[str]:
    """Return the words of texts, each behind the mark of its column."""
    return [
        mark + word
        for text, mark in zip(texts, marks, strict=True)
        for part in ([text] if isinstance(text, str) else text or ())
        if part is not None
        for word in words_of(part)
    ]


def _digest(texts: Sequence[_Text]) -> int:
    digest = hashlib.blake2b(repr(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _none() -> Documents:
    return Documents(*(np.empty(0, np.int64) for _ in fields(Documents)))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind.value_type if pa.types.is_list(kind) else kind)
