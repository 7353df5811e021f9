"""The types of a config's fields; in: a frozen dataclass, out: its values as those types.

Values come from users: NumPy's numbers, paths and lists are taken, and anything else is refused
here, before it reaches a library that fails in its own words.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from embedsearch.core.errors import UsageError

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def settle_types(config: Any) -> None:
    """Bring the fields of a new config to their types. Raises UsageError."""
    for name, (hint, as_they_are) in _hints(config.__class__).items():
        value = getattr(config, name)
        if type(value) not in as_they_are:
            object.__setattr__(config, name, as_type(name, value, hint))


def as_type(name: str, value: object, hint: Any) -> Any:
    """Return a value as bool, int, float, str, a tuple of these, or a config, or as None.

    Raises UsageError that names it.
    """
    if get_origin(hint) in {Union, UnionType}:
        if value is None:
            return None
        protocols = [part for part in get_args(hint) if getattr(part, "_is_protocol", False)]
        if any(isinstance(value, protocol) for protocol in protocols):
            return value
        (hint,) = (part for part in get_args(hint) if part not in {NoneType, *protocols})
    if get_origin(hint) is tuple:
        given = [value] if isinstance(value, str | os.PathLike) else value
        members = listed(name, given, "a list of texts")
        return tuple(as_type(name, part, get_args(hint)[0]) for part in members)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, hint):
            raise UsageError(f"{name} must be {hint.__name__}, not {shown(value)}", name)
        return value
    if (found := _plain(value, hint)) is None:
        raise UsageError(f"{name} must be {WORDS[hint]}, not {shown(value)}", name)
    return found


def listed(name: str, value: Any, wanted: str = "a list") -> list[Any]:
    """Return the members of a list, a set, an array or whatever has members. Raises UsageError."""
    try:
        if not isinstance(value, str | bytes | Mapping):
            return list(value)
    except TypeError:  # also an array without dimensions, which says that it has members
        pass
    raise UsageError(f"{name} must be {wanted}, not {shown(value)}", name)


def _plain(value: object, hint: type) -> Any:
    """Return a value as a plain type, None where it is none."""
    if hint is bool:
        return bool(value) if _is_bool(value) else None
    if hint is str:
        name = os.fspath(value) if isinstance(value, os.PathLike) else value
        return str(name) if isinstance(name, str) else None
    if _is_bool(value):
        return None
    if hint is int:
        return int(value) if isinstance(value, Integral) else None
    return float(value) if isinstance(value, Real) and not math.isnan(value) else None


def _is_bool(value: object) -> bool:
    kind = getattr(getattr(value, "dtype", None), "kind", "")  # NumPy's is no bool
    return isinstance(value, bool) or (kind == "b" and getattr(value, "ndim", 1) == 0)


@cache
def _hints(kind: type) -> dict[str, tuple[Any, set[Any]]]:
    """Return for each field its annotation, and the types whose values need no look."""
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in {Union, UnionType} else [hint]
        found[field.name] = hint, {bool, int, str, NoneType}.intersection(parts)
    return found


def shown(value: object) -> str:
    """Return a value as it is named in an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
