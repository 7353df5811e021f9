"""The file of words of a store; in: a manifest, out: one whose words are those of its rows."""

from __future__ import annotations

import sqlite3

from embedsearch.core.errors import StorageError
from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.words.documents import text_columns
from embedsearch.searching.words.file import is_current, make_words
from embedsearch.searching.words.tokens import RULES
from embedsearch.store.files import write_by
from embedsearch.store.manifest import Manifest, WordsRecord
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter


def refresh_words(writer: StoreWriter, manifest: Manifest, session: Session) -> WordsRecord:
    """Return the record of the words of a manifest, whose file is written if it is another.

    Raises StorageError, DamagedStore, Interrupted.
    """
    record = manifest.words
    if record is not None and is_current(manifest) and (writer.store / record.relative).exists():
        return record
    with Snapshot(writer.store, manifest) as snapshot, RowColumns(snapshot) as columns:
        try:
            file = write_by(
                writer.store,
                "w",
                writer.next_generation,
                "sqlite",
                lambda path: make_words(path, snapshot, columns, session),
            )
        except sqlite3.Error as error:
            raise StorageError(f"{writer.store}: the words cannot be written: {error}") from error
        names = tuple(text_columns(columns))
    return WordsRecord(file.name, file.bytes, file.sha256, names, RULES, manifest.word_sources)
