"""What is committed of the user's columns can be read by every door, or was refused before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from tests.support.library import paint, run_cli
from tests.support.stores import values


@pytest.mark.parametrize(
    ("first", "second", "after"),
    [
        ("name,c\n0.png,4.5\n1.png,3.5\n", "name,c\n2.png,5\n", [4.5, 3.5, 5.0]),
        ("name,c\n0.png,4\n1.png,3\n", "name,c\n2.png,5.5\n", [4.0, 3.0, 5.5]),
        ("name,c\n0.png,sea\n1.png,wood\n", "name,c\n2.png,1984\n", ["sea", "wood", "1984"]),
        ("name,c\n0.png,sea\n1.png,wood\n", "name,c,d\n2.png,,x\n", ["sea", "wood", None]),
        ("name,c\n0.png,sea\n1.png,wood\n", "name,c\n1.png,\n", ["sea", None, None]),
        ("name,c\n0.png,1\n1.png,2\n2.png,3\n", "name,c\n0.png,a\n1.png,b\n2.png,c\n", list("abc")),
        ("name,c,d\n0.png,,x\n", "name,c\n1.png,2\n", [None, 2, None]),
    ],
)
def test_a_later_table_never_clears_what_it_does_not_name(
    bring: Callable[..., Any], tmp_path: Path, first: str, second: str, after: list[Any]
) -> None:
    bring(first)
    bring(second)
    assert values(tmp_path / "s.es", "c") == after


@pytest.mark.parametrize(
    ("old", "new", "after"),
    [
        (pa.array([1], pa.int64()), pa.array([2**63], pa.uint64()), [1, 2**63]),
        (pa.array([2**63], pa.uint64()), pa.array([-1]), "int64 here and uint64 in the store"),
        (pa.array([2**53 + 1]), pa.array([0.5]), "double here and int64"),
        (pa.array([True]), pa.array([1]), "int64 here and bool"),
        (pa.array([1]), pa.array(["x"]), "string here .* and int64"),
        (pa.array([0], pa.date32()), pa.array(["x"]), "string here .* and date32"),
        (pa.array([[1]]), pa.array([[0.5]]), [[1.0], [0.5]]),
        (pa.array([[1]]), pa.array([1]), "int64 here and list<"),
        (pa.array([{"a": 1}]), pa.array([{"b": 2}]), [{"a": 1, "b": None}, {"a": None, "b": 2}]),
        (pa.array([{"a": 1}]), pa.array([{"A": 1}]), "struct<A: int64> here and struct<a: int64>"),
    ],
)  # fmt: skip
def test_types_widen_or_both_are_named(
    bring: Callable[..., Any], tmp_path: Path, old: Any, new: Any, after: list[Any] | str
) -> None:
    bring(pa.table({"name": ["0.png"], "c": old}))
    before = read_current(tmp_path / "s.es")
    later = pa.table({"name": ["1.png"], "c": new})
    if isinstance(after, str):
        paint(tmp_path / "p" / "new.png", 9)
        with pytest.raises(UsageError, match=after):
            bring(later)
        assert read_current(tmp_path / "s.es") == before, "not even the new image"
    else:
        bring(later)
        assert values(tmp_path / "s.es", "c")[:2] == after


def test_columns_are_unique_without_case_over_all_tables(
    bring: Callable[..., Any], sync: Callable[..., Any], tmp_path: Path
) -> None:
    bring("name,Label,more\n0.png,cat,1\n")
    bring("name,label\n1.png,dog\n")
    assert values(tmp_path / "s.es", "Label") == ["cat", "dog", None], "it is the same"
    (tmp_path / "p" / "1.png.json").write_text('{"LABEL": "cow"}')
    sync(sidecars=True)
    assert values(tmp_path / "s.es", "Label") == ["cat", "cow", None], "of sidecars, too"
    with pytest.raises(UsageError, match="case only: a, A"):
        bring("name,a,A\n1.png,1,2\n")
    with pytest.raises(UsageError, match="would have 1001; at most 1000"):
        bring("name," + ",".join(f"c{n}" for n in range(999)) + "\n0.png" + ",1" * 999)
    bring("name,place,place_,images,select\n0.png,1,2,3,4\n")
    assert values(tmp_path / "s.es", "place") == [1, None, None]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b'{"name":"0.png","c":"caf\xe9"}\n', "t.jsonl", "row 1, column c: it is not UTF-8"),
        (b'{"name":"0.png"}\n{"name":"caf\xe9"}\n', "t.jsonl", "name is not UTF-8"),
        (b'{"name":"0.png","c":"\\ud800"}\n{"name":"1.png","c":1}\n', "t.jsonl", "row 1, column c"),
        (b'{"name":"0.png","x":' + b"[" * 60 + b"]" * 60 + b"}\n", "t.jsonl", "nested deeper"),
        (b'{"name":"0.png","x":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "t.json", "too deeply"),
        (b'{"name":"0.png","x":' + b'["]",' * 10**5 + b"1", "t.jsonl", "nested too deeply"),
        ('{"name":"0.png","x":{"a":1,"A":2}}', "t.jsonl", "row 1, column x: .* case only"),
        ("name\n0.png\n", "t.csv", "has no column beside name"),
        ("name,width,user_width\n0.png,1,2\n", "t.csv", "a column twice: user_width"),
        ("name,a\0b\n0.png,1\n", "t.csv", "not valid text"),
        (pa.table({"name": ["0.png"], "c": pa.array([2**60], pa.timestamp("us"))}), "", "row 1"),
        (pa.table({"name": [["0.png"]], "c": [1]}), "", "needs a column path or name"),
    ],
)  # fmt: skip
def test_tables_that_are_not_held_are_refused_before_anything_is_written(
    bring: Callable[..., Any], tmp_path: Path, content: Any, name: str, words: str
) -> None:
    before = read_current(tmp_path / "s.es")
    paint(tmp_path / "p" / "new.png", 9)
    with pytest.raises(UsageError, match=words):
        bring(content, name)
    assert read_current(tmp_path / "s.es") == before


def test_brackets_in_texts_are_no_nesting(bring: Callable[..., Any], tmp_path: Path) -> None:
    text = "[{" * 5000 + '"' + "\\"
    bring(json.dumps({"name": "0.png", "c": text, "d": [[1]] * 600}), "t.jsonl")
    assert values(tmp_path / "s.es", "c")[0] == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"\\udc00": 1}', "not valid text"),
        ('{"c": "\\udc00"}', "lone surrogate"),
        ('{"row": 1, "user_row": 2}', "twice: user_row"),
        ('{"a": 1, "A": 2}', "case only"),
        ("{" + ",".join(f'"k{n}": 1' for n in range(1500)) + "}", "more than 1000"),
        ('{"x": ' + "[" * 60 + "1" + "]" * 60 + "}", "x: it is nested deeper than the 8"),
        ('{"x": ' + "[" * 10**5 + "1" + "]" * 10**5 + "}", "nested too deeply"),
        ('{"": 1}', "no name"),
    ],
)
def test_one_odd_sidecar_costs_itself(
    sync: Callable[..., Any], tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "p" / "0.png.json").write_text('{"caption": "good"}')
    (tmp_path / "p" / "1.png.json").write_text(text)
    (tmp_path / "p" / "1.png.txt").write_text("beside the odd one")
    report = sync(sidecars=True)
    assert report.unreadable == 1
    (name,) = report.unreadable_names
    assert "1.png" in name and words in name
    assert values(tmp_path / "s.es", "caption")[0] == "good"
    for command in ("info", "check", "repair", "index"):
        assert run_cli(command, "--store", tmp_path / "s.es").returncode == 0


def test_a_few_odd_values_of_sidecars_leave_a_column_its_type(
    sync: Callable[..., Any], tmp_path: Path
) -> None:
    for number in range(12):
        paint(tmp_path / "p" / f"{number}.png", number)
        (tmp_path / "p" / f"{number}.png.json").write_text(json.dumps({"x": number, "y": {"a": 1}}))
    (tmp_path / "p" / "1.png.json").write_text('{"x": "a", "y": {"a": 1, "A": 2}, "z": 1}')
    report = sync(sidecars=True)
    assert [name.rpartition("/")[2] for name in report.unreadable_names] == [
        "1.png (x is a text, and a number beside other images)",
        "1.png (y fits no column)",
    ]
    assert values(tmp_path / "s.es", "x").count(None) == 1
    assert values(tmp_path / "s.es", "z").count(1) == 1


def test_sidecars_that_do_not_go_with_what_stays(
    bring: Callable[..., Any], sync: Callable[..., Any], tmp_path: Path
) -> None:
    bring("name,x,y\n0.png,1,1\n1.png,2,2\n")
    (tmp_path / "p" / "1.png.json").write_text('{"x": "a", "y": 5}')
    report = sync(sidecars=True)
    image = tmp_path / "p" / "1.png"
    left_out = f"1 values of x (string here ('a' for {image}) and int64 in the store)"
    assert left_out in report.unreadable_names
    assert values(tmp_path / "s.es", "x") == [1, None, None]
    assert values(tmp_path / "s.es", "y") == [1, 5, None]


def test_columns_of_a_dataset_of_images_cost_themselves(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    picture = paint(tmp_path / "0.png", 0).read_bytes()
    columns = {
        "image": [{"bytes": picture, "path": "a.png"}],
        "when": pa.array([2**60], pa.timestamp("us")),
        "d": pa.array([1], pa.duration("s")),
        "label": ["cat"],
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    report = embedsearch.index(
        tmp_path / "d.parquet", store=tmp_path / "s.es", model="packaged", sidecars=True,
        extractor_factory=extractor,
    ).metadata  # fmt: skip
    assert report is not None and report.unreadable == 2
    assert "row 1, column when: it lies outside" in " ".join(report.unreadable_names)
    assert values(tmp_path / "s.es", "label") == ["cat"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"c": pa.array([2**60], pa.timestamp("us"))}, "row 1, column c"),
        ({"c": [1], "C": [2]}, "case only"),
        ({"path": pa.array([b"\xff"]).cast(pa.string(), safe=False)}, "path is not UTF-8"),
        ({"path": [[1]]}, "path is not UTF-8 text"),
    ],
)
def test_an_import_judges_its_columns_first(
    tmp_path: Path, column: dict[str, Any], words: str
) -> None:
    vectors = np.ones((1, 4), np.float32).tolist()
    source = tmp_path / "v.parquet"
    pq.write_table(
        pa.table({"path": ["a.png"], "vector": vectors} | column), tmp_path / "v.parquet"
    )
    with pytest.raises(UsageError, match=words):
        import_vectors(source, model="m", root=tmp_path, store=tmp_path / "s.es")
    assert not (tmp_path / "s.es" / "CURRENT").exists()


def test_an_import_that_does_not_go_with_the_columns_changes_nothing(
    bring: Callable[..., Any], tmp_path: Path
) -> None:
    bring("name,c\n0.png,1\n")
    before = read_current(tmp_path / "s.es")
    vectors = np.ones((1, 512), np.float32).tolist()
    pq.write_table(
        pa.table({"path": ["1.png"], "vector": vectors, "c": ["sea"]}), tmp_path / "v.parquet"
    )
    with pytest.raises(
        UsageError, match=r"column c is string here \('sea' for .*1\.png\) and int64"
    ):
        import_vectors(
            tmp_path / "v.parquet", model="packaged", root=tmp_path / "p", store=tmp_path / "s.es"
        )
    assert read_current(tmp_path / "s.es") == before
    assert check_store(tmp_path / "s.es", read_data=True)[1] == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.list_(pa.int64()), pa.list_(pa.uint64())),
        (pa.list_(pa.uint64()), pa.list_(pa.int64())),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.uint64())])),
    ],
    ids=str,
)
def test_a_number_that_is_nowhere_has_no_size(
    bring: Callable[..., Any], tmp_path: Path, first: pa.DataType, second: pa.DataType
) -> None:
    some: Any = [1] if pa.types.is_list(first) else {"a": 1}
    none: Any = [] if pa.types.is_list(first) else {"a": None}
    bring(pa.table({"name": ["0.png"], "c": pa.array([some], first)}))
    bring(pa.table({"name": ["1.png"], "c": pa.array([none], second)}))
    assert values(tmp_path / "s.es", "c")[:2] == [some, none]
