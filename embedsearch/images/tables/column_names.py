"""The column of a table that names images; in: names of columns, out: the one that counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from embedsearch.core.names import comparable

NAME = "name"  # names images by the last part of their paths
# By paths, the preferred one first; `SourceFile` is that of ExifTool, which also writes `FileName`,
# and `file_name` that of Hugging Face and COCO.
PATHS = (
    *("path", "file_path", "filepath", "sourcefile", "file_name", "filename"),
    *("image_file_name", "image_path", "image_name", "file", "image"),
)
NEEDED = f"a column path or {NAME}, or one of {', '.join(PATHS[1:])}"


def folded(name: str) -> str:
    """Return a name without case, and without blanks around it: `File Name ` is `file_name`."""
    return re.sub(r"[\s-]+", "_", comparable(name).strip().lower())


def column_called(wanted: str, names: Iterable[str]) -> str | None:
    """Return the column of that name, else one that differs in case and blanks only."""
    listed = list(names)
    if wanted in listed:
        return wanted
    return next((name for name in listed if folded(name) == folded(wanted)), None)


def naming_column(names: Iterable[str]) -> str | None:
    """Return the column that says which image a row is about, None if there is none."""
    listed = list(names)
    found = (column_called(wanted, listed) for wanted in (*PATHS, NAME))
    return next((name for name in found if name is not None), None)


def naming_field(schema: pa.Schema) -> str | None:
    """Return the column of a schema that says which image a row is about, None if none does."""
    texts = [field.name for field in schema if _may_name(field)]
    return naming_column(texts)


def _may_name(field: pa.Field[pa.DataType]) -> bool:
    """Return whether a column may name images: `image` often holds pictures instead."""
    kind = field.type
    if pa.types.is_nested(kind):
        return False
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    return folded(field.name) in {"path", NAME} or any(is_kind(kind) for is_kind in is_text)
