"""Rows of a store into a vector database; in: a store and a URL, out: a report.

A sync: missing and changed rows are sent, rows that are no longer in the store are deleted, and
finally the database's record gets the generation. The next run continues an interrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch._version import __version__
from embedsearch.core.arguments import checked
from embedsearch.core.errors import IncompatibleStore, Interrupted
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.vectordb.database import DatabaseRecord, RowBatch, VectorDatabase
from embedsearch.searching.vectordb.fields import (
    Field,
    column_of,
    fields_of,
    is_held,
    plain,
    row_checksums,
)
from embedsearch.searching.vectordb.open import open_database
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.shards import numbers
from embedsearch.store.snapshot import Snapshot, open_snapshot


@dataclass(frozen=True)
class UploadReport:
    """The result of an upload: every row of the store is uploaded or unchanged."""

    database: str  # without user and password
    generation: int
    rows: int
    dim: int
    uploaded: int
    unchanged: int
    deleted: int  # of the database
    elapsed_s: float
    sending_s: float  # of it, the time to compare and send all rows
    left_out: list[str]  # columns that the database cannot hold

    @property
    def rate(self) -> float:
        """Return vectors/s during sending, without creating and sealing a collection."""
        return self.uploaded / self.sending_s if self.sending_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {**vars(self), "vectors_per_s": round(self.rate, 1)}


@checked
def upload(
    store: StorePath,
    url: str,
    *,
    replace: bool = False,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> UploadReport:
    """Sync a collection or table with a store; `replace` creates it again.

    Raises IncompatibleStore if it was filled from another model's store or has other columns, and
    StorageError if the server fails.
    """
    session = session or Session()
    started = time.monotonic()
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        columns = RowColumns(snapshot)
        fields, left_out = _fields(columns)
        if left_out:
            session.notice(f"not held by a vector database: {', '.join(left_out)}")
        record = _record(snapshot, fields)
        database = open_database(url)
        try:
            work = _Upload(database, snapshot, columns, record, session, on_progress, started)
            return work.run(replace, left_out)
        finally:
            database.close()


def _fields(columns: RowColumns) -> tuple[list[Field], list[str]]:
    """Return the fields for a store's columns, and the names of columns that no field can hold."""
    fields, left_out = fields_of(columns.schema)
    unfit: set[str] = set()
    for _, table in columns.tables(_sources(fields)):
        unfit |= {f.column for f in fields if not is_held(column_of(table, f), f.kind)}
    return ([field for field in fields if field.column not in unfit], sorted([*left_out, *unfit]))


def _sources(fields: Sequence[Field]) -> list[str]:
    return sorted({field.source for field in fields})


def _record(snapshot: Snapshot, fields: list[Field]) -> DatabaseRecord:
    model = snapshot.manifest.model
    return DatabaseRecord(
        model=model.name,
        fingerprint=model.fingerprint,
        dim=model.dim,
        generation=0,
        next_row=snapshot.manifest.next_row,
        tool=f"embedsearch {__version__}",
        fields=tuple(fields),
        store_id=snapshot.manifest.store_id,
    )


