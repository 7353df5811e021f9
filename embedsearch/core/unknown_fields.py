"""Fields of records that a later version wrote; in: JSON values, out: a record that keeps them.

A version that may read a file does not need to know all of it, and hands the rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
R = TypeVar("R", bound="DataclassInstance")
_KEPT = "_unknown_fields"


def record_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a record of these values. Raises what its constructor raises."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    record = kind(**{name: value for name, value in values.items() if name in names})
    if unknown := {name: value for name, value in values.items() if name not in names}:
        object.__setattr__(record, _KEPT, unknown)
    return record


def replaced(record: R, **changes: Any) -> R:
    """Return a record with other values, and the fields that are not known."""
    changed = replace(record, **changes)
    if unknown := getattr(record, _KEPT, None):
        object.__setattr__(changed, _KEPT, unknown)
    return changed


def values_of(value: Any) -> Any:
    """Return a record, and those in it, as JSON values, with the fields that are not known."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: values_of(getattr(value, field.name)) for field in fields(value)}
        return {**getattr(value, _KEPT, {}), **own}
    if isinstance(value, list | tuple):
        return [values_of(part) for part in value]
    return value
