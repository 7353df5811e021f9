"""The types that a store holds of its user's values, and what it says of the others."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedsearch.core.errors import UsageError
from embedsearch.images.tables.held_values import (
    MAX_DEPTH,
    Unheld,
    check_value,
    held_table,
    names_problem,
)

D = decimal.Decimal


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def raw(*texts: bytes | None) -> Any:
    """Return texts that Arrow was told are UTF-8."""
    return pa.array(texts, pa.binary()).cast(pa.string(), safe=False)


def table(*chunks: Any) -> pa.Table:
    return pa.table({"c": pa.chunked_array(list(chunks))})


PAIRS = [{"key": "a", "value": 1}, {"key": "a", "value": 2}]
RUNS: Any = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"]))
HELD: list[tuple[Any, str, list[Any]]] = [
    (pa.array(np.ones(1, np.float16)), "float", [1.0]),
    (pa.array([1.5], pa.float64()), "double", [1.5]),
    (pa.array([-1], pa.int8()), "int64", [-1]),
    (pa.array([2**64 - 1], pa.uint64()), "uint64", [2**64 - 1]),
    (pa.array([D("1.5")], pa.decimal32(5, 2)), "decimal128(5, 2)", [D("1.50")]),
    (pa.array([D("1.5")], pa.decimal256(60, 2)), "decimal128(38, 2)", [D("1.50")]),
    (pa.array(["é", None, "a\0b"], pa.string_view()), "string", ["é", None, "a\0b"]),
    (pa.array(["a"], pa.large_string()), "string", ["a"]),
    (pa.array(["a", None, "a"]).dictionary_encode(), "string", ["a", None, "a"]),
    (RUNS, "string", ["a", "a", "b"]),
    (pa.array(["{}"], pa.json_()), "string", ["{}"]),
    (
        pa.array([1_001, None], pa.timestamp("ns", "No/Where")),
        "timestamp[us, tz=UTC]",
        [datetime.datetime(1970, 1, 1, 0, 0, 0, 1, datetime.UTC), None],
    ),
    (pa.array([0], pa.timestamp("s")), "timestamp[us]", [datetime.datetime(1970, 1, 1)]),
    (pa.array([86_400_000], pa.date64()), "date32[day]", [datetime.date(1970, 1, 2)]),
    (pa.array([1_999], pa.time64("ns")), "time64[us]", [datetime.time(0, 0, 0, 1)]),
    (
        pa.array([[], [("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int8())).slice(1),
        "list<item: struct<key: string, value: int64>>",
        [PAIRS, None],
    ),
    (pa.array([["a"], None, ["b", "c"]], pa.large_list(pa.string_view())), "list<item: string>",
     [["a"], None, ["b", "c"]]),
    (pa.array([[9], [1], None, [2, 3]], pa.list_view(pa.int8())).slice(1), "list<item: int64>",
     [[1], None, [2, 3]]),
    (pa.array([[1, 2], None], pa.list_(pa.int16(), 2)), "list<item: int64>", [[1, 2], None]),
    (pa.array([{"a": 9}, None, {"a": 3}]).slice(1), "struct<a: int64>", [None, {"a": 3}]),
    (pa.nulls(2), "null", [None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("column", "kind", "values"), HELD, ids=[str(c[0].type) for c in HELD])
def test_every_type_is_brought_to_a_closed_list(column: Any, kind: str, values: list[Any]) -> None:
    held = held_table(table(column, column), "t")
    held.validate(full=True)
    assert str(held.schema.field("c").type) == kind
    assert held.column("c").to_pylist() == [*values, *values]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([0, 2**60], pa.timestamp("us")), "row 3, column c: .* years 1 to 9999"),
        (pa.array([0, 2**62], pa.timestamp("s")), "row 3, column c: .* years 1 to 9999"),
        (pa.array([0, -(2**31)], pa.date32()), "row 3, column c: .* years 1 to 9999"),
        (pa.array([0, 90_000], pa.time32("s")), "row 3, column c: .* times of a day"),
        (pa.array([D(1), D(10) ** 50], pa.decimal256(60, 2)), "row 3, column c: .* digits before"),
        (raw(b"a", b"\xe9", None), "row 3, column c: it is not UTF-8"),
        (pa.ListArray.from_arrays([0, 0, 2], raw(b"a", b"\xe9")), "row 3, column c: .* UTF-8"),
        (pa.StructArray.from_arrays([raw(b"a", b"\xe9")], names=["q"]), "row 3, column c: .*UTF-8"),
        (pa.array([None, nested(60)]), "row 3, column c: it is nested deeper than the 8"),
        (pa.array([None, {"a": 1, "A": 2}]), "row 3, column c: .* case only: a, A"),
        (pa.array([None, "x" * ((16 << 20) + 1)]), "row 3, column c: it is longer than 16 MB"),
        (pa.array([1, 2], pa.duration("s")), r"column c: its type is duration\[s\]"),
        (pa.array([None, (1, 2, 3)], pa.month_day_nano_interval()), "column c: its type is month"),
        (pa.array([{str(n): 1 for n in range(1001)}]), "column c: it has 1001 fields"),
    ],
)  # fmt: skip
def test_what_is_not_held_is_refused_with_row_and_column(column: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        held_table(table(column.slice(0, 1), column), "t")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a"], "twice: a"),
        (["Größe", "GRÖSSE", "größe"], "case only: Größe, größe"),
        (["e\u0301", "É"], "case only"),
        ([" "], "no name"),
        (["a\0b"], "not valid text"),
        (["\udce9"], "not valid text"),
        (["n" * 256], "longer than 255"),
    ],
)
def test_names_are_unique_without_case(names: list[str], words: str) -> None:
    assert words in names_problem(names)
    assert names_problem(["a", "b", "A b", "with \n", "ü"]) == ""


def test_values_of_json() -> None:
    for value in (nested(MAX_DEPTH), {"a": {"b": ["é", None, 1.5, True]}}, 10**30):
        check_value(value)
    for value in (nested(MAX_DEPTH + 1), nested(100_000), ["\udc00"], {"\ud800": 1}):
        with pytest.raises(Unheld):
            check_value(value)
