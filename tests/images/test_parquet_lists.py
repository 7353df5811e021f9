"""Lists in a Parquet file: a row is read whole, so what it unpacks to is counted before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound
from embedsearch.images.sources.image_column import ImageColumn
from embedsearch.images.tables import parquet_bounds
from embedsearch.images.tables.parquet_bounds import open_parquet, read_columns
from embedsearch.images.tables.unpacked import largest_rows

MB = 1 << 20
LONG = "a" * MB
MANY = 300  # of LONG, more than TABLE_FLOOR_BYTES


def written(path: Path, values: Any, **options: Any) -> Path:
    options = {"compression": "zstd", "write_statistics": False, **options}
    pq.write_table(pa.table({"tags": values, "number": range(len(values))}), path, **options)
    return path


def named(count: int, value: Any = LONG) -> Any:
    """Return one value so many times, which is kept once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


def row(items: Any) -> Any:
    return pa.ListArray.from_arrays([0, len(items)], items)


def mapped(keys: Any, items: Any) -> Any:
    ends: Any = pa.array([0, len(keys)], pa.int32())
    return pa.MapArray.from_arrays(ends, keys, items)


LISTS: dict[str, Callable[[], Any]] = {
    "list": lambda: row(named(MANY)),
    "bytes": lambda: row(named(MANY, LONG.encode())),
    "two": lambda: row(row(named(MANY))),
    "fixed": lambda: pa.FixedSizeListArray.from_arrays(named(MANY), MANY),
    "large": lambda: pa.LargeListArray.from_arrays(pa.array([0, MANY], pa.int64()), named(MANY)),
    "struct": lambda: row(
        pa.StructArray.from_arrays([named(MANY), pa.array(range(MANY))], ["t", "n"])
    ),
    "inside": lambda: pa.StructArray.from_arrays([row(named(MANY)), pa.array([1])], ["t", "n"]),
    "map": lambda: mapped(pa.array(range(MANY)), named(MANY)),
    "keys": lambda: mapped(named(MANY), pa.array(range(MANY))),
}


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("kind", LISTS)
def test_a_row_that_names_a_long_value_often_is_refused(
    kind: str, typed: bool, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.parquet", LISTS[kind](), store_schema=typed)
    with (parquet := open_parquet(path)).file:
        with pytest.raises(OverBound, match="its columns unpack to more than 128 MB"):
            parquet.rows_at_once(["tags"], 10)
        with pytest.raises(OverBound, match="its columns unpack to more than 128 MB"):
            parquet.rows_at_once(["number", "tags"], 10)
        assert read_columns(parquet, ["number"])["number"].to_pylist() == [0]


def test_lists_of_several_columns_are_in_memory_together(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({name: row(named(40)) for name in "abcd"})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["a", "b", "c"], 10) >= 1
        with pytest.raises(OverBound):
            parquet.rows_at_once(["a", "b", "c", "d"], 10)


def test_rows_of_many_groups_are_not_read_together(tmp_path: Path) -> None:
    lists = pa.ListArray.from_arrays(list(range(0, 401, 40)), named(400))
    path = written(tmp_path / "a.parquet", lists, row_group_size=1, store_schema=False)
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["tags"], 10) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": False, "write_batch_size": 1},
        {"use_dictionary": False, "column_encoding": {"tags.list.element": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
    ],
    ids=["plain", "prefixes", "lengths"],
)
def test_pages_that_could_fill_the_memory_are_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    table = pa.table({"tags": row(pa.array([LONG] * MANY))})
    path = tmp_path / "a.parquet"
    if isinstance(options.get("column_encoding"), str):
        options = options | {"column_encoding": {"tags.list.element": options["column_encoding"]}}
    pq.write_table(table, path, compression="zstd", write_statistics=False, **options)
    with pytest.raises(OverBound), (parquet := open_parquet(path)).file:
        parquet.rows_at_once(["tags"], 10)


def test_values_of_one_length_are_counted_as_well(tmp_path: Path) -> None:
    items = pa.array([LONG.encode()] * MANY, pa.binary(MB))
    path = written(tmp_path / "a.parquet", row(items))
    assert path.stat().st_size < MB
    with (
        pytest.raises(OverBound, match="its lists may unpack"),
        (parquet := open_parquet(path)).file,
    ):
        parquet.rows_at_once(["tags"], 10)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("group", [700, 1 << 20])
def test_lists_with_one_long_value_are_read_right(version: str, group: int, tmp_path: Path) -> None:
    rows = [None, [], [LONG], *([f"tag {n % 7}", None, f"{n}"] for n in range(2000))]
    values = pa.array(rows, pa.list_(pa.string()))
    options = {"data_page_version": version, "row_group_size": group}
    path = written(tmp_path / "a.parquet", values, **options)
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["tags"], 65_536) == bounds.READ_BYTES // MB
        assert parquet.measured, "each value could be the long one"
        table = read_columns(parquet, ["tags"])
    assert table.schema.field("tags").type == pa.list_(pa.string())
    assert table["tags"].to_pylist() == rows


def test_the_largest_row_of_each_group_is_counted(tmp_path: Path) -> None:
    rows = [[{"t": ["ab", None], "n": 1}, None], None, [{"t": ["abc", "abc"], "n": 2}] * 2, []]
    path = written(tmp_path / "a.parquet", pa.array(rows), row_group_size=2)
    assert largest_rows(path, "tags.list.element.t.list.element") == [2, 12]
    with pytest.raises(OverBound, match="cannot be told"):
        largest_rows(path, "tags.list.element.n")


def test_ordinary_lists_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("lists of short values are not measured")

    monkeypatch.setattr(parquet_bounds, "largest_rows", refuse)
    rows = [[f"tag {(n * 5 + k) % 1000}" for k in range(5)] for n in range(50_000)]
    path = written(tmp_path / "a.parquet", pa.array(rows))
    with (parquet := open_parquet(path)).file:
        assert read_columns(parquet, ["tags"])["tags"].to_pylist() == rows


def test_images_are_found_beside_a_list_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    images = [b"\x89PNG\r\n\x1a\n" + bytes(60)]
    pq.write_table(
        pa.table({"other": row(named(MANY, LONG.encode())), "image": images}),
        path,
        store_schema=False,
    )
    with (parquet := open_parquet(path)).file:
        assert ImageColumn.of(parquet).name == "image"
