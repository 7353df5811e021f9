"""The arguments of public functions; in: a function, out: it with its arguments checked.

What a user passes ends as an answer or as a UsageError that names it, and not in the words of a
library three layers below. Types are read from the annotations.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

from embedsearch.core.errors import UsageError
from embedsearch.core.field_types import WORDS, as_type, listed, shown

P = ParamSpec("P")
R = TypeVar("R")

_PATHS = {"str", "Path", "PurePath", "os.PathLike[str]", "StorePath"}
_PLAIN: dict[str, type] = {"int": int, "float": float, "bool": bool}
_LISTS = ("Sequence[", "list[", "tuple[", "Iterable[")
_ANYTHING = {"None", "Any", "Query", "Single", "ImageLike", "T"}
_ALTERNATIVE = re.compile(r"\s*\|\s*(?![^\[]*\])")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with its numbers, texts, paths and lists checked when it is called."""
    signature = inspect.signature(function)
    annotations = {
        name: [*filter(None, _ALTERNATIVE.split(str(parameter.annotation)))]
        for name, parameter in signature.parameters.items()
        if parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
    }
    annotations = {name: kinds for name, kinds in annotations.items() if set(kinds) - _ANYTHING}
    as_they_are = {
        name: {_PLAIN[kind] for kind in kinds if kind in {"int", "bool"}}
        for name, kinds in annotations.items()
    }
    in_order = [
        name for name, one in signature.parameters.items() if one.kind <= one.POSITIONAL_OR_KEYWORD
    ]

    def settled(name: str, value: Any) -> Any:
        if name not in annotations or type(value) in as_they_are[name]:
            return value
        return _checked(name, value, annotations[name])

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        # Not by signature.bind(), which takes 10 µs, and a query calls three of these
        named = [settled(name, value) for name, value in zip(in_order, arguments, strict=False)]
        given: Any = [*named, *arguments[len(named) :]]
        return function(*given, **{name: settled(name, options[name]) for name in options})

    return called


def _checked(name: str, value: Any, kinds: Sequence[str]) -> Any:
    """Return a value as one of some annotated types. Raises UsageError."""
    may_be_none = "None" in kinds or "StorePath" in kinds
    if value is None and may_be_none:
        return None
    lists = [kind for kind in kinds if kind.startswith(_LISTS)]
    if lists and not isinstance(value, str | bytes | os.PathLike | Mapping):
        return _members(name, value, lists[0])
    plain = [_PLAIN[kind] for kind in kinds if kind in _PLAIN]
    if _PATHS & set(kinds) and not (plain and not isinstance(value, str | os.PathLike)):
        return _path(name, value if (_PATHS - {"str"}) & set(kinds) else as_type(name, value, str))
    if plain and _PATHS & set(kinds) and not isinstance(value, plain[0] | Integral):
        raise UsageError(f"{name} must be text or {WORDS[plain[0]]}, not {shown(value)}", name)
    if plain:
        return as_type(name, value, plain[0])
    if lists:
        raise UsageError(f"{name} must be a list, not {shown(value)}", name)
    if any(kind.startswith(("Callable", "OnProgress", "ExtractorFactory")) for kind in kinds):
        if not callable(value):
            raise UsageError(f"{name} must be a function, not {shown(value)}", name)
        return value
    classes = {one.__name__ for one in type(value).__mro__}
    ours = [kind for kind in kinds if kind.isidentifier() and kind not in _ANYTHING]
    if ours and not classes & set(ours):
        raise UsageError(f"{name} must be {ours[0]}, not {shown(value)}", name)
    return value


def _members(name: str, value: Any, kind: str) -> Any:
    """Return a list whose members are of the annotated type. Raises UsageError."""
    head, _, rest = kind[:-1].partition("[")
    first, *more = rest.split(", ")
    inner = _ALTERNATIVE.split(first)
    if not isinstance(value, Iterable):
        raise UsageError(f"{name} must be a list, not {shown(value)}", name)
    if inner[0] in _ANYTHING:
        # They are checked where they are used, and what is iterable may have no end.
        is_left = isinstance(value, Sequence) or head == "Iterable"
        return value if is_left else listed(name, value)
    members = [_checked(name, member, inner) for member in listed(name, value)]
    if head == "tuple" and more and more != ["..."] and len(members) != 1 + len(more):
        raise UsageError(f"{name} must have {1 + len(more)} members, not {shown(value)}", name)
    return tuple(members) if isinstance(value, tuple) else members


def _path(name: str, value: Any) -> Any:
    """Return a text or a path that the system can hold. Raises UsageError."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise UsageError(f"{name} must be text or a path, not {shown(value)}", name)
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} is not valid text: {shown(value)}", name) from error
    return os.fsdecode(value) if isinstance(value, bytes) else value
