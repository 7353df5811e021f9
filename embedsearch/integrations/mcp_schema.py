"""Schemas of tools as all clients take them; in: JSON Schema of pydantic, out: a common subset.

Gemini and others refuse `$ref`, `anyOf`, `prefixItems` and exclusive bounds, which are valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LEFT_OUT = {"$defs", "title"}
_NULL = {"type": "null"}


def plain_schema(schema: Mapping[str, Any], *, is_input: bool) -> dict[str, Any]:
    """Return a schema without references and alternatives.

    A value that may be null is one that may be missing, in inputs, and else has two types.
    """
    return _plain(schema, schema.get("$defs", {}), is_input)


def _plain(schema: Mapping[str, Any], known: Mapping[str, Any], is_input: bool) -> dict[str, Any]:
    whole = dict(schema)
    if (reference := whole.pop("$ref", None)) is not None:
        whole = {**known[reference.rpartition("/")[2]], **whole}
    if (choices := whole.get("anyOf")) is not None and _NULL in choices and len(choices) == 2:
        del whole["anyOf"]
        (other,) = (choice for choice in choices if choice != _NULL)
        whole = {**_plain(other, known, is_input), **whole}
        if is_input and whole.get("default", 0) is None:
            del whole["default"]
        elif not is_input:
            whole["type"] = [whole["type"], "null"]
    if (parts := whole.pop("prefixItems", None)) is not None:
        whole["items"] = parts[0]
    found: dict[str, Any] = {}
    for name, value in whole.items():
        if name == "properties":
            found[name] = {each: _plain(v, known, is_input) for each, v in value.items()}
        elif name in {"items", "additionalProperties"} and isinstance(value, dict):
            found[name] = _plain(value, known, is_input)
        elif name not in _LEFT_OUT:
            found[name] = value
    return found
