"""A WHERE text as a condition for a vector database; in: a parsed text, out: a Condition.

SQL has three truth values. The condition here says when the text is *true*. Every NOT is pushed
down to the comparisons, where it turns `<` into `>=`. Then null counts as false, and an engine
without nulls must handle them only in comparisons.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from embedsearch.core.errors import UsageError
from embedsearch.searching.vectordb.fields import LOWEST, ROW, Field, FieldKind, Value

_HIGHEST = 2**63 - 1
_EXACT = 2**53  # up to here, a double holds every integer exactly
_OPERATORS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
# SQL types by Arrow types: a text is cast to this type when compared with such a column.
_SQL = {
    **{"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"},
    **{"uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER"},
    **{"float": "FLOAT", "double": "DOUBLE", "bool": "BOOLEAN", "date32[day]": "DATE"},
    **{"timestamp[s]": "TIMESTAMP_S", "timestamp[ms]": "TIMESTAMP_MS"},
    "timestamp[us]": "TIMESTAMP",
}
# Expressions without columns that are evaluated: -5, 10 * 1000, timestamp - interval.
_EVALUATED = frozenset({"CONSTANT", "CAST", "TYPE", "FUNCTION"})
_FUNCTIONS = frozenset(
    {"+", "-", "*", "/", "trunc"}
    | {f"to_{unit}" for unit in ("years", "months", "weeks", "days", "hours", "minutes", "seconds")}
)
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Always:
    """Holds for every row, or for none."""

    value: bool


@dataclass(frozen=True)
class Test:
    """A field compared with a value; never true for null."""

    field: Field
    operator: str  # = != < <= > >=
    value: Value


@dataclass(frozen=True)
class OneOf:
    """A field that is one of some values, or is none of them and not null."""

    field: Field
    values: tuple[Value, ...]
    is_in: bool


@dataclass(frozen=True)
class Pair:
    """Two fields of the same kind compared; never true for null."""

    left: Field
    operator: str
    right: Field


@dataclass(frozen=True)
class Null:
    """A field that is, or is not, null."""

    field: Field
    is_null: bool


@dataclass(frozen=True)
class Like:
    """A text that matches, or neither matches nor is null. `pattern` holds letters, ANY and ONE."""

    field: Field
    pattern: tuple[str, ...]
    is_like: bool
    place: int  # of the expression in the text, for an error

    ANY, ONE = "any letters", "one letter"


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = "Always | Test | OneOf | Pair | Null | Like | All | AnyOf"


class Parsed(Protocol):
    """A parsed text: the part of `filters.where.Turn` that is used here."""

    tree: dict[str, Any]

    def value(self, expression: dict[str, Any], kind: str | None = None) -> Any:
        """Return the value of an expression without columns."""

    def refusal(self, message: str, position: int) -> UsageError:
        """Return an error with its position in the text."""


def condition_of(where: Parsed, fields: Sequence[Field]) -> Condition:
    """Return the condition under which a text is true. Raises UsageError if there is none."""
    try:
        return _Translation(where, fields).made(where.tree, True)
    except RecursionError as error:
        raise where.refusal("too deeply nested", -1) from error


class _Translation:
    """The translation of one text."""

    def __init__(self, where: Parsed, fields: Sequence[Field]) -> None:
        self._where = where
        self._fields = {field.column.lower(): field for field in (ROW, *fields)}

    def made(self, node: dict[str, Any], wanted: bool) -> Condition:
        """Return the condition under which an expression is true; false if `wanted` is False."""
        makers: dict[str, Callable[[dict[str, Any], bool], Condition]] = {
            "COMPARISON": self._comparison,
            "CONJUNCTION": self._conjunction,
            "OPERATOR": self._operator,
            "BETWEEN": self._between,
            "FUNCTION": self._like,
            "COLUMN_REF": self._flag,
            "CONSTANT": self._constant,
        }
        if node["class"] not in makers:
            raise self._refusal(node)
        return makers[node["class"]](node, wanted)

    def _conjunction(self, node: dict[str, Any], wanted: bool) -> Condition:
        is_all = (node["type"] == "CONJUNCTION_AND") is wanted
        return _joined([self.made(child, wanted) for child in node["children"]], is_all)

    def _operator(self, node: dict[str, Any], wanted: bool) -> Condition:
        first, *others = node["children"]
        match node["type"]:
            case "OPERATOR_NOT":
                return self.made(first, not wanted)
            case "COMPARE_IN" | "COMPARE_NOT_IN":
                return self._one_of(first, others, (node["type"] == "COMPARE_IN") is wanted)
            case "OPERATOR_IS_NULL" | "OPERATOR_IS_NOT_NULL":
                is_null = (node["type"] == "OPERATOR_IS_NULL") is wanted
                field = self._field(first)
                return Null(field, is_null) if field.nullable else Always(not is_null)
        raise self._refusal(node)

    def _one_of(self, first: dict[str, Any], others: list[Any], is_in: bool) -> Condition:
        operator = "=" if is_in else "!="
        tests = [self._compared(first, operator, other) for other in others]
        same = [test for test in tests if isinstance(test, Test) and test.operator == operator]
        if len(same) < 2:
            return _joined(tests, not is_in)
        values = tuple(test.value for test in same)
        rest = [test for test in tests if test not in same]
        return _joined([*rest, OneOf(same[0].field, values, is_in)], not is_in)

    def _between(self, node: dict[str, Any], wanted: bool) -> Condition:
        return _joined(
            [
                self._compared(node["input"], operator if wanted else _OPPOSITE[operator], end)
                for operator, end in [(">=", node["lower"]), ("<=", node["upper"])]
            ],
            wanted,
        )

    def _comparison(self, node: dict[str, Any], wanted: bool) -> Condition:
        if (operator := _OPERATORS.get(node["type"])) is None:
            raise self._refusal(node)
        operator = operator if wanted else _OPPOSITE[operator]
        return self._compared(node["left"], operator, node["right"])

    def _flag(self, node: dict[str, Any], wanted: bool) -> Condition:
        if (field := self._field(node)).kind is not FieldKind.BOOLEAN:
            raise self._refusal(node)
        return Test(field, "=", wanted)

    def _constant(self, node: dict[str, Any], wanted: bool) -> Condition:
        value = self._where.value(node)
        if value is not None and not isinstance(value, bool):
            raise self._refusal(node)
        return Always(value is wanted)

    def _like(self, node: dict[str, Any], wanted: bool) -> Condition:
        name, arguments = node["function_name"], [a["expression"] for a in node["arguments"]]
        if name not in {"~~", "!~~", "like_escape", "not_like_escape"}:
            raise self._refusal(node)
        field = self._field(arguments[0])
        pattern, *escapes = (self._value(argument) for argument in arguments[1:])
        if field.kind is not FieldKind.TEXT:
            raise self._refusal(node)
        if pattern is None or None in escapes:
            return Always(False)
        if not all(isinstance(each, str) for each in (pattern, *escapes)):
            raise self._refusal(node)
        is_like = name in {"~~", "like_escape"}
        parts = self._pattern(pattern, "".join(escapes), node)
        return Like(field, parts, is_like is wanted, node.get("query_location", -1))

    def _pattern(self, text: str, escape: str, node: dict[str, Any]) -> tuple[str, ...]:
        parts: list[str] = []
        letters = iter(text)
        for letter in letters:
            if escape and letter == escape:
                if (letter := next(letters, "")) not in {"%", "_", escape}:
                    raise self._refusal(node)
                parts.append(letter)
            else:
                parts.append({"%": Like.ANY, "_": Like.ONE}.get(letter, letter))
        return tuple(parts)

    def _compared(self, left: dict[str, Any], operator: str, right: dict[str, Any]) -> Condition:
        if left["class"] != "COLUMN_REF" and right["class"] == "COLUMN_REF":
            left, operator, right = right, _MIRRORED[operator], left
        field = self._field(left)
        if right["class"] == "COLUMN_REF":
            if (other := self._field(right)).kind is not field.kind:
                raise self._refusal(right)
            return Pair(field, operator, other)
        if isinstance((value := self._value(right)), str) and field.kind is not FieldKind.TEXT:
            value = self._value(right, _SQL[field.arrow])
        if value is None:
            return Always(False)
        if (made := _MADE[field.kind](field, operator, value)) is None:
            raise self._refusal(right)
        return made

    def _field(self, node: dict[str, Any]) -> Field:
        """Return the field that an expression names."""
        if node["class"] != "COLUMN_REF":
            raise self._refusal(node)
        path = [name.lower() for name in node["column_names"]]
        if path[0] == "images" and len(path) > 1:
            path = path[1:]
        if (field := self._fields.get(".".join(path))) is None:
            held = ", ".join(sorted(field.column for field in self._fields.values()))
            raise self._where.refusal(
                f"the vector database does not hold {'.'.join(path)}, only {held}",
                node.get("query_location", -1),
            )
        return field

    def _value(self, node: dict[str, Any], kind: str | None = None) -> Any:
        left = [node]
        while left:
            part = left.pop()
            is_evaluated = part["class"] in _EVALUATED
            if not is_evaluated or part.get("function_name", "+") not in _FUNCTIONS:
                raise self._refusal(part)
            left += [argument["expression"] for argument in part.get("arguments", ())]
            left += [part["child"]] if "child" in part else []
        return self._where.value(node, kind)

    def _refusal(self, node: dict[str, Any]) -> UsageError:
        name = node.get("function_name") or node["type"].lower().replace("_", " ")
        message = f"a vector database does not support this ({name}): compare a column with values"
        return self._where.refusal(message, node.get("query_location", -1))


def _joined(parts: Sequence[Condition], is_all: bool) -> Condition:
    """Return the conjunction or disjunction of parts, simplified."""
    if Always(not is_all) in parts:
        return Always(not is_all)
    if not (left := [part for part in parts if part != Always(is_all)]):
        return Always(is_all)
    if len(left) == 1:
        return left[0]
    return All(tuple(left)) if is_all else AnyOf(tuple(left))


def _known(field: Field) -> Condition:
    return Null(field, False) if field.nullable else Always(True)


def _whole(field: Field, operator: str, value: Any) -> Condition | None:
    """Return a comparison of an integer field, also with fractions and out-of-range numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if not math.isfinite(value) or (isinstance(value, float) and abs(value) >= _EXACT):
        return None
    exact = Fraction(value)
    floor, ceiling = math.floor(exact), math.ceil(exact)
    if operator in {"=", "!="}:
        if floor != ceiling or not LOWEST < floor <= _HIGHEST:
            return Always(False) if operator == "=" else _known(field)
        return Test(field, operator, floor)
    if not LOWEST < (bound := floor if operator in {">", "<="} else ceiling) <= _HIGHEST:
        is_above = (bound <= LOWEST) == (operator in {">", ">="})
        return _known(field) if is_above else Always(False)
    return Test(field, operator, bound)


