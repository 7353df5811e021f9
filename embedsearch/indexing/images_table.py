"""`images.parquet` in a store: its current images for other programs; in: a generation.

The folder `shards` also holds rows of former generations and deleted ones, which only the manifest
tells apart. This one file is always the current rows, with the user's columns and without vectors.
It is a copy for readers: nothing here reads it.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core.errors import StorageError
from embedsearch.core.names import EXACT, FULL_EXACT, FULL_PATH
from embedsearch.searching.columns import RowColumns
from embedsearch.store.files import TABLE_NAME, replace
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot

_GENERATION = b"embedsearch_generation"
_log = logging.getLogger(__name__)


def write_images_table(store: Path, manifest: Manifest) -> None:
    """Write the images of the current generation; without room for it, there is no such file."""
    try:
        replace(store, TABLE_NAME, _content(store, manifest))
    except (StorageError, pa.ArrowException) as error:
        _log.warning("%s could not be written (%s)", store / TABLE_NAME, error)
        # A table of a former generation would be a wrong answer.
        with contextlib.suppress(OSError):  # the disk is not well, and the log has said so
            (store / TABLE_NAME).unlink(missing_ok=True)


def refresh_images_table(store: Path, manifest: Manifest) -> None:
    """Write the table again if it is not that of the current generation."""
    if _generation(store / TABLE_NAME) != manifest.generation:
        write_images_table(store, manifest)


def _content(store: Path, manifest: Manifest) -> bytes:
    """Return the table as a Parquet file."""
    sink = pa.BufferOutputStream()
    with Snapshot(store, manifest) as snapshot:
        columns = RowColumns(snapshot)
        mask = snapshot.live_mask()
        fields = [_field(columns, name) for name in columns.exported]
        schema = pa.schema(fields, {_GENERATION: str(manifest.generation).encode()})
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for start, table in columns.tables(columns.exported):
                live = table.filter(pa.array(mask[start : start + len(table)]))
                writer.write_table(live.cast(schema))
    return sink.getvalue().to_pybytes()


def _field(columns: RowColumns, name: str) -> pa.Field[Any]:
    if name in {EXACT, FULL_EXACT}:
        return pa.field(name, pa.string())
    return columns.schema.field(name).with_nullable(True)


def _generation(path: Path) -> int | None:
    """Return the generation of a table, None for one that is not there, damaged or of old."""
    try:
        schema = pq.read_schema(path)
        if FULL_PATH not in schema.names:  # a former version wrote it
            return None
        return int((schema.metadata or {})[_GENERATION])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
