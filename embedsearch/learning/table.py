"""A user's CSV; in: a file and its required columns, out: its rows with line numbers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from embedsearch.core.errors import UsageError


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return line numbers, and cells by column. Bytes that are not UTF-8 stay as in file names.

    Raises UsageError where the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or ())
            for name in columns:
                if name not in found:
                    has = f"it has {', '.join(found)}" if found else "it is empty"
                    raise UsageError(f"{path} has no column {name!r}; {has}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return [(line, {k: v or "" for k, v in row.items() if k is not None}) for line, row in rows]
