"""Records as a table for a spreadsheet; in: records, out: CSV with a header."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from embedsearch.core.formulas import guarded
from embedsearch.core.records import ImageRecord

_COLUMNS = (
    "path",
    "full_path",
    "key",
    "width",
    "height",
    "format",
    "size_bytes",
    "taken_at",
    "camera",
)


def csv_of(records: Sequence[ImageRecord]) -> str:
    """Return a line for each record, with the user's columns, after a line with their names.

    A text that a spreadsheet would take for a formula has a `'` before it.
    """
    users = dict.fromkeys(name for record in records for name in record.metadata)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180; a lone CR is quoted
    writer.writerow(map(_cell, (*_COLUMNS, *users)))
    for record in records:
        values = record.to_dict()
        metadata = dict(zip(record.metadata, values["metadata"].values(), strict=True))
        cells = [*(values[name] for name in _COLUMNS), *map(metadata.get, users)]
        writer.writerow(map(_cell, cells))
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, bool | list | dict):
        return json.dumps(value)
    return value
