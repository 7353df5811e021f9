"""`--where`: what a condition may be, what it may not reach, and how its errors read."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import embedsearch
from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.searching.filters.engine import Engine
from embedsearch.searching.filters.grammar import FUNCTIONS
from embedsearch.searching.filters.where import Filters, normal
from tests.support.filters import ROWS, answer, filters_on


@pytest.fixture(scope="module")
def filters() -> Iterator[Filters]:
    with filters_on(ROWS) as made:
        yield made


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
        ("'a' in tags or path in ('b', 'c')", [1, 1, 0]),
        ("lower(upper(label)) = 'x' and length(trim(path)) = 7", [1, 0, 0]),
        ("label collate nocase = 'X'", [1, 0, 0]),
        ("path ilike 'TRIPS%' and path not like '%a'", [0, 0, 1]),
        ("path glob 'trips*'", [1, 0, 1]),
        ("regexp_matches(path, '^t.*/[a-z]$') or path similar to 'b'", [1, 1, 0]),
        ("year(taken_at) = 1970 and date_part('day', taken_at) = 2", [0, 1, 0]),
        ("extract(day from taken_at) = 1", [1, 0, 0]),
        ("taken_at < current_date - interval 30 days", [1, 1, 0]),
        ("taken_at < now() and taken_at < today() - 1 and current_timestamp > taken_at", [1, 1, 0]),
        ("coalesce(width, 7) = 7 and ifnull(width, 8) = 8", [0, 0, 1]),
        ("nullif(label, 'x') is null", [1, 0, 0]),
        ("abs(-row) + greatest(row, 1) // 2 = 2", [0, 0, 0]),
        ("width::decimal(10, 2) between 0.5 and 1.5", [1, 0, 0]),
        ("gps['lat'] > 2", [0, 0, 1]),
        ("tags[1] = 'b' or tags = ['a']", [1, 1, 0]),
        ("width is distinct from 1", [0, 1, 1]),
        ("'a' || label || concat('b', 1) = 'axb1'", [1, 0, 0]),
        ("replace(path, 'trips/', '') = 'a'", [1, 0, 0]),
        ("strftime(taken_at, '%Y-%m') = '1970-01'", [1, 1, 0]),
        ("""json_extract_string('{"a": "' || label || '"}', '$.a') = 'x'""", [1, 0, 0]),
        ("true", [1, 1, 1]),
        ("null", [0, 0, 0]),
    ],
)
def test_a_condition_holds_row_by_row(filters: Filters, text: str, wanted: list[int]) -> None:
    assert answer(filters, text) == [bool(value) for value in wanted]


def test_texts_in_lists_and_structs_are_compared_as_others_are() -> None:
    written = unicodedata.normalize("NFD", "café")
    table = pa.table(
        {
            "row": [0, 1, 2],
            "tags": [[written], ["tea", None], None],
            "more": [{"a": [written], "n": 1}, None, {"a": None, "n": 2}],
        }
    )
    with filters_on(table) as filters:
        assert answer(filters, "list_contains(tags, 'café')") == [True, False, False]
        assert answer(filters, "more.a[1] = 'café'") == [True, False, False]
        assert answer(filters, "tags is null or more is null") == [False, True, True]


def test_lists_of_a_slice_are_compared_as_others_are() -> None:
    written = unicodedata.normalize("NFD", "café")
    lists = pa.array([["tea"], [written], None, [written, None]])
    assert normal(lists.slice(1)).to_pylist() == [["café"], None, ["café", None]]


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
    "1+" * 4_900 + "1 > 0",
    "path = 'a\ud800'",
    "path = '\udcff'",
    "path = 'a\0b'",
    "path = e'a\\000b'",
    "path = e'a\\x00b'",
    "path = U&'\\0000'",
    "path = chr(0)",
    "tags->'a'",
    "len(list_transform(tags, lambda t: tags)) > 0",
    "list_filter(tags, lambda t: sleep_ms(9) is null) is null",
    "list_filter(tags, lambda t: t = getenv('HOME')) is null",
    "main.getenv('HOME') = 'b'",
    "path.getenv() = 'b'",
    "length(path) filter (where true) > 1",
    "path = any(tags)",
    "default",
    "user = 'x'",
    "current_user = 'x'",
    "localtime is null",
    "path::blob is null",
    "path::bit is null",
    "path::json is null",
    "path::uuid is null",
    "cast(path as enum ('a')) is null",
    "cast(gps as struct (lat int)) is null",
    "path::map(int, int) is null",
    "path collate de = 'x'",
]
_REFUSED = """
error current_setting version sleep_ms write_log repeat range generate_series random uuid
gen_random_uuid getvariable getenv nextval currval txid_current current_database
current_schema current_schemas pg_backend_pid read_text read_blob read_csv read_parquet
pragma_version duckdb_settings lpad rpad format printf chr list_transform list_apply
array_apply list_reduce list_aggregate list_resize array_resize list_zip flatten unnest
string_split string_split_regex regexp_replace regexp_split_to_array factorial array_agg
count sum string_agg struct_pack row map json_extract from_json to_json json_serialize_sql
query query_table encode decode from_base64 to_base64 hash md5 sha256 bar bit_length
set_config parse_filename parse_path add_parquet_key in_search_path setseed timezone age
alias typeof stats can_cast_implicitly constant_or_null
"""
REFUSED_FUNCTIONS = _REFUSED.split()


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_refused(
    filters: Filters, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^where"):
        answer(filters, text)
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize("name", REFUSED_FUNCTIONS)
def test_a_function_that_is_not_allowed_is_refused_by_name(filters: Filters, name: str) -> None:
    for call in (f"{name}(path) is null", f'"{name.upper()}"() is null', f"{name}(path, 3) = 'x'"):
        with pytest.raises(UsageError, match=r"^where") as caught:
            answer(filters, call)
        assert name in str(caught.value).lower()


def test_what_is_refused_comes_with_what_is_allowed(filters: Filters) -> None:
    for text, words in {
        "repeat(path, 3) = 'x'": 'there is no function repeat, character 1 (at "repeat(path, ',
        "lenght(path) = 3": "): did you mean length",
        "sqrt(width) > 3": " more: see the page filters.md)",
        "path = jpeg": "): a text goes into single quotes: 'jpeg' (columns: ",
        "path in (a.png)": "a text goes into single quotes: 'a.png'",
        'path = "PNG" and row > 0': "a text goes into single quotes: 'PNG'",
        "path like trip": "a text goes into single quotes: 'trip'",
        "taken_at > 2024": "write taken_at >= '2024-01-01'",
        "2024 < taken_at::date": "write taken_at >= '2024-01-01'",
        "path::blob = 'x'": "a cast to blob is not allowed, only to boolean, integers",
        "path collate de = 'x'": "only nocase, noaccent, nfc",
        "exists(from images)": "subquery is not allowed: each row is evaluated by itself",
    }.items():
        with pytest.raises(UsageError) as caught:
            answer(filters, text)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400


def test_the_connection_itself_reaches_nothing(tmp_path: Path) -> None:
    """The second wall: what a hole in the parser's check would let through."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    engine = Engine()
    for statement in (
        f"select * from read_csv('{secret}')",
        f"select * from '{secret}'",
        f"copy (select 1) to '{tmp_path / 'out.csv'}'",
        f"attach '{tmp_path / 'x.db'}'",
        "install httpfs",
        "set enable_external_access = true",
        "set memory_limit = '9GB'",
        "set threads = 9",
    ):
        with pytest.raises(duckdb.Error):
            engine._connection.execute(statement).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "widht > 5",
            "no column widht, character 1 (at 'widht > 5'): did you mean width? (col",
        ),
        (
            "path = 'ü' and lable = 1",
            "lable, character 16 (at 'lable = 1'): did you mean Label?",
        ),
        ("images.hight = 1", "this does not fit the types of the columns"),
        ("width >", "at the end"),
        ("width > 5 and and", 'syntax error at or near "and", character 15'),
        ("path = 'x", "unterminated "),
        ("not " * 2_000 + "path", "too deeply nested"),
        ("path > 3", "VARCHAR cannot be compared with INTEGER_LITERAL: cast one of them"),
        ("length(width) = 3", "there is no length(INTEGER), character 1 "),
        ("regexp_matches(path, '(')", "a pattern or value is not valid here"),
        ("path > 'ü' or width * 2147483647::int > 1", "out of range"),
        (
            "width = 1 and path::int = 3",
            "a value cannot be converted: try_cast gives null for it, character 19 ",
        ),
    ],
)
def test_an_error_says_where_and_which_columns_there_are(
    filters: Filters, text: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        answer(filters, text)
    assert words in str(caught.value)
    assert "columns: Label, gps, images, path, row, tags, taken_at, width" in str(caught.value)
    assert "\n" not in str(caught.value)


_WORDS = """
width path gps.lat label tags images row taken_at nosuch ( ) [ ] , . :: ; -- $1 ? *
and or not is null in between like ilike case when then else end true false
< > = <> + - / // % || -> ~ ^ & | collate nocase cast as try_cast lambda x :
int varchar date timestamp blob bit json decimal interval 1 day select from where
'a' 'a%' '(' '%Y' '2024-01-01' 'nan' '' 1 0 -1 9e99 1.5 99999999999999999999 x'00'
current_date current_user getenv('HOME') read_text('x') error('x') version()
"""
WORDS = [
    *_WORDS.split(),
    *(f"{name}(" for name in sorted(FUNCTIONS)),
    *(f"{name}(path, 'a')" for name in sorted(FUNCTIONS)),
]
INSIDE = re.compile(r"0x[0-9a-f]{5,}|duckdb|memory_|setting|\.cpp|candidate|error:", re.IGNORECASE)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | st.text(max_size=40))
@example(text="(" * 4_900 + "1" + ")" * 4_900)
@example(text="path in (" + "'a'," * 2_400 + "'b')")
def test_any_text_is_answered_or_refused_in_our_words(filters: Filters, text: str) -> None:
    try:
        assert len(answer(filters, text)) == len(ROWS)
    except UsageError as error:
        said = str(error)
        assert said.startswith("where") and "\n" not in said
        # What is quoted is of the text itself.
        said = re.sub(r"\(at .*\) \(columns", "", said)
        said = re.sub(r'at or near ".*"', "", said)
        assert not INSIDE.search(said.replace("not allowed", "")), said
        assert str(Path.home()) not in said and "/" not in said.replace(text, ""), said


def test_without_duckdb_only_conditions_are_missing(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(embedsearch.Key("a/01.png"), 3)) == 3
        with pytest.raises(MissingLibrary, match="pip install 'duckdb>="):
            searcher.query(embedsearch.Key("a/01.png"), 3, where="width > 1")