def _real(field: Field, operator: str, value: Any) -> Condition | None:
    """Return a comparison of reals; DuckDB casts exact constants to the type of the column."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
        if field.arrow == "float" and not isinstance(value, float):
            (number,) = struct.unpack("f", struct.pack("f", number))
    except OverflowError:
        return None
    return Test(field, operator, number) if math.isfinite(number) else None


def _text(field: Field, operator: str, value: Any) -> Condition | None:
    return Test(field, operator, value) if isinstance(value, str) else None


def _boolean(field: Field, operator: str, value: Any) -> Condition | None:
    if not isinstance(value, bool) or operator not in {"=", "!="}:
        return None
    return Test(field, "=", value is (operator == "="))


def _moment(field: Field, operator: str, value: Any) -> Condition | None:
    if not isinstance(value, date) or getattr(value, "tzinfo", None) is not None:
        return None
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    past = moment - _EPOCH
    microseconds = (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds
    return Test(field, operator, microseconds)


_MADE: dict[FieldKind, Callable[[Field, str, Any], Condition | None]] = {
    FieldKind.INTEGER: _whole,
    FieldKind.NUMBER: _real,
    FieldKind.TEXT: _text,
    FieldKind.BOOLEAN: _boolean,
    FieldKind.TIME: _moment,
}
