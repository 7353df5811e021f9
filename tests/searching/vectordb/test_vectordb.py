"""`export --to` and `--serve-from` against real servers: same hits, same filters, whatever happens.

Milvus, PostgreSQL with pgvector and Milvus Lite run on loopback (engines.py); one that is not
installed is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch import Key
from embedsearch.core.errors import (
    IncompatibleStore,
    Interrupted,
    MissingLibrary,
    StorageError,
    UsageError,
)
from embedsearch.core.session import Session
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.exchange.upload import upload
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.searcher import open_store
from embedsearch.searching.vectordb import database as databases
from embedsearch.searching.vectordb import milvus, postgres
from embedsearch.searching.vectordb.conditions import Always, Condition
from embedsearch.searching.vectordb.fields import Field, fields_of
from embedsearch.searching.vectordb.open import open_database, place_of
from embedsearch.store.snapshot import open_snapshot
from tests.support.engines import (
    MILVUS_TOKEN,
    PASSWORD,
    Engine,
    free_port,
    milvus_lite,
    milvus_server,
    postgres_server,
    relay,
)
from tests.support.library import paint, run_cli

T = TypeVar("T")
ROWS, DIM, CLUSTERS = 2000, 64, 50
HOSTILE = [
    "it's",
    'a "quoted" one',
    "100%",
    "under_score",
    "back\\slash",
    "new\nline",
    "\\",
    "'); DROP TABLE embedsearch; --",
    "ünïcode 日本 😀",
    "",
    "{}",
    "%s",
    "trips",
    "trips/",
    "trips0",
    "control\x01\x7f\x1b",
    "tab\tand\r",
    "\U0010ffff",
]


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MILVUS_TOKEN", MILVUS_TOKEN)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    """Start each engine once, when it is first asked for."""
    running: dict[str, Engine] = {}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())

        def engine(name: str) -> Engine:
            if name not in running:
                folder = tmp_path_factory.mktemp(name)
                makers: dict[str, Callable[[], Any]] = {
                    "lite": lambda: milvus_lite(folder),
                    "milvus": lambda: milvus_server(folder, patch),
                    "postgres": postgres_server,
                }
                running[name] = stack.enter_context(makers[name]())
            return running[name]

        yield engine


@pytest.fixture(params=["postgres", "milvus", pytest.param("lite", marks=pytest.mark.scale)])
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


# Milvus takes seconds to make a collection and to seal it: what is no matter of the engine is
# tested with it by `make test-scale`.
@pytest.fixture(params=["postgres", "lite", pytest.param("milvus", marks=pytest.mark.scale)])
def quick_engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture(scope="module")
def filled(store: Path, engines: Callable[[str], Engine]) -> Callable[[str], str]:
    """Return the URL of a database of an engine that holds the store."""

    @cache
    def url(name: str) -> str:
        made = engines(name).url()
        upload(store, made)
        return made

    return url


@pytest.fixture(params=["postgres", pytest.param("milvus", marks=pytest.mark.scale)])
def server(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    """Clustered unit vectors, float32 (ROWS, DIM)."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((CLUSTERS, DIM))
    made = centres[rng.integers(0, CLUSTERS, ROWS)] + 0.5 * rng.standard_normal((ROWS, DIM))
    made[11] = made[12] = made[13]  # copies, which tie
    unit: npt.NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit.astype(np.float32)


