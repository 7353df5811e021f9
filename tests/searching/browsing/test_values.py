"""The values of columns, and folders: against the records, counted by hand."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.core.names import comparable
from embedsearch.core.records import ImageRecord
from embedsearch.searching.browsing import folders, values

WHERES = [None, "stars > 1", "camera = 'Zeiss'", "width < 0"]
OF_RECORD: dict[str, Callable[[ImageRecord], Any]] = {
    "row": lambda record: record.row,
    "path": lambda record: record.key,
    "size": lambda record: record.size_bytes or None,
    "width": lambda record: record.width or None,
    "height": lambda record: record.height or None,
    "format": lambda record: record.format or None,
    "taken_at": lambda record: record.taken_at,
    "camera": lambda record: record.camera,
    "stars": lambda record: record.metadata.get("stars"),
    "what": lambda record: record.metadata.get("what"),
}


def normal(value: Any) -> Any:
    return comparable(value) if isinstance(value, str) else value


@pytest.mark.parametrize("column", OF_RECORD)
@pytest.mark.parametrize("where", WHERES)
def test_values_are_those_of_the_records(
    searcher: embedsearch.Searcher, column: str, where: str | None
) -> None:
    records = searcher.images(100, where=where).images
    known = [v for v in map(OF_RECORD[column], records) if v is not None]
    counted = Counter(map(normal, known))
    found = searcher.values(column, where=where)
    assert (found.column, found.type) == (column, searcher.columns[column])
    assert (found.total, found.missing) == (len(known), len(records) - len(known))
    assert found.distinct == len(counted)
    wanted = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    assert [(each.value, each.images) for each in found.values] == wanted
    if column in {"path", "camera", "format", "what"} or not known:
        assert (found.min, found.max) == (None, None)
    else:
        assert (found.min, found.max) == (min(known), max(known))
    months = Counter(f"{t:%Y-%m}" for t in known) if column == "taken_at" else {}
    assert [(m.month, m.images) for m in found.months] == sorted(months.items(), reverse=True)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_store_has_something_to_count(searcher: embedsearch.Searcher) -> None:
    assert len(searcher.values("taken_at").months) == 3
    assert searcher.values("taken_at").missing > 5
    assert [v.value for v in searcher.values("what").values] == ["café", "", "tea"]
    assert searcher.values("width").missing == searcher.values("size").missing == 2
    assert searcher.values("modified").missing == 2
    homes = searcher.values("folder")
    assert homes.total == 42 and homes.distinct == 3


def test_kept_values_are_those_of_all(searcher: embedsearch.Searcher) -> None:
    everything = searcher.values("stars")
    assert searcher.values("stars", where="stars = 1") != everything
    assert searcher.values("stars") == everything
    assert searcher.values("stars", where="row >= 0") == everything


@pytest.mark.parametrize("column", ["", "nothing", "Width", "digest", "vector", "key", "a" * 99])
def test_columns_that_are_not_there(searcher: embedsearch.Searcher, column: str) -> None:
    with pytest.raises(UsageError, match="there is no column"):
        searcher.values(column)


TYPES: dict[str, list[Any]] = {
    "flag": [True, False, None, True, True, None],
    "big": [2**63 + 1, 5, 5, None, 2**64 - 1, 5],
    "real": [0.5, float("nan"), float("inf"), -0.25, None, 0.5],
    "tags": [["a", "a", "b"], [], None, ["b", None], ["c", "e\u0301"], ["é"]],
    "numbers": [[3, 1], [1], [1, 1, 1], None, [], [None]],
    "nested": [[["a"]], None, [[]], [["b"]], None, [["a"]]],
    "pair": [{"x": 1}, None, {"x": 2}, {"x": 1}, {"x": None}, None],
    "text": ["", "x" * 201, "x" * 200, "", None, "é"],
    "nothing": [None] * 6,
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of six vectors with columns of many types."""
    folder = tmp_path_factory.mktemp("typed")
    kinds = {"big": pa.uint64(), "nothing": pa.string()}
    columns: dict[str, Any] = {
        "path": [f"{n}/{n % 2}/a.jpg" if n else "a.jpg" for n in range(6)],
        "vector": np.eye(6, 8, dtype=np.float32).tolist(),
        **{name: pa.array(column, kinds.get(name)) for name, column in TYPES.items()},
    }
    moments = [None, "0001-01-01", "9999-12-31T23:59:59", "2024-02-29", "2024-02-01", "1969-12-31"]
    exact = np.array([moment or "NaT" for moment in moments], "datetime64[us]")
    columns["moment"] = pa.array(exact, pa.timestamp("us"), from_pandas=True)
    columns["day"] = columns["moment"].cast(pa.date32(), safe=False)
    columns["zoned"] = columns["moment"].cast(pa.timestamp("us", "UTC"))
    columns["price"] = pa.array([1, 2, 2, None, 3, 10], pa.int64()).cast(pa.decimal128(30, 2))
    pq.write_table(pa.table(columns), folder / "in.parquet")
    store = folder / "s.es"
    embedsearch.import_vectors(folder / "in.parquet", model="made", root=folder, store=store)
    return store


