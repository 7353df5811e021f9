"""Files beside images to columns: `a.jpg.json` or `a.json`, and `a.jpg.txt` or `a.txt`.

In: the paths of images, out: the table that one with a row an image would have been. The fields
of a JSON object become columns, a text the column `caption`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from embedsearch.errors import UsageError
from embedsearch.paths import open_folder, open_regular
from embedsearch.records import MetadataReport
from embedsearch.sources.table import LEFT_OUT, MAX_COLUMNS, UserTable, own_names

CAPTION = "caption"
MAX_BYTES = 1 << 20  # of one file
SIDECAR_SUFFIXES = frozenset({"json", "txt"})


def read_sidecars(images: Iterable[tuple[str, str]], taken: frozenset[str]) -> UserTable:
    """Read what lies beside images, given as (root, key), those of a folder one after the other.

    A file that cannot be read is named in `unreadable` and costs only itself. A column whose
    values are not of one type becomes JSON text. Raises UsageError for too many columns.
    """
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for (root, folder), group in groupby(images, lambda image: (image[0], _folder(image[1]))):
        there = set(_listed(root, folder))
        for _, key in group:
            fields: dict[str, Any] = {}
            for sidecar in _beside(key, there):
                try:
                    fields = {**_fields(root, sidecar), **fields}
                except (OSError, ValueError, RecursionError) as error:
                    words = getattr(error, "strerror", None) or str(error) or "nested too deep"
                    unreadable.append(f"{sidecar} ({words})")
            if fields:
                names.append(os.path.join(root, key))
                rows.append(fields)
    return UserTable(MetadataReport.SIDECARS, "path", names, _columns(rows, taken), unreadable)


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _listed(root: str, folder: str) -> Iterator[str]:
    """Yield the names in a folder that may be sidecars; none where it cannot be listed."""
    try:
        descriptor = open_folder(root, folder)
    except OSError:  # the images in it have failed, or are about to
        return
    try:
        yield from (
            n for n in os.listdir(descriptor) if n.rpartition(".")[2].lower() in SIDECAR_SUFFIXES
        )
    finally:
        os.close(descriptor)


def _beside(key: str, there: set[str]) -> Iterator[str]:
    """Yield the keys of an image's sidecars, the one that counts for more first."""
    folder, slash, name = key.rpartition("/")
    for suffix in ("json", "txt"):
        for beside in (f"{name}.{suffix}", f"{name.rpartition('.')[0]}.{suffix}"):
            if beside in there:
                yield folder + slash + beside


def _fields(root: str, key: str) -> dict[str, Any]:
    """Return the fields of a sidecar. Raises OSError, ValueError and RecursionError."""
    with open(open_regular(root, key), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("no UTF-8") from error
    if key.lower().endswith(".txt"):
        return {CAPTION: text.strip()} if text.strip() else {}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError("no JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    return fields


def _columns(rows: list[dict[str, Any]], taken: frozenset[str]) -> pa.Table:
    """Return a column for each name that occurs; names that differ in case only are one."""
    spelled: dict[str, str] = {}
    for row in rows:
        for name in row:
            spelled.setdefault(name.lower(), name)
        if len(spelled) > MAX_COLUMNS:
            raise UsageError(f"the sidecars have more than {MAX_COLUMNS} different fields")
    folded = [{name.lower(): value for name, value in row.items()} for row in rows]
    kept = [low for low in spelled if low not in LEFT_OUT]
    arrays = [_array([row.get(low) for row in folded]) for low in kept]
    return pa.table(arrays, own_names([spelled[low] for low in kept], taken, "sidecars"))


def _array(values: list[Any]) -> pa.Array:
    """Return values as one column, as JSON text where they have no type in common."""
    try:
        array = pa.array(values)
        if _is_storable(array.type):
            return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())


def _is_storable(kind: pa.DataType) -> bool:
    """Return whether Parquet takes a type: no object without fields, and none of too many."""
    if pa.types.is_list(kind):
        return _is_storable(kind.value_type)
    if not pa.types.is_struct(kind):
        return True
    return 0 < kind.num_fields <= MAX_COLUMNS and all(_is_storable(part.type) for part in kind)
