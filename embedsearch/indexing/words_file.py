"""The file of words of a store; in: a manifest, out: one whose words are those of its rows."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path

from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.words.documents import text_columns
from embedsearch.searching.words.file import is_current, make_words
from embedsearch.searching.words.tokens import RULES
from embedsearch.store.files import pieces, write_new
from embedsearch.store.manifest import Manifest, WordsRecord
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter


def refresh_words(writer: StoreWriter, manifest: Manifest, session: Session) -> WordsRecord | None:
    """Return the record of the words of a manifest, whose file is written if it is another.

    None where there is no room for temporary files: a search then collects the words itself.
    Raises StorageError, DamagedStore, Interrupted.
    """
    record = manifest.words
    if record is not None and is_current(manifest) and (writer.store / record.relative).exists():
        return record
    with (
        Snapshot(writer.store, manifest) as snapshot,
        RowColumns(snapshot) as columns,
        contextlib.ExitStack() as kept,
    ):
        try:
            folder = kept.enter_context(tempfile.TemporaryDirectory())
            path = Path(folder, "words.sqlite")  # what SQLite writes is not yet the store's
            make_words(path, snapshot, columns, session)
        except (OSError, sqlite3.Error) as error:
            session.notice(
                f"no room for temporary files ({error}): the words of this store are not kept, and "
                "each search by words collects them"
            )
            return None
        with path.open("rb") as made:
            content = pieces(made.fileno())
            file = write_new(writer.store, "w", writer.next_generation, "sqlite", content)
        names = tuple(text_columns(columns))
    return WordsRecord(file.name, file.bytes, file.sha256, names, RULES, manifest.word_sources)