@pytest.fixture(scope="module")
def store(
    vectors: npt.NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Rows with columns of every kind, with nulls and with what is hard to quote."""
    folder = tmp_path_factory.mktemp("vectordb")
    import_rows(folder, vectors, "made up")
    yield folder / "s.es"


def import_rows(folder: Path, vectors: npt.NDArray[np.float32], model: str) -> Path:
    rng = np.random.default_rng(6)

    def some(values: list[Any], nulls: float = 0.2) -> list[Any]:
        picked = [values[i] for i in rng.integers(0, len(values), len(vectors))]
        return [None if rng.random() < nulls else value for value in picked]

    moments = [datetime(2024, 1, day, hour, 0, 0, 5) for day in (1, 2, 3) for hour in (0, 12)]
    paths = [f"{'trips' if i % 3 else 'home'}/{i:04d}.jpg" for i in range(len(vectors))]
    paths[: len(HOSTILE)] = [f"odd/{text or 'empty'}.jpg" for text in HOSTILE]
    columns = {
        "path": paths,
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), vectors.shape[1]
        ),
        "label": some(HOSTILE),
        "rating": pa.array(some([-5, 0, 3, 4, 10]), pa.int32()),
        "big": pa.array(some([2**53 + 1, 2**62, -(2**62), 7]), pa.int64()),
        "price": some([0.1, -1.5, 0.0, 1e300, float("nan"), float("inf"), float("-inf")]),
        "share": pa.array(some([0.1, 0.25, 0.7]), pa.float32()),
        "flag": some([True, False]),
        "day": some([date(2024, 1, 1), date(2024, 1, 2), date(2030, 5, 5)]),
        "seen": pa.array(some(moments), pa.timestamp("us")),
        "shot": pa.array(some(moments), pa.timestamp("ms"), safe=False),
        "my label": some(["x", "y"]),
        "like": some(["a", "b"]),
        "mark": some([1, 2]),
        "tags": some([["a"], ["b"]]),
        "precise": pa.array(some(moments), pa.timestamp("ns")),
        "with_nul": some(["a\0b", "c"]),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    import_vectors(folder / "rows.parquet", model=model, root=folder, store=folder / "s.es")
    return folder / "s.es"


class Notices(list[str]):
    """A session that keeps what it is told."""

    @property
    def session(self) -> Session:
        return Session(notice=self.append)


# The same hits.


def test_hits_are_those_of_the_store(
    engine: Engine,
    store: Path,
    vectors: npt.NDArray[np.float32],
    filled: Callable[[str], str],
) -> None:
    url, told = filled(engine.name), Notices()
    rng = np.random.default_rng(8)
    asked = list(vectors[rng.integers(0, ROWS, 40)])
    with open_store(store) as ours, open_store(store, serve_from=url, session=told.session) as far:
        wanted, found = ours.query_batch(asked), far.query_batch(asked)
        common = [
            {h.row for h in a} & {h.row for h in b} for a, b in zip(wanted, found, strict=True)
        ]
        assert np.mean([len(rows) for rows in common]) / 10 >= 0.98
        for one, other in zip(wanted, found, strict=True):
            scores = {hit.row: hit for hit in one}
            assert [hit.rank for hit in other] == list(range(1, 11))
            for hit in other:
                if hit.row in scores:
                    same = scores[hit.row]
                    assert hit.score == pytest.approx(same.score, abs=1e-5)
                    kept = replace(hit, rank=same.rank, score=same.score, percentile=None)
                    assert repr(kept) == repr(replace(same, percentile=None))  # NaN differs
        for options in (
            {"k": 5, "offset": 7},
            {"k": 4, "collapse": 0.95},
            {"k": 6, "diverse": 0.5},
            {"k": 6, "expand": 4},
            {"k": 50, "min_score": 0.8},
            {"k": 7, "where": "rating > 3 and label like 'trips%'"},
            {"k": 400, "where": "flag"},
            {"k": 30, "where": "rating = 10 and flag and share > 0.5"},
            {"k": 3, "where": "rating > 10000"},
        ):
            for query in (Key("trips/0500.jpg"), asked[0]):
                one, other = ours.query(query, **options), far.query(query, **options)
                assert len(one) == len(other)
                assert len({h.row for h in one} & {h.row for h in other}) >= 0.98 * len(one)
        # All three copies are found, and two of them in the store's order shown.
        tied = [[hit.row for hit in searcher.query(vectors[11], k=2)] for searcher in (ours, far)]
        assert tied[0] == tied[1] and set(tied[0]) < {11, 12, 13}
        # Lite's index does not reach all that a filter leaves.
        assert not told or engine.name == "lite"
        assert len(far.query(asked[0], k=ROWS + 5)) == ROWS  # an index may not reach them all


# The same filters.

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
        ("label = chr(0)", "(chr)"),
        ("rating = random()", "(random)"),
        ("list_contains(tags, 'a')", "(list_contains)"),
        ("tags is null", "does not hold tags, only big"),
        ("precise > '2024-01-01'", "does not hold precise"),
        ("gps is null", "does not hold gps"),
        ("rating", "column ref"),
        ("rating > price", "column ref"),
        ("price > 'nan'", "constant"),
        ("flag > false", "constant"),
        ("big > 1e300", "constant"),
        ("rating > 3 and and", "character"),
        ("widht > 3", "did you mean width?"),
        ("exists(from '/etc/passwd')", "each row by itself"),
        ("label like 'a!bc' escape '!'", "like_escape"),
        ("not " * 300 + "flag = (flag = true)", ""),
    ],
)
def test_what_has_no_word_there_is_refused(store: Path, text: str, words: str) -> None:
    with open_snapshot(store) as snapshot:
        columns = RowColumns(snapshot)
        with pytest.raises(UsageError, match=r"^--where: ") as caught:
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


# In step with a store that changes.


@pytest.fixture
def changing(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Changing:
    (photos / os.fsdecode(b"latin-\xe9'.png")).write_bytes((photos / "a" / "01.png").read_bytes())
    made = Changing(photos, tmp_path / "s.es", extractor)
    made.index()
    return made


@dataclass(frozen=True)
class Changing:
    """A folder of pictures and its store."""

    photos: Path
    store: Path
    extractor: Callable[..., Any]

    def index(self, **options: Any) -> None:
        embedsearch.index(
            self.photos,
            store=self.store,
            model="packaged",
            extractor_factory=self.extractor,
            **options,
        )

    def caption(self, texts: dict[str, str]) -> None:
        table = self.photos.parent / "captions.csv"
        lines = ["path,caption", *(f"{path},{text}" for path, text in texts.items())]
        table.write_text("\n".join(lines))
        self.index(metadata=str(table))

    def counts(self, url: str, **options: Any) -> tuple[int, int, int]:
        report = upload(self.store, url, **options)
        return report.uploaded, report.unchanged, report.deleted

    def same_hits(self, url: str, **options: Any) -> list[str]:
        """Return the keys of hits, the same with and without the database, and what was said."""
        said = Notices()
        query = Key("a/01.png")
        with (
            open_store(self.store) as ours,
            open_store(self.store, serve_from=url, session=said.session) as far,
        ):
            wanted, found = ours.query(query, **options), far.query(query, **options)
        assert [repr(hit) for hit in found] == [repr(hit) for hit in wanted]
        return said


def test_a_database_follows_its_store(quick_engine: Engine, changing: Changing) -> None:
    url = quick_engine.url()
    assert changing.counts(url) == (13, 0, 0)
    assert changing.counts(url) == (0, 13, 0)
    assert not changing.same_hits(url, k=20)
    (changing.photos / "a" / "03.png").unlink()
    paint(changing.photos / "a" / "05.png", 105)
    paint(changing.photos / "c" / "20.png", 20)
    changing.index()
    # Before it is told: what has gone is not shown, what is new comes from the store itself.
    said = changing.same_hits(url, k=20)
    assert "holds generation 2, the store generation" in said[0]
    assert "export --to brings it up to date" in said[0]
    assert "the store itself is searched, exactly" in said[1] and len(said) == 2
    assert changing.counts(url) == (2, 11, 2)
    assert not changing.same_hits(url, k=20)
    assert not changing.same_hits(url, k=3, where="path like 'a/%' and width > 4")
    # Columns that are new make it another table; other values in them are sent.
    changing.caption({"a/01.png": "one", "a/07.png": "seven"})
    with pytest.raises(
        IncompatibleStore, match=r"other columns of the store \(caption\): --replace"
    ):
        upload(changing.store, url)
    assert changing.counts(url, replace=True) == (13, 0, 0)
    assert not changing.same_hits(url, where="caption = 'seven'")
    changing.caption({"a/07.png": "VII", "b/08.png": "seven"})
    # A filter is the store's: row 7 is not shown though the database still calls it seven.
    assert len(changing.same_hits(url, where="caption = 'seven'")) == 2
    assert changing.counts(url) == (2, 11, 0)
    assert not changing.same_hits(url, where="caption = 'seven'")


def test_a_searcher_follows_its_store(engines: Callable[[str], Engine], changing: Changing) -> None:
    url, said = engines("postgres").url(), Notices()
    upload(changing.store, url)
    with open_store(changing.store, serve_from=url, session=said.session) as searcher:
        paint(changing.photos / "c" / "20.png", 20)
        changing.index()
        upload(changing.store, url)
        assert len(searcher.query(Key("a/01.png"), k=20)) == 13
        assert searcher.refresh()
        assert len(searcher.query(Key("a/01.png"), k=20)) == 14
    assert not said


def test_other_vectors_are_refused(
    quick_engine: Engine, store: Path, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    url = quick_engine.url()
    half = vectors[:300, :32] / np.linalg.norm(vectors[:300, :32], axis=1, keepdims=True)
    for name in ("other model", "other dim", "other rows"):
        (tmp_path / name).mkdir()
    others = {
        "other model": import_rows(tmp_path / "other model", vectors[:300], "another one"),
        "other dim": import_rows(tmp_path / "other dim", half.astype(np.float32), "made up"),
    }
    for name, other in others.items():
        upload(other, url, replace=True)
        for refused in (lambda: upload(store, url), lambda: open_store(store, serve_from=url)):
            with pytest.raises(IncompatibleStore, match=r"holds vectors of .* --replace"):
                refused()
        assert upload(other, url).unchanged == 300, name
    # The same model, other images of the same numbers: told by their vectors.
    other = import_rows(tmp_path / "other rows", vectors[300:600], "made up")
    upload(other, url, replace=True)
    with pytest.raises(IncompatibleStore, match="was filled from another store"):
        open_store(store, serve_from=url)
    assert upload(store, url).uploaded == ROWS
    open_store(store, serve_from=url).close()


def test_what_embedsearch_did_not_make_stays(engines: Callable[[str], Engine], store: Path) -> None:
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
    url = engines("postgres").url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE embedsearch (precious text)")
        for replaced in (False, True):
            with pytest.raises(IncompatibleStore, match="was not made by"):
                upload(store, url, replace=replaced)
        connection.execute("SELECT precious FROM embedsearch")


# Trouble.


def test_a_run_that_was_stopped_is_gone_on_with(quick_engine: Engine, store: Path) -> None:
    url, said = quick_engine.url(), Notices()
    with pytest.raises(
        Interrupted, match="0 rows were uploaded: the same command goes on"
    ) as caught:
        upload(store, url, session=Session(stop=lambda: 2))
    assert caught.value.exit_code == 130
    with open_store(store, serve_from=url, session=said.session) as searcher:
        assert len(searcher.query(Key("trips/0500.jpg"))) == 10
    assert "holds what a run that was cut off has sent" in said[0] and "exactly" in said[1]
    assert upload(store, url).uploaded == ROWS


def test_a_connection_lost_in_the_middle(
    server: Engine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "_MESSAGE_BYTES", 64 * DIM * 4)
    url = server.url()
    assert server.port is not None
    with relay(server.port) as between:
        through = server.through(between.port, url)
        between.limit = between.passed + 300_000
        with monkeypatch.context() as short, pytest.raises(StorageError) as caught:
            short.setattr(milvus, "SEND_S", 3.0)
            upload(store, through)
        assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
        between.restore()
        assert in_time(lambda: upload(store, through)).uploaded > 0
        assert upload(store, url).unchanged == ROWS
        with open_store(store, serve_from=through) as searcher:
            assert len(searcher.query(Key("trips/0500.jpg"))) == 10
            between.cut()
            monkeypatch.setattr(databases, "ASK_S", 2.0)
            started = time.monotonic()
            with pytest.raises(StorageError, match="does not answer"):
                searcher.query(Key("trips/0500.jpg"))
            assert time.monotonic() - started < 12
            between.restore()
            assert len(in_time(lambda: searcher.query(Key("trips/0500.jpg")))) == 10


def in_time(work: Callable[[], T]) -> T:
    """Return what work returns once a connection is there again: gRPC holds off for a while."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return work()
        except StorageError:
            assert time.monotonic() < deadline


def test_nobody_answers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymilvus")
    pytest.importorskip("psycopg")
    monkeypatch.setattr(milvus, "_CONNECT_S", 1.0)
    for scheme in ("milvus", "postgresql"):
        with pytest.raises(StorageError, match=f"^{scheme}://.*cannot be reached: ") as caught:
            upload(store, f"{scheme}://ada:{PASSWORD[:2]}cret@127.0.0.1:{free_port()}/x")
        assert "cret" not in str(caught.value) and caught.value.exit_code == 4


def test_a_wrong_password(server: Engine, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TOKEN", "root:wrongword")
    url = re.sub(r"://ada:[^@]*@", "://ada:wrongword@", server.url())
    with pytest.raises(StorageError) as caught:
        upload(store, url)
    assert "wrongword" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_collection_that_was_dropped(engine: Engine, changing: Changing) -> None:
    url = engine.url()
    with pytest.raises(StorageError, match="export --to makes it"):
        open_store(changing.store, serve_from=url)
    upload(changing.store, url)
    with open_store(changing.store, serve_from=url) as searcher:
        database: Any = searcher._database
        if engine.name == "postgres":
            database._connected().execute("DROP TABLE embedsearch")
        else:
            database._client.drop_collection(database.place.table)
        with pytest.raises(StorageError, match="export --to makes it"):
            searcher.query(Key("a/01.png"))


# The doors.


def test_the_command_line(engines: Callable[[str], Engine], store: Path) -> None:
    url = engines("postgres").url()
    done = run_cli("export", "--to", url, "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{ROWS:,} rows of {DIM} components in postgresql://***@127.")
    assert f": {ROWS:,} uploaded, 0 unchanged, 0 deleted\ngeneration 2, " in done.stdout
    assert done.stderr == "embedsearch: not held by a vector database: precise, tags, with_nul\n"
    done = run_cli("export", "--to", url, "--store", store, "--json")
    assert json.loads(done.stdout)["unchanged"] == ROWS and "se%" not in done.stdout
    query = ["query", "--key", "trips/0500.jpg", "--store", store, "--json", "-k", "20"]
    ours, theirs = run_cli(*query), run_cli(*query, "--serve-from", url)
    assert theirs.returncode == 0, theirs.stderr
    hits = [[json.loads(line) for line in done.stdout.splitlines()] for done in (ours, theirs)]
    assert len(hits[1]) == 20
    assert len({hit["key"] for hit in hits[0]} & {hit["key"] for hit in hits[1]}) >= 19
    done = run_cli(*query, "--serve-from", url, "--where", "lower(label) = 'x'")
    assert done.returncode == 2 and "cannot be asked for this (lower)" in done.stderr
    done = run_cli(*query, "--serve-from", url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1"))
    assert done.returncode in {2, 4} and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of them"),
        (["out.npy", "--to", "milvus://host"], "give one of them"),
        (["--to", "milvus://host", "--where", "true"], "takes all rows"),
        (["out.npy", "--replace"], "--replace goes with --to"),
        (["--to", "mysql://ada:secret@host"], "a vector database is milvus://"),
        (["--to", "milvus://host:999999"], "cannot be read"),
        (["--to", "milvus:///x.sqlite"], "ends in .db"),
    ],
)
def test_wrong_usage(store: Path, arguments: list[str], words: str) -> None:
    done = run_cli("export", *arguments, "--store", store)
    assert done.returncode == 2 and words in done.stderr and "secret" not in done.stderr


async def test_a_server_says_503(
    engines: Callable[[str], Engine],
    filled: Callable[[str], str],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    httpx = pytest.importorskip("httpx")
    from embedsearch.web.app import create_app
    from embedsearch.web.guard import Access

    engine, url = engines("postgres"), filled("postgres")
    monkeypatch.setattr(databases, "ASK_S", 1.0)
    assert engine.port is not None
    with relay(engine.port) as between:
        searcher = open_store(store, serve_from=engine.through(between.port, url))
        app = create_app(searcher, Access())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = {"key": "trips/0500.jpg", "k": 3}
            assert (await client.post("/search", json=body)).status_code == 200
            between.cut()
            answer = await client.post("/search", json=body)
            assert answer.status_code == 503
            assert answer.json() == {"error": "this cannot be answered now: see the server's log"}
            between.restore()
            assert (await client.post("/search", json=body)).status_code == 200
        searcher.close()


def test_urls_show_no_secret() -> None:
    place = place_of("postgresql://ada:pa%40ss@db.example:5432/photos?sslpassword=x")
    assert str(place) == "postgresql://***@db.example:5432/photos" and "pa" not in repr(place)[20:]
    assert place.said("no\n entry for pa@ss, or pa%40ss") == "no entry for ***, or ***"
    assert str(place_of("milvus:///data/x.db")) == "milvus:///data/x.db"
    assert place_of("milvus://host:19530").table == "embedsearch"
    assert place_of("milvus://host:19530/other").table == "other"


@pytest.mark.parametrize(
    ("library", "url"), [("pymilvus", "milvus://host"), ("psycopg", "postgresql://host/db")]
)
def test_a_missing_library_is_named(
    store: Path, library: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    extra = r"pip install 'embedsearch\[(milvus|postgres)\]'"
    with pytest.raises(MissingLibrary, match=extra):
        upload(store, url)
