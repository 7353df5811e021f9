"""What is wrong with values of a request; in: an error of pydantic, out: a line in our words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from embedsearch.core.field_types import WORDS, shown

_PROBLEMS = 3  # that are listed
_NAME_LETTERS = 50
# What other services call a parameter.
_MEANT = {
    **dict.fromkeys(("q", "query", "words", "prompt"), "text"),
    **dict.fromkeys(("limit", "top_k", "topk", "n", "count", "size", "per_page"), "k"),
    **dict.fromkeys(("filter", "filters", "condition"), "where"),
    **dict.fromkeys(("threshold", "score_threshold"), "min_score"),
    **dict.fromkeys(("skip", "start", "from"), "offset"),
    **dict.fromkeys(("sort", "order_by"), "order"),
    **dict.fromkeys(("embedding", "query_vector"), "vector"),
    **dict.fromkeys(("path", "id"), "key"),
}
_TYPES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), WORDS[int]),
    **dict.fromkeys(("float_parsing", "float_type"), WORDS[float]),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "a text",
    "list_type": "a list",
}
_BOUNDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda bounds: f"at least {bounds['ge']}",
    "greater_than": lambda bounds: f"more than {bounds['gt']}",
    "less_than_equal": lambda bounds: f"at most {bounds['le']}",
    "less_than": lambda bounds: f"less than {bounds['lt']}",
}


def problems_of(error: ValidationError, names: Iterable[str], a_name: str = "parameter") -> str:
    """Return what is wrong, in one line; `names` are those that there are."""
    known = list(names)
    found = error.errors(include_url=False)[:_PROBLEMS]
    return "; ".join(_problem(each, known, a_name) for each in found)


def _problem(error: Mapping[str, Any], known: list[str], a_name: str) -> str:
    name = ".".join(str(part)[:_NAME_LETTERS] for part in error["loc"])
    kind, value, bounds = error["type"], error["input"], error.get("ctx", {})
    if not name:
        return f"the body must be a JSON object, not {_shown(value)}"
    if kind == "extra_forbidden":
        return _unknown(name, known, a_name)
    if kind == "missing":
        return f"{name} is missing"
    if kind == "string_pattern_mismatch":
        return f"{name} must be whole numbers with commas between them, not {_shown(value)}"
    if kind in {"string_too_long", "too_long"}:
        what = "characters" if kind == "string_too_long" else "values"
        return f"{name} must have at most {bounds['max_length']:,} {what}, not {len(value):,}"
    if kind in {"string_too_short", "too_short"}:
        what = "characters" if kind == "string_too_short" else "values"
        return f"{name} must have at least {bounds['min_length']} {what}, not {len(value)}"
    if kind == "literal_error":
        return f"{name} must be {bounds['expected']}, not {_shown(value)}"
    if kind in _BOUNDS:
        return f"{name} must be {_BOUNDS[kind](bounds)}, not {_shown(value)}"
    if kind in _TYPES:
        return f"{name} must be {_TYPES[kind]}, not {_shown(value)}"
    return f"{name}: {error['msg']}"


def _unknown(name: str, known: list[str], a_name: str) -> str:
    meant = _MEANT.get(name.lower())
    near = [meant] if meant in known else get_close_matches(name.lower(), known, 1)
    hint = f": did you mean {near[0]}?" if near else ";"
    return f"there is no {a_name} {name}{hint} there are {', '.join(known)}"


def _shown(value: object) -> str:
    """Return a value as JSON writes it where Python's word differs."""
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
