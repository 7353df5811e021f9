"""Columns of a store as fields of a database; in: Arrow columns, out: fields and plain values.

Every engine holds five kinds of values. Other columns are left out and reported.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.names import FULL_PATH, SHA256

Value: TypeAlias = "int | float | str | bool"

# Null in engines without nulls (see milvus.py); U+FDD0 is a noncharacter that no text contains.
LOWEST, NO_TEXT = -(2**63) + 1, "\ufdd0"
_MAX_TEXT_BYTES = 65_535  # of a VARCHAR of Milvus
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999
# Names that are neither keywords of an engine nor other fields of a row.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}")
_OF_THE_STORE = {FULL_PATH, SHA256}  # what a store knows of a file, and no database needs
OWN_FIELDS = ("id", "vector", "mark", "root", "key")
_RESERVED = frozenset(
    {*OWN_FIELDS, "and", "or", "not", "in", "like", "is", "null", "true", "false", "exists"}
    | {"between", "text_match", "phrase_match", "array_contains", "json_contains"}
)


class FieldKind(StrEnum):
    """What a field holds. A time is a count of microseconds since 1970, without a zone."""

    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    TIME = "time"


_KINDS = {
    **dict.fromkeys(
        ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"), FieldKind.INTEGER
    ),
    **dict.fromkeys(("float", "double"), FieldKind.NUMBER),
    **dict.fromkeys(("string", "large_string"), FieldKind.TEXT),
    "bool": FieldKind.BOOLEAN,
    **dict.fromkeys(
        ("timestamp[s]", "timestamp[ms]", "timestamp[us]", "date32[day]"), FieldKind.TIME
    ),
}
_ARROW = {
    FieldKind.INTEGER: pa.int64(),
    FieldKind.NUMBER: pa.float64(),
    FieldKind.TEXT: pa.string(),
    FieldKind.BOOLEAN: pa.bool_(),
    FieldKind.TIME: pa.timestamp("us"),
}


@dataclass(frozen=True)
class Field:
    """A field `name` of a database, for the column that a condition calls `column`.

    `arrow` is its type in the store; constants are read as this type.
    """

    name: str
    column: str
    kind: FieldKind
    arrow: str
    nullable: bool

    @property
    def source(self) -> str:
        """Return the column of the store that holds this field."""
        return "gps" if self.column in {"gps.lat", "gps.lon"} else self.column

    def to_list(self) -> list[str | bool]:
        """Return it as JSON-ready values."""
        return [self.name, self.column, self.kind.value, self.arrow, self.nullable]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Field:
        """Rebuild it from `to_list`; ValueError or TypeError if it is malformed."""
        name, column, kind, arrow, nullable = values
        return cls(name, column, FieldKind(kind), arrow, nullable)


# The row number; unlike the other fields, it is the primary key in every engine.
ROW = Field("id", "row", FieldKind.INTEGER, "int64", nullable=False)


def fields_of(schema: pa.Schema) -> tuple[list[Field], list[str]]:
    """Return the fields of a store's columns, and the names of columns that no field can hold."""
    fields: list[Field] = []
    left_out: list[str] = []
    taken = set(_RESERVED)
    for column in _flat(schema):
        if column.name == ROW.column or column.name in _OF_THE_STORE:
            continue
        kind = _KINDS.get(str(column.type))
        if kind is None or column.name in {field.column for field in fields}:
            left_out.append(column.name)
            continue
        name = column.name.replace(".", "_")
        if not _NAME.fullmatch(name) or name.lower() in taken:
            name = f"column_{len(fields)}"
        taken.add(name.lower())
        fields.append(Field(name, column.name, kind, str(column.type), column.nullable))
    return fields, left_out


def _flat(schema: pa.Schema) -> Iterable[pa.Field[Any]]:
    """Yield the columns; a GPS position is split into `gps.lat` and `gps.lon`."""
    for field in schema:
        if field.name == "gps":
            yield from (pa.field(f"gps.{part.name}", part.type) for part in field.type)
        else:
            yield field


def column_of(table: pa.Table, field: Field) -> pa.Array[Any]:
    """Return a field's values from a store's columns, as the Arrow type of its kind."""
    column = table.column(field.source).combine_chunks()
    if field.source != field.column:
        import pyarrow.compute as pc

        column = pc.struct_field(column, field.column.removeprefix(f"{field.source}."))
    return column.cast(_ARROW[field.kind])


def is_held(values: pa.Array[Any], kind: FieldKind) -> bool:
    """Return whether every engine can hold these values of a kind."""
    import pyarrow.compute as pc

    if kind is FieldKind.TEXT:
        longest = pc.max(pc.call_function("binary_length", [values])).as_py() or 0
        is_odd = pc.match_substring_regex(values, f"\\x00|{NO_TEXT}")
        return longest <= _MAX_TEXT_BYTES and not pc.any(is_odd).as_py()
    if kind is FieldKind.INTEGER:
        least = pc.min(values).as_py()
        return least is None or least > LOWEST
    if kind is FieldKind.TIME:
        ends = pc.min_max(values.cast(pa.int64()))
        first, last = ends["min"].as_py(), ends["max"].as_py()
        return first is None or (first >= _FIRST_US and last <= _LAST_US)
    return True


def plain(values: pa.Array[Any], kind: FieldKind) -> list[Value | None]:
    """Return values as Python objects."""
    found: list[Value | None] = (
        values.cast(pa.int64()) if kind is FieldKind.TIME else values
    ).to_pylist()
    return found


def vector_checksums(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.int64]:
    """Return a checksum of each vector, int64 (n,), in the upper half of the bits."""
    sums = [zlib.crc32(row) for row in np.ascontiguousarray(vectors)]
    return (np.array(sums, np.uint64) << np.uint64(32)).astype(np.int64)


def row_checksums(
    vectors: npt.NDArray[np.float16], values: Sequence[Sequence[object]], center_id: str
) -> npt.NDArray[np.int64]:
    """Return a checksum of each row, int64 (n,): vector in the upper half, values in the lower.

    Rows with different checksums differ. `values` holds one sequence per field; `vectors` are as
    the network made them, and `center_id` tells from what those in the database are measured.
    """
    start = zlib.crc32(center_id.encode())  # 0 for none
    lines = (repr(row).encode("utf-8", "surrogatepass") for row in zip(*values, strict=True))
    lower = np.array([zlib.crc32(line, start) for line in lines], np.int64)
    return vector_checksums(vectors) | lower