@pytest.fixture
def of_types(typed: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(typed) as opened:
        yield opened


EXPECTED: dict[str, tuple[int, int | None, list[tuple[Any, int]], Any, Any]] = {
    "flag": (4, 2, [(True, 3), (False, 1)], None, None),
    "big": (5, 3, [(5, 3), (2**63 + 1, 1), (2**64 - 1, 1)], 5, 2**64 - 1),
    "real": (3, 2, [(0.5, 2), (-0.25, 1)], -0.25, 0.5),
    "tags": (4, 4, [("b", 2), ("é", 2), ("a", 1), ("c", 1)], None, None),
    "numbers": (3, 2, [(1, 3), (3, 1)], 1, 3),
    "nested": (4, None, [], None, None),
    "pair": (4, None, [], None, None),
    "text": (5, 4, [("", 2), ("x" * 200, 1), ("é", 1)], None, None),
    "price": (5, 4, [("2.00", 2), ("1.00", 1), ("3.00", 1), ("10.00", 1)], "1.00", "10.00"),
    "width": (0, 0, [], None, None),
    "taken_at": (0, 0, [], None, None),
    "gps": (0, None, [], None, None),
}


@pytest.mark.parametrize("column", EXPECTED)
def test_values_of_types(of_types: embedsearch.Searcher, column: str) -> None:
    total, distinct, wanted, least, most = EXPECTED[column]
    for where in (None, "row >= 0"):
        found = of_types.values(column, where=where).to_dict()
        assert (found["total"], found["missing"]) == (total, 6 - total)
        assert found["distinct"] == distinct
        assert [(v["value"], v["images"]) for v in found["values"]] == wanted
        assert (found["min"], found["max"]) == (least, most)
        assert found["months"] == []
        json.dumps(found, allow_nan=False)


def test_times(of_types: embedsearch.Searcher) -> None:
    months = ["9999-12", "2024-02", "1969-12", "0001-01"]
    for column in ("moment", "zoned"):
        found = of_types.values(column).to_dict()
        assert [m["month"] for m in found["months"]] == months
        assert [m["images"] for m in found["months"]] == [1, 2, 1, 1]
        assert (found["total"], found["distinct"]) == (5, 5)
        assert found["min"].startswith("0001-01-01T00:00:00")
        assert found["max"].startswith("9999-12-31T23:59:59")
    days = of_types.values("day").to_dict()
    assert (days["min"], days["max"], days["months"]) == ("0001-01-01", "9999-12-31", [])


def test_the_most_frequent_are_listed(
    of_types: embedsearch.Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "MAX_VALUES", 2)
    assert [v.value for v in of_types.values("big").values] == [5, 2**63 + 1]
    assert of_types.values("flag").distinct == len(of_types.values("flag").values) == 2
    paths = of_types.values("path")  # each is there once: that is no choice
    assert (paths.distinct, paths.values) == (6, ())
    assert of_types.values("path", where="row < 2").distinct == 2
    assert len(of_types.values("path", where="row < 2").values) == 2


@pytest.mark.parametrize("where", WHERES)
def test_folders_are_those_of_the_records(
    searcher: embedsearch.Searcher, looked_at: Path, where: str | None
) -> None:
    records = searcher.images(100, where=where).images
    counted = Counter(
        (record.full_path.removesuffix(f"/{record.key}"), os.path.dirname(record.key))
        for record in records
    )
    found = searcher.folders(where=where)
    listed = [(each.root, each.folder, each.images) for each in found.folders]
    assert listed == [(*place, images) for place, images in sorted(counted.items())]
    assert (found.total, found.truncated) == (len(counted), False)
    if where is None:
        roots = [str(looked_at), str(looked_at / "a photos"), str(looked_at / "b photos")]
        places = [(roots[0], "zz"), (roots[1], ""), (roots[2], ""), (roots[2], "trip/day 1")]
        assert [(each.root, each.folder) for each in found.folders] == places


def test_a_long_list_of_folders_is_cut(
    of_types: embedsearch.Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDERS", 2)
    found = of_types.folders()
    assert [each.folder for each in found.folders] == ["", "1/1"]
    assert (found.total, found.truncated) == (6, True)


def test_folders_with_names_that_are_no_text(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    from tests.support.library import paint

    photos = tmp_path / "photos"
    for seed, name in enumerate([b"caf\xe9", b"new\nline", b"%41", b"a\\b"]):
        paint(photos / os.fsdecode(name) / "a.png", seed)
    embedsearch.index(
        photos, store=tmp_path / "s.es", model="packaged", extractor_factory=extractor
    )
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        found = [each.folder for each in searcher.folders().folders]
        assert sorted(found) == sorted(["caf\\xe9", "new\nline", "%41", "a\\b"])
