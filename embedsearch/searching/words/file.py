"""The file of words of a generation; in: a snapshot, out: its words, kept by the store or made now.

The file is a cache: where it is missing, damaged or of other rows, the words are taken from the
rows themselves, and what a former file still says is not read again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import DamagedStore, StorageError
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folder
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.words.documents import SCHEMA, text_columns, write_documents
from embedsearch.searching.words.search import WordIndex
from embedsearch.searching.words.tokens import RULES
from embedsearch.store.files import damaged, pieces, verify_once
from embedsearch.store.manifest import Manifest, WordsRecord
from embedsearch.store.snapshot import Snapshot

# What SQLite holds of an FTS5 table without texts and lengths, and of the documents.
_TABLES = {*SCHEMA, "words_data", "words_idx", "words_config", "sqlite_autoindex_documents_1"}


def is_current(manifest: Manifest) -> bool:
    """Return whether the file of a generation has the words of its rows."""
    record = manifest.words
    return record is not None and (record.sources, record.rules) == (manifest.word_sources, RULES)


def make_words(path: Path, snapshot: Snapshot, columns: RowColumns, session: Session) -> None:
    """Write the words of a generation to a new file. Raises sqlite3.Error."""
    record, names = snapshot.manifest.words, tuple(text_columns(columns))
    if record is not None and (record.columns, record.rules) == (names, RULES):
        try:
            descriptor = _descriptor(snapshot, record)
            with path.open("wb") as file:
                file.writelines(pieces(descriptor))
            if write_documents(path, snapshot, columns, session, more=True):
                return
        except (DamagedStore, sqlite3.DatabaseError, KeyError, ValueError):
            pass  # a former file is no more than a shortcut
        path.unlink(missing_ok=True)
    write_documents(path, snapshot, columns, session, more=False)


def open_words(
    snapshot: Snapshot, columns: RowColumns, alive: npt.NDArray[np.bool_] | None, session: Session
) -> WordIndex:
    """Return the words of a generation; `alive`, bool (all shard rows,), says which rows are live.

    It reads rows of the snapshot. Raises DamagedStore, StorageError.
    """
    record = snapshot.manifest.words
    is_kept = record is not None and record.name in snapshot.caches
    if record is not None and is_kept and is_current(snapshot.manifest):
        unreadable = partial(_unreadable, snapshot, record.relative)
        file = _connected(snapshot.store / record.relative, _descriptor(snapshot, record))
        try:
            _check_schema(file)
            return WordIndex(file, record.columns, snapshot, alive, unreadable)
        except (sqlite3.Error, KeyError, ValueError) as error:
            file.close()
            raise unreadable(error) from error
    session.notice("collecting the words of this store; embedsearch index keeps them")
    with contextlib.ExitStack() as kept:
        try:
            path = Path(kept.enter_context(tempfile.TemporaryDirectory()), "words.sqlite")
            make_words(path, snapshot, columns, session)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"no room for temporary files ({error}): set TMPDIR") from error
        names = text_columns(columns)
        unreadable = partial(_unreadable, snapshot, "ann")
        return WordIndex(_open(path), names, snapshot, alive, unreadable)


def _unreadable(snapshot: Snapshot, name: str, error: Exception) -> DamagedStore:
    return damaged(snapshot.store, name, f"cannot be read ({error})")


def _descriptor(snapshot: Snapshot, record: WordsRecord) -> int:
    """Return the verified file. Raises DamagedStore."""
    descriptor = snapshot.caches.get(record.name)
    if descriptor is None:
        raise damaged(snapshot.store, record.relative, "is missing")
    if isinstance(descriptor, DamagedStore):
        raise descriptor
    verify_once(snapshot.store, record, descriptor, cache_folder() / "verified")
    return descriptor


def _connected(path: Path, descriptor: int) -> sqlite3.Connection:
    """Open the file of a descriptor, which may have been swept meanwhile."""
    with contextlib.suppress(OSError, sqlite3.Error):
        file = _open(path)
        if os.path.samestat(os.stat(path), os.fstat(descriptor)):
            return file
        file.close()
    file = sqlite3.connect(":memory:", check_same_thread=False)
    file.deserialize(b"".join(pieces(descriptor)))
    return file


def _open(path: Path) -> sqlite3.Connection:
    location = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    return sqlite3.connect(location, uri=True, check_same_thread=False)


def _check_schema(file: sqlite3.Connection) -> None:
    """Raise ValueError unless the file has our tables and nothing that SQLite would run."""
    found = dict(file.execute("SELECT name, sql FROM sqlite_schema"))
    if found.keys() != _TABLES or any(found[name] != SCHEMA[name] for name in SCHEMA):
        raise ValueError("it has other tables")
