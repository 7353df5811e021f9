"""A filter means the same in a database as in the store, or is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsearch.core.errors import (
    UsageError,
)
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.vectordb import milvus, postgres
from embedsearch.searching.vectordb.conditions import Always, Condition
from embedsearch.searching.vectordb.fields import Field, fields_of
from embedsearch.searching.vectordb.open import open_database
from embedsearch.store.snapshot import open_snapshot
from tests.support.databases import HOSTILE, ROWS
from tests.support.engines import (
    Engine,
)

CONDITIONS = [
    "rating > 3",
    "not rating > 3",
    "rating >= 3.5 and rating < 1e1",
    "rating = 3.5",
    "rating != 3.5",
    "not (rating = 3.5)",
    "rating between -5 and 3",
    "rating not between -5 and 3",
    "rating between 3 and null",
    "not (rating between 4 and null)",
    "rating in (3, 4, 10)",
    "rating not in (3, 4)",
    "rating in (3, null)",
    "rating not in (3, null)",
    "rating in (3)",
    "rating is null",
    "rating is not null",
    "not (rating is null)",
    "rating = null",
    "not (rating = null)",
    "rating > 99999999999999999999",
    "rating < 99999999999999999999",
    "rating > -99999999999999999999",
    "rating > '3'",
    "3 < rating",
    "rating = -5",
    "rating > 2 * -4 + 1",
    "big = 9007199254740993",
    "big > 9007199254740992 or big < -1",
    "price > 0.1",
    "price = 0.1",
    "price != 0.1",
    "price < 0",
    "price > 1e299",
    "price <= 1e300",
    "price in (0.1, 0)",
    "price not in (0.1, 0)",
    "price is null",
    "price is not null",
    "not price < 5",
    "share = 0.1",
    "share > 0.1",
    "share = 1e-1",
    "share <= 0.7",
    "flag",
    "not flag",
    "flag = false",
    "flag != true",
    "flag is null",
    "flag and rating > 0 or not flag and rating < 0",
    "not (flag and rating > 3)",
    "not (flag or label = '100%')",
    "day = '2024-01-01'",
    "day > date '2024-01-01'",
    "day <= timestamp '2024-01-02 10:00:00'",
    "seen > '2024-01-02'",
    "seen = '2024-01-02 12:00:00.000005'",
    "seen >= timestamp '2024-01-03 12:00:00' - interval 1 day",
    "seen is null or seen < '2024-01-01 12:00:00'",
    "seen > shot",
    "seen not in ('2024-01-01 00:00:00.000005', '2024-01-02 12:00:00.000005')",
    "\"my label\" = 'x'",
    "\"like\" in ('a', 'c')",
    '"mark" = 1',
    '"my label" > "like"',
    "label < 'b'",
    "label >= 'ü'",
    "label like '%'",
    "label not like '%'",
    "label like 'trips%'",
    "label not like 'trips%'",
    "label like 'trips/'",
    "label not like 'it''s'",
    "label like 'under!_%' escape '!'",
    "label like '100!%' escape '!'",
    "label like ''",
    "label is null",
    "label like 'back\\%'",
    "label like '\U0010ffff%'",
    "label not like '\U0010ffff%'",
    "path like 'trips/1%' and width = 0",
    "path = 'odd/back\\slash.jpg'",
    "folder like '/%' and status = 'ok'",
    "taken_at is null and camera is null and gps.lat is null",
    "gps.lat > 0",
    "row > 100 and row in (5, 500, 1500)",
    "images.rating = 3",
    "RATING = 3",
    "true",
    "false",
    "null",
    "not null",
    "rating = 3 or true",
    "not (rating = 3 and null)",
    "modified > '1980-01-01'",
    "size >= 0",
    " or ".join(f"row = {n}" for n in range(200)),
    f"row in ({', '.join(map(str, range(0, 1500, 2)))})",
    *(f"label = '{text}'".replace("it's", "it''s").replace("'')", "''')") for text in HOSTILE[:-1]),
]


def mixed(count: int) -> Iterator[str]:
    """Yield conditions made of others at random."""
    rng = np.random.default_rng(9)
    simple = [text for text in CONDITIONS if len(text) < 100]
    for _ in range(count):
        parts = [f"({text})" for text in rng.choice(simple, rng.integers(2, 5))]
        for place in range(len(parts)):
            if rng.random() < 0.4:
                parts[place] = f"not {parts[place]}"
        text = parts[0]
        for part in parts[1:]:
            text = f"{text} {rng.choice(['and', 'or'])} {part}"
            text = f"not ({text})" if rng.random() < 0.3 else text
        yield text


@dataclass(frozen=True)
class Meant:
    """A text, the rows that the store finds for it, and what a database is asked."""

    text: str
    rows: set[int]
    condition: Condition


@pytest.fixture(scope="module")
def meant(store: Path) -> list[Meant]:
    found = []
    with open_snapshot(store) as snapshot:
        columns = RowColumns(snapshot)
        fields = uploaded_fields(columns)
        for text in [*CONDITIONS, *mixed(30)]:
            rows = set(np.flatnonzero(columns.where(text)).tolist())
            found.append(Meant(text, rows, columns.condition(text, fields)))
    assert sum(0 < len(each.rows) < ROWS for each in found) > 100
    return found


def matching(database: Any, condition: Condition) -> set[int]:
    """Return the rows that a database finds a condition true for."""
    if isinstance(condition, Always):
        return set(range(ROWS)) if condition.value else set()
    if isinstance(database, milvus.Milvus):
        found = database._client.query(
            database.place.table,
            filter=milvus.expression(condition),
            output_fields=["id"],
            limit=16_384,
        )
        return {row["id"] for row in found}
    values: list[Any] = []
    text = postgres.expression(condition, values)
    sql = database._psycopg.sql
    names = [sql.Identifier(name) for name in postgres._names(condition)]
    query = sql.SQL("SELECT id FROM embedsearch WHERE " + text).format(*names)
    return {row for (row,) in database._rows(query, values)}


def test_filters_mean_the_same(
    engine: Engine, filled: Callable[[str], str], meant: list[Meant]
) -> None:
    with contextlib.closing(open_database(filled(engine.name))) as database:
        for each in meant:
            found = matching(database, each.condition)
            assert found == each.rows, (each.text, len(each.rows), len(found))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width * height < 4", "(*)"),
        ("lower(label) = 'x'", "(lower)"),
        ("label ilike 'x%'", "(~~*)"),
        ("label similar to 'x'", "(regexp_full_match)"),
        ("coalesce(rating, 1) = 1", "coalesce"),
        ("case when flag then true else false end", "case"),
        ("rating is distinct from 3", "distinct"),
        ("rating::text = '3'", "cast"),
        ("label = chr(0)", "no function chr"),
        ("label = 'a\0b'", "is NUL"),
        ("label != 'a\0b'", "is NUL"),
        ("label in ('a\0', 'b')", "is NUL"),
        ("label like 'a\0%'", "is NUL"),
        ("label = e'a\\000b'", "syntax error"),
        ("label like 3", "there is no ~~(VARCHAR"),
        ("rating = random()", "no function random"),
        ("list_contains(tags, 'a')", "(list_contains)"),
        ("tags is null", "does not hold tags, only big"),
        ("gps is null", "does not hold gps"),
        ("full_path like '/%'", "does not hold full_path, only big"),
        ("rating", "column ref"),
        ("rating > price", "column ref"),
        ("price > 'nan'", "constant"),
        ("flag > false", "constant"),
        ("big > 1e300", "constant"),
        ("rating > 3 and and", "character"),
        ("widht > 3", "did you mean width?"),
        ("exists(from '/etc/passwd')", "evaluated by itself"),
        ("label like 'a!bc' escape '!'", "like_escape"),
        ("not " * 300 + "flag = (flag = true)", ""),
    ],
)
def test_what_has_no_word_there_is_refused(store: Path, text: str, words: str) -> None:
    with open_snapshot(store) as snapshot:
        columns = RowColumns(snapshot)
        with pytest.raises(UsageError, match=r"^where: ") as caught:
            columns.condition(text, uploaded_fields(columns))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def uploaded_fields(columns: RowColumns) -> list[Field]:
    return [field for field in fields_of(columns.schema)[0] if field.column != "with_nul"]


@pytest.mark.parametrize("text", ["label like '%x'", "label like 'a_'", "label like '%a%'"])
def test_milvus_is_not_asked_for_other_patterns(store: Path, text: str) -> None:
    with open_snapshot(store) as snapshot:
        columns = RowColumns(snapshot)
        condition = columns.condition(text, uploaded_fields(columns))
    with pytest.raises(UsageError, match=r"only wildcard is a % at the end"):
        milvus.expression(condition)


def test_postgres_knows_all_patterns(filled: Callable[[str], str], store: Path) -> None:
    with (
        contextlib.closing(open_database(filled("postgres"))) as database,
        open_snapshot(store) as snapshot,
    ):
        columns = RowColumns(snapshot)
        for text in (
            "label like '%s'",
            "label like '_t%'",
            "label not like '%!_%' escape '!'",
            "label like '%\\%'",
            "label like '%100%%'",
            "path like '%日本_%'",
        ):
            wanted = set(np.flatnonzero(columns.where(text)).tolist())
            assert matching(database, columns.condition(text, uploaded_fields(columns))) == wanted
