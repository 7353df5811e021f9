"""The column of a Parquet file that holds images; in: an open file, out: the cells of its rows.

A cell is a file's bytes, or a struct of `bytes` and `path` as Hugging Face datasets write it, or a
list of either. What the first values begin with decides between several such columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.images.sources.kinds import HEAD_BYTES, starts_an_image
from embedsearch.images.tables.parquet_bounds import Parquet

_NAMES = 65_536  # read together
_LOOKED_AT = 8  # rows, to choose a column


@dataclass(frozen=True)
class Cell:
    """An image of a row: its bytes, or where they are."""

    content: bytes | None
    path: str


@dataclass(frozen=True)
class ImageColumn:
    """A column of images; with `is_list`, a row has any number of them."""

    name: str
    kind: pa.DataType  # of one image
    is_list: bool

    @classmethod
    def of(cls, parquet: Parquet) -> ImageColumn:
        """Return the column whose first values look most like images. Raises ValueError."""
        schema = parquet.file.schema_arrow
        found = [column for field in schema if (column := _column(field)) is not None]
        if not found:
            there = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise ValueError(f"no column holds image files: there are {there[:160]}")
        return max(found, key=lambda column: column._images(parquet)) if found[1:] else found[0]

    def cells(self, value: Any) -> list[Cell]:
        """Return the images of a row, from the value of the column as Python has it."""
        values = (value or []) if self.is_list else [value]
        return [_cell(one) for one in values]

    def names(self, parquet: Parquet) -> Iterator[list[str]]:
        """Yield the names of the images of each row, "" for one without.

        Bytes are read only where nothing else tells how many images a row has.
        """
        file = parquet.file
        leaves = [leaf.path for leaf in _leaves(file) if leaf.path.split(".")[0] == self.name]
        paths = [leaf for leaf in leaves if leaf.rpartition(".")[2] == "path"]
        if not self.is_list and not paths:
            yield from ([""] for _ in range(file.metadata.num_rows))
            return
        most = parquet.rows_at_once(paths or leaves, _NAMES if paths else _LOOKED_AT)
        for batch in file.iter_batches(most, columns=paths or leaves):
            for value in batch.column(0).to_pylist():
                yield [cell.path for cell in self.cells(value)]

    def _images(self, parquet: Parquet) -> int:
        """Return how many of the first cells begin as images do, or else say where one is."""
        try:
            rows = parquet.rows_at_once([self.name], _LOOKED_AT)
            first = next(parquet.file.iter_batches(rows, columns=[self.name]), None)
            values = [] if first is None else first.column(0).to_pylist()
        except (pa.ArrowException, OSError, OverBound):
            return 0  # it is said if the column is read nevertheless
        cells = [cell for value in values for cell in self.cells(value)]
        begun = sum(starts_an_image((cell.content or b"")[:HEAD_BYTES]) for cell in cells)
        return begun * len(values) + sum(bool(cell.path) for cell in cells)


def _leaves(file: Any) -> Iterator[Any]:
    schema: Any = file.schema
    return (schema.column(number) for number in range(len(schema)))


def _column(field: pa.Field[Any]) -> ImageColumn | None:
    kind: Any = field.type
    listed: list[Any] = [pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list]
    is_list = any(is_kind(kind) for is_kind in listed)
    if is_list:
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        content = kind.field(index).type if index >= 0 else None
        # Rows of paths only have bytes without a type.
        is_named = content is not None and pa.types.is_null(content) and _has_path(kind)
        holds = is_named or (content is not None and _is_binary(content))
    else:
        holds = _is_binary(kind)
    return ImageColumn(field.name, kind, is_list) if holds else None


def _has_path(kind: Any) -> bool:
    index = kind.get_field_index("path")
    return index >= 0 and not pa.types.is_null(kind.field(index).type)


def _is_binary(kind: pa.DataType) -> bool:
    is_binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in is_binary)


def _cell(value: Any) -> Cell:
    if not isinstance(value, dict):
        return Cell(value, "")
    path = value.get("path")
    name = os.fsdecode(path) if isinstance(path, str | bytes) else ""
    if len(name) > bounds.PATH_BYTES:
        raise OverBound(f"a row has a path of more than {bounds.PATH_BYTES} bytes")
    return Cell(value.get("bytes"), name)
