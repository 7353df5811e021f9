"""How many rows of a Parquet file are read at once: as many as memory bears, whatever it states."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedsearch.core import bounds
from embedsearch.images.sources.image_column import ImageColumn
from embedsearch.images.tables.parquet_bounds import open_parquet, read_columns

MOST, MB = 65_536, 1 << 20
TEXTS = [f"a caption of ten words, the number of which is {n}" for n in range(60_000)]
LONG = "a" * 900_000


def rows(path: Path, values: Any, name: str = "caption", **options: Any) -> int:
    """Write a column, and return how many of its rows are read at once."""
    pq.write_table(pa.table({"caption": values}), path / "a.parquet", **options)
    with (parquet := open_parquet(path / "a.parquet")).file:
        return parquet.rows_at_once([name], MOST)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_short_texts_are_read_many_at_once(codec: str, version: str, tmp_path: Path) -> None:
    options = {"compression": codec, "data_page_version": version}
    assert rows(tmp_path, TEXTS, **options) == MOST, "a dictionary, then plain pages"
    assert rows(tmp_path, TEXTS, dictionary_pagesize_limit=64 * MB, **options) == MOST
    assert rows(tmp_path, TEXTS, use_dictionary=False, **options) == MOST
    one = [*TEXTS[1:], LONG]
    longest = bounds.READ_BYTES // len(LONG)
    assert rows(tmp_path, one, dictionary_pagesize_limit=64 * MB, **options) == longest
    groups = rows(tmp_path, [LONG, *TEXTS[1:]], row_group_size=10_000, **options)
    assert groups == longest


@pytest.mark.parametrize(
    "values",
    [
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.binary()),
        pa.array([None, *TEXTS, None]),
        pa.array([{"text": text, "number": 1} for text in TEXTS]),
        pa.array([Decimal(number) for number in range(150_000)], pa.decimal128(38, 2)),
    ],
    ids=["dictionary", "large", "bytes", "nulls", "struct", "decimals"],
)
def test_columns_of_short_values_of_any_type(values: Any, tmp_path: Path) -> None:
    assert rows(tmp_path, values) == MOST


def test_what_may_repeat_in_a_row_keeps_the_bound_of_its_page(tmp_path: Path) -> None:
    tags = pa.array([[text] for text in TEXTS])
    assert rows(tmp_path, tags) <= 33, "a dictionary of 1 MB"
    prefixes: dict[str, Any] = {
        "use_dictionary": False,
        "column_encoding": {"caption": "DELTA_BYTE_ARRAY"},
    }
    assert rows(tmp_path, [LONG + text for text in TEXTS[:100]], **prefixes) <= 37
    assert rows(tmp_path, TEXTS, **prefixes) < MOST


def test_long_plain_values_are_read_few_at_once(tmp_path: Path) -> None:
    options: dict[str, Any] = {"compression": "zstd", "write_batch_size": 1}
    assert rows(tmp_path, [LONG] * 50, use_dictionary=False, **options) == bounds.READ_BYTES // (
        len(LONG) + 4
    )
    short_first = [str(number) for number in range(2000)] + [LONG + str(n) for n in range(50)]
    assert rows(
        tmp_path, short_first, dictionary_pagesize_limit=2000, **options
    ) <= bounds.READ_BYTES // len(LONG)


def test_a_dictionary_that_is_broken_or_too_long_to_look_at_counts_as_one_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"caption": TEXTS}), path, compression="none", write_statistics=False)
    content = path.read_bytes()
    at = content.index(TEXTS[500].encode()) - 4
    path.write_bytes(content[:at] + b"\xff\xff\xff\x7f" + content[at + 4 :])
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["caption"], MOST) <= 33
    path.write_bytes(content)
    with (parquet := open_parquet(path)).file:
        monkeypatch.setattr(bounds, "VALUES_FLOOR", 1000)
        monkeypatch.setattr(bounds, "VALUE_BYTES", 1 << 40)
        assert parquet.rows_at_once(["caption"], MOST) <= 33
        monkeypatch.setattr(bounds, "VALUES_FLOOR", 60_000)
        assert parquet.rows_at_once(["caption"], MOST) == MOST


def test_a_chunk_is_that_of_its_place_whatever_it_calls_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"caption": [LONG] * 1000})
    pq.write_table(table, path, store_schema=False, write_statistics=False)
    head, name, metadata = path.read_bytes().partition(b"caption")
    path.write_bytes(head + name + metadata.replace(b"caption", b"another"))
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["caption"], MOST) == bounds.READ_BYTES // len(LONG)


def test_paths_are_read_many_at_once_beside_long_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    images = [{"bytes": LONG.encode(), "path": f"{number}.jpg"} for number in range(40)]
    pq.write_table(pa.table({"image": images}), path)
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["image"], MOST) == bounds.READ_BYTES // (len(LONG) + 6)
        assert parquet.rows_at_once(["image.path"], MOST) == MOST
        column = ImageColumn.of(parquet)
        assert [len(names) for names in column.names(parquet)] == [1] * 40


def test_a_table_is_the_same_however_many_rows_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([None, *TEXTS, LONG])
    pq.write_table(pa.table({"caption": texts, "n": range(len(texts))}), path, row_group_size=7000)
    with (parquet := open_parquet(path)).file:
        assert parquet.rows_at_once(["caption"], MOST) < 50
        assert read_columns(parquet, ["caption"])["caption"].to_pylist() == texts.to_pylist()
