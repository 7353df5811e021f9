"""What a condition may say; in: a tree as DuckDB serializes it, out: the columns that it uses.

A list of what is allowed, never of what is not: a newer DuckDB brings functions that read files,
settings or the clock, or that make gigabytes out of a word. Of the functions below each makes a
small multiple of what it is given, and sees nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from embedsearch.core.names import comparable

_CLASSES = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"}
    | {"FUNCTION", "LAMBDA", "OPERATOR", "TYPE"}
)
_OPERATORS = frozenset(
    {"OPERATOR_NOT", "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}
    | {"OPERATOR_COALESCE", "OPERATOR_NULLIF", "OPERATOR_TRY"}
    | {"ARRAY_EXTRACT", "ARRAY_SLICE", "STRUCT_EXTRACT"}
)
_TEXTS = (
    "concat contains ends_with ilike_escape json_extract_string json_type left length like_escape "
    "lower ltrim position prefix regexp_extract regexp_full_match regexp_matches replace reverse "
    "right rtrim starts_with strlen strpos substr substring suffix trim upper"
)
_NUMBERS = (
    "abs ceil ceiling floor greatest if isfinite isinf isnan least mod nullif round sign trunc"
)
_TIMES = (
    "date_diff date_part date_trunc datediff datepart datetrunc day dayname dayofmonth dayofweek "
    "dayofyear epoch hour isodow isoyear last_day make_date minute month monthname now quarter "
    "second strftime to_days to_hours to_minutes to_months to_seconds to_weeks to_years today week "
    "weekday year"
)
_LISTS = (
    "array_contains array_extract array_has array_has_all array_has_any array_length "
    "array_position len list_avg list_contains list_count list_distinct list_extract list_filter "
    "list_has list_has_all list_has_any list_max list_min list_position list_sum list_unique "
    "list_value struct_extract"
)
FUNCTIONS = frozenset(f"{_TEXTS} {_NUMBERS} {_TIMES} {_LISTS}".split())
# What operators and LIKE, GLOB and their negations are called in a tree.
_SIGNS = frozenset(
    {"+", "-", "*", "/", "//", "%", "^", "**", "&", "|", "||", "~", "<<", ">>", "@>", "<@", "&&"}
    | {"^@", "~~", "!~~", "~~*", "!~~*", "~~~"}
)
_HIDDEN = frozenset({"not_like_escape", "not_ilike_escape"})
_TYPES = frozenset(
    {"boolean", "bool", "logical", "tinyint", "smallint", "integer", "int", "bigint", "hugeint"}
    | {"int1", "int2", "int4", "int8", "int16", "int32", "int64", "int128", "short", "long"}
    | {"signed", "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint", "oid"}
    | {"uint8", "uint16", "uint32", "uint64", "uint128", "float", "float4", "real", "double"}
    | {"float8", "decimal", "dec", "numeric", "varchar", "char", "bpchar", "text", "string"}
    | {"nvarchar", "date", "time", "timestamp", "datetime", "timestamp_s", "timestamp_ms"}
    | {"timestamp_us", "timestamp_ns", "interval", "list"}
)
TYPES = (
    "boolean, integers, float, double, decimal, varchar, date, time, timestamp, interval, and "
    "lists of them"
)
_COLLATIONS = frozenset({"nocase", "noaccent", "nfc", "binary", "c", "posix"})
_CLOCK_NAMES = frozenset({"current_date", "current_timestamp"})
_CLOCK_FUNCTIONS = frozenset({"now", "today"})
_WITH_LAMBDA = frozenset({"list_filter"})
_FUNCTIONS_SHOWN = 12
_NEAREST_SHOWN = 3


POSITION_COLUMN = "place_4d1e9f0a"  # no user's column has this name
BEFORE = f"SELECT {POSITION_COLUMN} FROM images WHERE ("
AFTER = "\n)"  # on its own line, as the text may end in a comment


def place_in_text(position: int) -> int:
    """Return the byte of the text that a position in BEFORE + text + AFTER means, or -1."""
    return position - len(BEFORE) if len(BEFORE) <= position < 1 << 60 else -1


class Refused(Exception):
    """Something that a condition may not say, and where: a byte of the query, or -1."""

    def __init__(self, message: str, position: int = -1, hint: str = "", known: str = "") -> None:
        """`hint` is what to do; `known` is what there is, if not the columns."""
        super().__init__(message)
        self.message = message
        self.position = position
        self.hint = hint
        self.known = known


@dataclass(frozen=True)
class Used:
    """What an allowed condition looks at."""

    columns: list[str]
    clock: bool  # whether it asks what time it is: its answer does not last


def used_by(tree: dict[str, Any], names: list[str]) -> Used:
    """Return what a condition on columns of these names uses. Raises Refused."""
    known = {comparable(name).lower(): name for name in names}
    known |= {name.lower(): name for name in names}
    columns: set[str] = set()
    clock = False
    lambdas: set[int] = set()  # in places where one is understood
    variables: set[str] = set()
    parts = list(_expressions(tree, lambdas, variables))
    values = {id(each) for part in parts for each in _compared_with(part)}
    for part in parts:
        kind, position = part["class"], part.get("query_location", -1)
        _check_class(part, lambdas)
        if kind == "COLUMN_REF" and (path := part["column_names"])[0] not in variables:
            found = _meant(path, known)
            if not found and len(path) == 1 and path[0].lower() in _CLOCK_NAMES:
                clock = True
            elif not found:
                raise _unknown(path, known, position, is_value=id(part) in values)
            columns.update(found)
        elif kind == "FUNCTION":
            _check_function(part)
            clock |= part["function_name"].lower() in _CLOCK_FUNCTIONS
    return Used(sorted(columns), clock)


def _expressions(tree: Any, lambdas: set[int], variables: set[str]) -> Iterator[dict[str, Any]]:
    """Yield every expression of a tree but the variables of lambdas, which are collected."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            if node.get("class") == "LAMBDA":
                variables.update(_variables(node["lhs"]))
                left.append(node["expr"])
            else:
                left += node.values()
            if node.get("class") == "FUNCTION" and node["function_name"].lower() in _WITH_LAMBDA:
                lambdas.update(id(each.get("expression", each)) for each in _arguments(node))
            if "class" in node:
                yield node


