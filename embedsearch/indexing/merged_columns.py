"""Columns that come, joined to those that are there; in: two tables by row, out: one.

A later table changes the rows that it names and no others: a column takes a type that holds both
the new values and those that stay, or the table is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import printable
from embedsearch.core.records import SIDECARS
from embedsearch.images.tables.held_values import MAX_COLUMNS, held_column, same_name
from embedsearch.images.tables.table import UserTable
from embedsearch.store.snapshot import user_columns

_DIGITS = 38  # of a decimal


def as_spelled(new: list[str], known: Iterable[str], source: str) -> list[str]:
    """Return the names of new columns, as the store writes them where it has them in other case.

    Raises UsageError for too many.
    """
    there = {same_name(name): name for name in known}
    names = [there.setdefault(same_name(name), name) for name in new]
    if len(there) > MAX_COLUMNS:
        raise UsageError(
            f"metadata {source}: with its columns the store would have {len(there)}; at most "
            f"{MAX_COLUMNS} are held",
            "metadata",
        )
    return names


def merged(old: pa.Table | None, new: pa.Table, user: UserTable) -> tuple[pa.Table, list[str]]:
    """Return old and new columns by row, and which values of sidecars were left out, and why.

    Where both have a value, that of `new` wins, which `user` brought. Raises UsageError for a
    column whose values no type holds together with those that stay; of sidecars, it is left out.
    """
    if old is None:
        return new, []
    if user.source != SIDECARS:
        new = new.rename_columns(
            ["row", *as_spelled(new.column_names[1:], old.column_names[1:], user.source)]
        )
    rows = np.union1d(old.column("row").to_numpy(), new.column("row").to_numpy())
    in_new = pa.array(np.isin(rows, new.column("row").to_numpy()))
    before, after = (user_columns(table, rows).combine_chunks() for table in (old, new))
    columns = {"row": pa.array(rows)}
    left_out = []
    for name in dict.fromkeys([*old.column_names[1:], *new.column_names[1:]]):
        if name not in new.column_names:
            columns[name] = before.column(name)
            continue
        newer = after.column(name)
        if name not in old.column_names:
            columns[name] = newer
            continue
        stays = pc.if_else(in_new, pa.scalar(None, before.column(name).type), before.column(name))
        try:
            columns[name] = _joined(stays, newer)
        except pa.ArrowException:
            kinds = (
                f"{newer.type} here{_unlike(user, name, stays.type)} and {stays.type} in the store"
            )
            if user.source == SIDECARS:
                count = len(newer) - newer.null_count
                left_out.append(f"{count} values of {name} ({kinds})")
                columns[name] = stays
                continue
            raise UsageError(
                f"metadata {user.source}: the column {name} is {kinds}, where images that the "
                "table does not name keep their values: bring values of that type, or give the "
                "column another name",
                "metadata",
            ) from None
    return pa.table(columns), left_out


def _unlike(user: UserTable, name: str, kind: pa.DataType) -> str:
    """Return where a text of a table is not of a type, for a message; "" if it nowhere is."""
    found = next(n for n in user.columns.column_names if same_name(n) == same_name(name))
    column = user.columns.column(found)
    if not pa.types.is_string(column.type):
        return ""
    for image, value in zip(user.names, column, strict=True):
        try:
            pc.cast(value, kind)
        except pa.ArrowException:
            text = str(value)
            shown = f"{text[:40]}…" if len(text) > 40 else text
            return f" ({shown!r} for {printable(image)})"
    return ""


def _joined(stays: Any, new: Any) -> Any:
    """Return the values that stay, and new ones elsewhere. Raises ArrowException."""
    if stays.null_count == len(stays):
        empty = pa.types.is_null(new.type)
        return stays if empty else new
    if new.null_count == len(new):
        return stays
    kind = _common(stays, new)
    return pc.coalesce(_cast(new, kind), _cast(stays, kind))


def _common(stays: Any, new: Any) -> pa.DataType:
    """Return the type that holds both columns. Raises ArrowInvalid if there is none."""
    old: pa.DataType = stays.type
    kind: pa.DataType = new.type
    if old == kind:
        return old
    is_number = [_is_number(one) for one in (old, kind)]
    if all(is_number):
        return _number(stays, new)
    if pa.types.is_string(old) and not pa.types.is_nested(kind):
        return old  # a table of one row has 1984 for a title
    if pa.types.is_timestamp(old) and old.tz is None and pa.types.is_date(kind):
        return old
    if pa.types.is_timestamp(kind) and kind.tz is None and pa.types.is_date(old):
        return kind
    if pa.types.is_list(old) and pa.types.is_list(kind):
        return pa.list_(_common(pc.list_flatten(stays), pc.list_flatten(new)))
    if pa.types.is_struct(old) and pa.types.is_struct(kind):
        return _struct(stays, new)
    if pa.types.is_null(old) or pa.types.is_null(kind):
        return kind if pa.types.is_null(old) else old
    raise pa.ArrowInvalid("no common type")


def _is_number(kind: pa.DataType) -> bool:
    is_kind = pa.types
    return is_kind.is_integer(kind) or is_kind.is_floating(kind) or is_kind.is_decimal(kind)


def _number(stays: Any, new: Any) -> pa.DataType:
    """Return the type of numbers that holds both, each value as it is. Raises ArrowInvalid."""
    kinds: list[Any] = [stays.type, new.type]
    if any(map(pa.types.is_floating, kinds)):
        return pa.float64()
    if not any(map(pa.types.is_decimal, kinds)):  # int64 and uint64
        for column in (stays, new):
            if pa.types.is_uint64(column.type) and (pc.max(column).as_py() or 0) >= 1 << 63:
                return pa.uint64()
        return pa.int64()
    scale = max(kind.scale for kind in kinds if pa.types.is_decimal(kind))
    whole = [k.precision - k.scale if pa.types.is_decimal(k) else 20 for k in kinds]
    return pa.decimal128(min(_DIGITS, max(whole) + scale), scale)


def _struct(stays: Any, new: Any) -> pa.DataType:
    """Return objects with the fields of both. Raises ArrowInvalid."""
    fields: dict[str, Any] = {}
    for column in (stays, new):
        for field, values in zip(column.type, column.flatten(), strict=True):
            same = next((name for name in fields if same_name(name) == same_name(field.name)), None)
            if same is None:
                fields[field.name] = values
            elif same == field.name:
                kind = _common(fields[same], values)
                fields[same] = pa.array([], type=kind)
            else:
                raise pa.ArrowInvalid("fields that differ in case only")
    if len(fields) > MAX_COLUMNS:
        raise pa.ArrowInvalid("too many fields")
    return pa.struct([pa.field(name, values.type) for name, values in fields.items()])


def _cast(column: Any, kind: pa.DataType) -> Any:
    """Return a column as a type that holds its values. Raises ArrowException."""
    if column.type == kind:
        return column
    if pa.types.is_floating(column.type) and pa.types.is_string(kind):
        return pc.cast(column, kind)
    if pa.types.is_decimal(column.type) and pa.types.is_floating(kind):
        return column.cast(kind, safe=False)
    found = column.cast(kind)
    return held_column(found)