@dataclass(eq=False)
class _Upload:
    """One upload."""

    _database: VectorDatabase
    _snapshot: Snapshot
    _columns: RowColumns
    _record: DatabaseRecord
    _session: Session
    _show: Callable[[Progress], None]
    _started: float
    _uploaded: int = 0
    _done: int = 0

    def run(self, replace: bool, left_out: list[str]) -> UploadReport:
        """Compare, send, delete, write the record."""
        manifest = self._snapshot.manifest
        before = self._before(replace)
        known, known_marks = self._database.marks(None, self._record)
        order = np.argsort(known)
        known, known_marks = known[order], known_marks[order]
        live = self._snapshot.live_mask()
        kept = np.zeros(len(known), np.bool_)  # rows of the database that the store has
        sending_since = time.monotonic()
        with ThreadPoolExecutor(1, "upload") as sender:
            sending: Future[None] | None = None
            for batch in self._batches(live):
                positions = np.searchsorted(known, batch.rows)
                exists = positions < len(known)
                exists[exists] = known[positions[exists]] == batch.rows[exists]
                kept[positions[exists]] = True
                same = exists.copy()
                same[exists] = known_marks[positions[exists]] == batch.marks[exists]
                if sending is not None:  # one batch is prepared while the previous one is sent
                    sending.result()
                self._check()
                sending = sender.submit(self._send, batch, ~same)
            if sending is not None:
                sending.result()
        sending_s = time.monotonic() - sending_since
        if len(gone := known[~kept]):
            self._database.delete(gone)
        finished = self._record.finished(manifest.generation)
        if self._uploaded or len(gone) or before != finished:
            self._database.finish(finished)
        return UploadReport(
            database=str(self._database.place),
            generation=manifest.generation,
            rows=manifest.live,
            dim=manifest.model.dim,
            uploaded=self._uploaded,
            unchanged=manifest.live - self._uploaded,
            deleted=len(gone),
            elapsed_s=time.monotonic() - self._started,
            sending_s=sending_s,
            left_out=left_out,
        )

    def _before(self, replace: bool) -> DatabaseRecord:
        """Return the database's record; create what is missing. Raises IncompatibleStore."""
        before, wanted = self._database.record(), self._record
        if before is not None and not replace:
            before.check_model(self._snapshot.manifest.model, self._database.place)
            if not before.is_of(wanted.store_id):
                raise IncompatibleStore(
                    f"{self._database.place} holds the rows of another store, or of one that stood "
                    "here before: give the table another name, or replace=True, which deletes them",
                    "replace",
                )
            old, new = ({field.column: field for field in r.fields} for r in (before, wanted))
            if differing := [n for n in {**old, **new} if old.get(n) != new.get(n)]:
                raise IncompatibleStore(
                    f"{self._database.place} was made with other columns of the store "
                    f"({', '.join(differing)}): replace=True creates it again",
                    "replace",
                )
            return before
        self._database.create(wanted)
        return wanted

    def _check(self) -> None:
        if number := self._session.stop():
            raise Interrupted(
                f"interrupted; {self._uploaded:,} rows were uploaded: the same command goes on",
                number,
            )

    def _send(self, batch: RowBatch, wanted: npt.NDArray[np.bool_]) -> None:
        if indices := np.flatnonzero(wanted).tolist():
            chosen = RowBatch(
                rows=batch.rows[wanted],
                marks=batch.marks[wanted],
                vectors=batch.vectors[wanted],
                roots=[batch.roots[index] for index in indices],
                keys=[batch.keys[index] for index in indices],
                values=[[values[index] for index in indices] for values in batch.values],
            )
            self._database.upsert(chosen, self._record)
            self._uploaded += len(indices)
        self._done += len(batch.rows)
        elapsed_s = time.monotonic() - self._started
        self._show(Progress(self._done, self._snapshot.manifest.live, 0, elapsed_s))

    def _batches(self, live: npt.NDArray[np.bool_]) -> Iterator[RowBatch]:
        """Yield the live rows, one row group at a time."""
        fields, center = self._record.fields, self._snapshot.center
        center_id = self._snapshot.manifest.center_id
        keys = self._snapshot.tables(["row", "root", "key"])
        vectors = (group for shard in self._snapshot.shards for group in shard.vectors())
        for (start, table), (_, known), group in zip(
            self._columns.tables(_sources(fields)), keys, vectors, strict=True
        ):
            if not (is_live := live[start : start + len(table)]).any():
                continue
            mask = pa.array(is_live)
            table, known, group = table.filter(mask), known.filter(mask), group[is_live]
            roots: list[Any] = known.column("root").to_pylist()
            names_in_root: list[Any] = known.column("key").to_pylist()
            values = [plain(column_of(table, field), field.kind) for field in fields]
            yield RowBatch(
                rows=numbers(known.column("row")).astype(np.int64),
                marks=row_checksums(group, [roots, names_in_root, *values], center_id),
                vectors=group if center is None else center.rows(group),
                roots=roots,
                keys=names_in_root,
                values=values,
            )
