"""`--where`: what a condition may be, what it may not reach, and how its errors read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import embedsearch
from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.searching.where import Where

ROWS = pa.table(
    {
        "width": pa.array([1, 2000, None], pa.int32()),
        "path": ["trips/a", "b", "trips/ü"],
        "gps": pa.array([{"lat": 1.0, "lon": 2.0}, None, {"lat": 5.0, "lon": 1.0}]),
        "Label": ["x", "y", "z"],
        "tags": [["a"], ["b"], []],
        "images": [1, 2, 3],
    }
)


def answer(text: str) -> list[bool]:
    with Where(text, ROWS.schema) as where:
        holds: list[bool] = where.holds(ROWS.select(where.columns or ["width"])).tolist()
        return holds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("width > 1000", [0, 1, 0]),
        ("width is null", [0, 0, 1]),
        ("not width > 1000", [1, 0, 0]),
        ("path like 'trips/%' and width < 5", [1, 0, 0]),
        ("gps.lat > 2", [0, 0, 1]),
        ("label = 'x' or LABEL in ('z')", [1, 0, 1]),
        ("images.width = 1", [1, 0, 0]),
        ("images = 2", [0, 1, 0]),
        ("list_contains(tags, 'a')", [1, 0, 0]),
        ("len(list_filter(tags, lambda t: t = 'b')) > 0", [0, 1, 0]),
        ("path = 'trips/ü' -- a comment", [0, 0, 1]),
        ("case when width > 5 then path = 'b' else false end", [0, 1, 0]),
        ("path[1] = 'b'", [0, 1, 0]),
        ("try_cast(path as int) is null", [1, 1, 1]),
        ("true", [1, 1, 1]),
        ("null", [0, 0, 0]),
    ],
)
def test_a_condition_holds_row_by_row(text: str, wanted: list[int]) -> None:
    assert answer(text) == [bool(value) for value in wanted]


HOSTILE = [
    "read_csv('/etc/passwd') is not null",
    "read_text('/etc/passwd') = 'x'",
    "exists(select * from read_csv('/etc/passwd'))",
    "exists(from '/etc/passwd')",
    "path in (select path from images)",
    "(select 1) = 1",
    "1 = 1; drop table images",
    "1 = 1; attach 'x.db'",
    "1 = 1) union select (1",
    "true) order by (1",
    "true) limit 1 --",
    "width = 1) group by all having (true",
    "width = 1) qualify (true",
    "row_number() over () > 1",
    "count(*) > 1",
    "columns(*) > 1",
    "*",
    "$1 = 2",
    "? = 1",
    "width = 1\0",
    "width) from images where (1 = 1",
    "width = 1) to '/tmp/x' --",
    "getenv('HOME') = 'x'",
    "copy images to '/tmp/x'",
    "error('x')",
    "place_4d1e9f0a = 1",
    "",
    "  \n ",
    "-- nothing",
    "width >",
    "path > 3",
    "path",
    "nosuch(width)",
    "regexp_matches(path, '(')",
    "x" * 20_000,
    "not " * 2_000 + "true",
    "not " * 990 + "path",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^where"):
        answer(text)
    assert not list(tmp_path.iterdir()), "something was written"


def test_the_connection_itself_reaches_nothing(tmp_path: Path) -> None:
    """The second wall: what a hole in the parser's check would let through."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with Where("true", ROWS.schema) as where:
        for statement in (
            f"select * from read_csv('{secret}')",
            f"select * from '{secret}'",
            f"copy (select 1) to '{tmp_path / 'out.csv'}'",
            f"attach '{tmp_path / 'x.db'}'",
            "install httpfs",
            "set enable_external_access = true",
            "set memory_limit = '9GB'",
        ):
            with pytest.raises(duckdb.Error):
                where._connection.execute(statement).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("widht > 5", "no column widht, did you mean width?, character 1 "),
        ("path = 'ü' and lable = 1", "no column lable, did you mean Label?, character 16 "),
        ("images.hight = 1", "hight"),
        ("width >", "at the end"),
        ("width > 5 and and", "character 15"),
        ("width = 1 and path::int = 3", "Could not convert string"),
    ],
)
def test_an_error_says_where_and_which_columns_there_are(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        answer(text)
    assert words in str(caught.value)
    assert "columns: Label, gps, images, path, tags, width" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_condition_that_takes_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsearch.searching.where.TIME_LIMIT_S", 0.5)
    many = pa.table({"width": np.arange(100_000)})
    started = time.monotonic()
    with (
        Where("list_sum(range(width, width + 30000)) < 0", many.schema) as where,
        pytest.raises(UsageError, match=r"took more than"),
    ):
        where.holds(many)
    assert time.monotonic() - started < 5


def test_without_duckdb_only_conditions_are_missing(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "embedsearch.searching.where")
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(embedsearch.Key("a/01.png"), 3)) == 3
        with pytest.raises(MissingLibrary, match="pip install 'duckdb>="):
            searcher.query(embedsearch.Key("a/01.png"), 3, where="width > 1")