def _arguments(node: dict[str, Any]) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = node.get("arguments") or node.get("children") or []
    return given


def _compared_with(part: dict[str, Any]) -> list[Any]:
    """Return what stands where a condition usually has a value, and no column."""
    if part["class"] == "COMPARISON":
        return [part["right"]]
    if part["class"] == "OPERATOR" and part["type"] in {"COMPARE_IN", "COMPARE_NOT_IN"}:
        return list(part["children"][1:])
    return [each.get("expression", each) for each in _arguments(part)[1:]]


def _variables(left: Any) -> Iterator[str]:
    """Yield the names on the left of a lambda: one column, or a row of them."""
    for node in _expressions(left, set(), set()):
        yield from node.get("column_names", ())


def _check_class(part: dict[str, Any], lambdas: set[int]) -> None:
    """Raise Refused for an expression that is not about one row, or not about its values."""
    kind, position = part["class"], part.get("query_location", -1)
    if kind not in _CLASSES:
        raise Refused(f"{kind.lower()} is not allowed: each row is evaluated by itself", position)
    if kind == "OPERATOR" and part["type"] not in _OPERATORS:
        name = part["type"].lower().replace("_", " ")
        raise Refused(f"{name} is not allowed in a condition", position)
    if kind == "LAMBDA" and id(part) not in lambdas:
        raise Refused("-> and lambda are for list_filter only", position)
    if kind == "COLLATE":
        wanted = part["collation"].lower()
        if not set(wanted.split(".")) <= _COLLATIONS:
            raise Refused(f"there is no collation {wanted}, only nocase, noaccent, nfc", position)
    if kind == "TYPE":
        _check_type(part["type_name"], position, part.get("schema") or part.get("catalog"))
    if kind == "CAST" and "type_expr" not in part:  # as older versions of DuckDB write it
        _check_type(part["cast_type"]["id"], position, part["cast_type"].get("type_info"))
    if kind == "CONSTANT":
        _check_constant(part, position)


def _check_type(name: str, position: int, more: object) -> None:
    if name.lower() not in _TYPES or (more and name.lower() != "decimal"):
        raise Refused(f"a cast to {name.lower()} is not allowed, only to {TYPES}", position)


def _check_constant(part: dict[str, Any], position: int) -> None:
    kind = part["literal"]["kind"] if "literal" in part else part["value"]["type"]["id"]
    if kind in {"HEX", "BIT", "BLOB"}:
        raise Refused("a constant is a text, a number, true, false or null", position)
    if "\0" in str(part):  # no text of a store or of a database holds one
        raise Refused("a text holds a NUL character, which no column does", position)


def _check_function(part: dict[str, Any]) -> None:
    """Raise Refused for a function that is not in the list, or more than a plain call."""
    name, position = part["function_name"].lower(), part.get("query_location", -1)
    # Older versions of DuckDB write the place of what has a syntax of its own.
    if part.get("schema", "") not in {"", "main"} or part.get("catalog", "") not in {"", "system"}:
        raise Refused(f"write {name}(…) without a name and a dot before it", position)
    if part.get("filter") or part["order_bys"]["orders"] or part["distinct"]:
        raise Refused(f"{name} takes values only: each row is evaluated by itself", position)
    if name in FUNCTIONS or name in _SIGNS or name in _HIDDEN:
        return
    near = difflib.get_close_matches(name, sorted(FUNCTIONS), _NEAREST_SHOWN, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    shown = near + [each for each in sorted(FUNCTIONS) if each not in near]
    listed, left = ", ".join(shown[:_FUNCTIONS_SHOWN]), len(shown) - _FUNCTIONS_SHOWN
    known = f"functions: {listed} and {left} more: see the page filters.md"
    raise Refused(f"there is no function {name}", position, hint, known)


def _meant(path: list[str], known: dict[str, str]) -> list[str]:
    """Return the columns that a reference may mean: `a`, `a.field`, `images.a`."""
    is_qualified = path[0].lower() == "images" and len(path) > 1
    return [known[name.lower()] for name in path[: 1 + is_qualified] if name.lower() in known]


def _unknown(path: list[str], known: dict[str, str], position: int, *, is_value: bool) -> Refused:
    wanted = path[path[0].lower() == "images" and len(path) > 1]
    near = difflib.get_close_matches(wanted.lower(), known, 1, 0.7)
    hints = [f"did you mean {known[near[0]]}?"] if near else []
    if is_value:
        text = ".".join(path).replace("'", "''")
        hints.append(f"a text goes into single quotes: '{text}'")
    return Refused(f"there is no column {wanted}", position, " or ".join(hints))
