"""WHERE text to the rows that match it; in: SQL boolean text and columns, out: a mask.

DuckDB parses and evaluates the text only on the given tables: it cannot reach files, the network
or settings. Each row is evaluated by itself.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.errors import UsageError
from embedsearch.core.names import comparable

TIME_LIMIT_S = 30.0  # for all rows of a store
MAX_CHARACTERS = 10_000
_MEMORY = "1GB"
_BEFORE = "SELECT {position} FROM images WHERE ("
_AFTER = "\n)"  # on its own line, as the text may end in a comment
# Expressions on a single row; no subqueries, window functions or stars.
_ALLOWED = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"}
    | {"FUNCTION", "LAMBDA", "LAMBDA_REF", "OPERATOR", "TYPE"}
)
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "memory_limit": _MEMORY,
}
_MORE_SETTINGS = "SET errors_as_json = true; SET lock_configuration = true"


class Where:
    """A filter, parsed for the existing columns. Close it, or use it with `with`."""

    def __init__(self, text: str, schema: pa.Schema, *, is_exact: bool = False) -> None:
        """Parse the text. Raises UsageError with the position of the error and the columns.

        Unless it `is_exact`, texts that look the same are equal: an accent that the text has, and a
        name on the disk, may be encoded in two ways.
        """
        self._text = text if is_exact else comparable(text)
        self._is_exact = is_exact or text.isascii()
        self._names: list[str] = sorted(schema.names)
        if not text.strip():
            raise UsageError("where is empty", "where")
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"where has more than {MAX_CHARACTERS:,} characters", "where")
        self._left_s = TIME_LIMIT_S
        self._position = "place"  # of a row: a column that the table does not have
        while self._position in {name.lower() for name in self._names}:
            self._position += "_"
        self._before = _BEFORE.format(position=self._position)
        self.tree: dict[str, Any] = {}  # the condition, as DuckDB serializes it
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        try:
            self._connection.execute(_MORE_SETTINGS)
            self.columns = self._parse()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Where:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def holds(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Return bool (rows,) for a table of at least `columns`: null counts as false.

        Raises UsageError if a value cannot be compared.
        """
        if not self._is_exact:
            table = _comparable(table)
        positions = pa.array(np.arange(len(table)))
        timer = threading.Timer(self._left_s, self._connection.interrupt)
        timer.start()
        started = time.monotonic()
        try:
            self._connection.register("images", table.append_column(self._position, positions))
            result = self._connection.execute(self._before + self._text + _AFTER).fetchnumpy()
        except duckdb.InterruptException as error:
            raise UsageError(f"where took more than {TIME_LIMIT_S:.0f} s", "where") from error
        except duckdb.Error as error:
            raise self.refusal(*_error_message(error)) from error
        finally:
            timer.cancel()
            self._left_s -= time.monotonic() - started
            with contextlib.suppress(duckdb.Error):  # it was not registered
                self._connection.unregister("images")
        mask = np.zeros(len(table), np.bool_)
        mask[result[self._position]] = True
        return mask

    def value(self, expression: dict[str, Any], kind: str | None = None) -> Any:
        """Return what an expression without columns stands for, as a type of SQL if one is given.

        Raises UsageError.
        """
        (text,) = self._row("SELECT json_serialize_sql('SELECT 1')")
        query = json.loads(text)
        query["statements"][0]["node"]["select_list"] = [expression]
        position = expression.get("query_location", -1)
        try:
            (value,) = self._row("FROM json_execute_serialized_sql(?)", json.dumps(query))
            if kind is not None and value is not None:
                (value,) = self._row(f"SELECT CAST(? AS {kind})", value)
        except duckdb.Error as error:
            raise self.refusal(_error_message(error)[0], position) from error
        return value

    def _row(self, query: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, values).fetchall()[0]
        return row

    def _parse(self) -> list[str]:
        """Return the names of the columns that the text uses."""
        (text,) = self._row("SELECT json_serialize_sql(?)", self._before + self._text + _AFTER)
        try:
            tree = json.loads(text)
        except RecursionError as error:
            raise self.refusal("too deeply nested", -1) from error
        if tree["error"]:
            raise self.refusal(tree["error_message"], int(tree.get("position") or -1))
        node = tree["statements"][0]["node"]
        if (
            len(tree["statements"]) != 1
            or node["type"] != "SELECT_NODE"
            or any(node[part] for part in _PARTS)
            or node["where_clause"] is None
        ):
            raise self.refusal("more than one condition", -1)
        self.tree = node["where_clause"]
        parts = list(_expressions(self.tree))
        variables = {name for part in parts for name in _variables(part)}
        used = set()
        for part in parts:
            position = part.get("query_location", -1)
            if part["class"] not in _ALLOWED:
                raise self.refusal(
                    f"{part['class'].lower()} is not allowed: each row is evaluated by itself",
                    position,
                )
            if part["class"] == "COLUMN_REF" and part["column_names"][0] not in variables:
                used.update(self._meant(part["column_names"], position))
        return sorted(used)

    def _meant(self, path: list[str], position: int) -> list[str]:
        """Return the columns that a reference may mean: `a`, `a.field`, `images.a`."""
        names: dict[str, str] = {comparable(name).lower(): name for name in self._names}
        names |= {name.lower(): name for name in self._names}
        is_qualified = path[0].lower() == "images" and len(path) > 1
        found = [names[name.lower()] for name in path[: 1 + is_qualified] if name.lower() in names]
        if not found:
            wanted = path[is_qualified]
            near = difflib.get_close_matches(wanted.lower(), names, 1, 0.7)
            hint = f", did you mean {names[near[0]]}?" if near else ""
            raise self.refusal(f"there is no column {wanted}{hint}", position)
        return found

    def refusal(self, message: str, position: int) -> UsageError:
        """Return an error that quotes the text at byte `position` of the whole query."""
        start, data, where = len(self._before), self._text.encode(), ""
        if position >= start:
            before = data[: position - start].decode(errors="replace")
            rest = " ".join(self._text[len(before) :].split())
            at = f"at {rest[:30]!r}" if rest else "at the end"
            where = f", character {len(before) + 1} ({at})"
        message = " ".join(message.split())
        return UsageError(f"where: {message}{where}; columns: {', '.join(self._names)}", "where")


def _comparable(table: pa.Table) -> pa.Table:
    """Return a table whose names and texts are in the form in which they are compared."""
    import pyarrow.compute as pc  # 50 ms, which other filters need not spend

    columns = [
        # The stubs lack it.
        pc.utf8_normalize(column, form="NFC")  # type: ignore[attr-defined]
        if pa.types.is_string(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, [comparable(name) for name in table.column_names])


# Parts of a SELECT that a text could add by closing the parenthesis.
_PARTS = ("modifiers", "group_expressions", "having", "qualify", "sample")


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every expression of a parsed condition, however deep."""
    left = [tree]
    while left:
        if isinstance((node := left.pop()), dict):
            if "class" in node:
                yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _variables(part: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the variables that an expression defines, if it is a lambda."""
    if part["class"] == "LAMBDA":
        for left in _expressions(part["lhs"]):
            yield from left.get("column_names", ())


def _error_message(error: duckdb.Error) -> tuple[str, int]:
    """Return the message of an error of DuckDB, and its byte position, or -1."""
    text = str(error)
    try:
        values = json.loads(text[text.index("{") :])
        return values["exception_message"], int(values.get("position") or -1)
    except (ValueError, KeyError):
        return text, -1
