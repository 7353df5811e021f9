"""DuckDB, for conditions only; in: a condition and a table, out: which rows meet it.

Runs in the worker process. What DuckDB says of an error names settings, paths and its own insides,
so no text of it leaves this file but a few known sentences about types.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from embedsearch.searching.filters.grammar import (
    AFTER,
    BEFORE,
    POSITION_COLUMN,
    Refused,
    place_in_text,
    used_by,
)

_MEMORY = "128MB"
# The second wall behind the grammar: the engine itself reaches nothing.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "memory_limit": _MEMORY,
    "temp_directory": "",
    "threads": 1,
}
_MORE_SETTINGS = "SET errors_as_json = true; SET lock_configuration = true"
# Parts of a SELECT that a text could add by closing the parenthesis.
_PARTS = ("modifiers", "group_expressions", "having", "qualify", "sample")
_TIME = r"(?:DATE|TIMESTAMP)[\w ]{0,20}"
_A_TIME = "a time cannot be compared with a number: write taken_at >= '2024-01-01'"
_TYPE = r"([A-Z][\w ,()\[\]\"]{0,120}?)"
_SAID = {
    r"Max expression depth": "too deeply nested",
    r"(unterminated (?:string literal|quoted identifier|quoted string|/\* comment))": "{0}",
    r"syntax error at or near \"(?P<at>.*)\"": 'syntax error at or near "{at}"',
    rf"Cannot compare values of type {_TIME} and type INTEGER\w* -": _A_TIME,
    rf"Cannot compare values of type INTEGER\w* and type {_TIME} -": _A_TIME,
    rf"Cannot compare values of type {_TYPE} and type {_TYPE} -": (
        "{0} cannot be compared with {1}: cast one of them"
    ),
    r"No function matches the given name and argument types '([^'/]{1,200})'": "there is no {0}",
    rf".*Cannot mix values of type {_TYPE} and {_TYPE} in": "{0} and {1} cannot be mixed: cast one",
}
_MEANT = {
    "Parser": "syntax error",
    "Binder": "this does not fit the types of the columns",
    "Catalog": "this does not fit the types of the columns",
    "Conversion": "a value cannot be converted: try_cast gives null for it",
    "Out of Range": "a number or time is out of range: cast to a wider type",
    "Invalid Input": "a pattern or value is not valid here",
}


class Engine:
    """One connection that only conditions are put to."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        self._connection.execute(_MORE_SETTINGS)

    def parse(self, text: str, names: list[str]) -> dict[str, Any]:
        """Return the columns that a text uses, whether it asks the clock, and its tree as text.

        Raises Refused.
        """
        try:
            (serialized,) = self._row("SELECT json_serialize_sql(?)", BEFORE + text + AFTER)
            tree = json.loads(serialized)
            if tree["error"]:
                position = int(tree.get("position") or -1)
                raise Refused(_words("Parser", tree["error_message"]), position)
            node = tree["statements"][0]["node"]
            if (
                len(tree["statements"]) != 1
                or node["type"] != "SELECT_NODE"
                or any(node[part] for part in _PARTS)
                or node["where_clause"] is None
            ):
                raise Refused("more than one condition")
            used = used_by(node["where_clause"], names)
            whole = json.dumps(node["where_clause"])
        except RecursionError as error:
            raise Refused("too deeply nested") from error
        except Refused as error:
            raise _placed(error) from error
        return {"columns": used.columns, "clock": used.clock, "tree": whole}

    def holds(self, text: str, table: pa.Table) -> str:
        """Return which rows of a table meet a condition, as bits in Base64: null is false."""
        try:
            self._connection.register("images", table)
            found = self._connection.execute(BEFORE + text + AFTER).fetchnumpy()
        except duckdb.Error as error:
            raise _refusal(error) from error
        mask = np.zeros(len(table), np.bool_)
        mask[found[POSITION_COLUMN]] = True
        return base64.b64encode(np.packbits(mask).tobytes()).decode()

    def value(self, expression: dict[str, Any], kind: str | None) -> tuple[str, str]:
        """Return what an expression without columns stands for: its kind and its text."""
        (text,) = self._row("SELECT json_serialize_sql('SELECT 1')")
        query = json.loads(text)
        query["statements"][0]["node"]["select_list"] = [expression]
        try:
            (value,) = self._row("FROM json_execute_serialized_sql(?)", json.dumps(query))
            if kind is not None and value is not None:
                (value,) = self._row(f"SELECT CAST(? AS {kind})", value)
        except duckdb.Error as error:
            position = expression.get("query_location", -1)
            raise _placed(Refused(_refusal(error).message, position)) from error
        return _sent(value)

    def _row(self, query: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, values).fetchall()[0]
        return row


def _sent(value: Any) -> tuple[str, str]:
    """Return a value in a form that JSON carries without loss."""
    if value is None or isinstance(value, bool | int | float | str):
        return "json", json.dumps(value)
    if isinstance(value, Decimal):
        return "decimal", str(value)
    if isinstance(value, datetime):
        return "datetime", value.isoformat()
    return ("date", value.isoformat()) if isinstance(value, date) else ("other", "")


def _placed(refused: Refused) -> Refused:
    """Return a refusal whose position is a byte of the text, or -1."""
    position = place_in_text(refused.position)
    return Refused(refused.message, position, refused.hint, refused.known)


def _refusal(error: duckdb.Error) -> Refused:
    """Return an error of DuckDB in our words. Raises MemoryError if that is what it is."""
    text = str(error)
    try:
        values = json.loads(text[text.index("{") :])
        kind, message = values["exception_type"], values["exception_message"]
        position = int(values.get("position") or -1)
    except (ValueError, KeyError):
        kind, message, position = "", "", -1
    if isinstance(error, duckdb.OutOfMemoryException) or "bad_alloc" in text:
        raise MemoryError from error
    return _placed(Refused(_words(kind, message), position))


def _words(kind: str, message: str) -> str:
    """Return what an error means: from a known sentence, or else by its kind."""
    for pattern, said in _SAID.items():
        if found := re.match(pattern, message.split("\n", 1)[0]):
            return said.format(*found.groups(), **found.groupdict())
    return _MEANT.get(kind, "this cannot be evaluated")
