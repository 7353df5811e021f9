"""Columns of images in Parquet files, in every shape that people write."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import embedsearch
from tests.support.library import Library, paint

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(seed: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (seed * 40, 90, 200 - seed * 30)).save(data, "PNG")
    return data.getvalue()


DATA = [content(seed) for seed in range(3)]
STRUCTS: list[dict[str, Any]] = [{"bytes": d, "path": f"x/{n}.png"} for n, d in enumerate(DATA)]
MD5 = pa.array([hashlib.md5(data).digest() for data in DATA])
SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bytes": ({"image": pa.array(DATA)}, ["00000000", "00000001", "00000002"]),
    "large": ({"image": pa.array(DATA, pa.large_binary())}, ["00000000", "00000001", "00000002"]),
    "view": ({"image": pa.array(DATA, pa.binary_view())}, ["00000000", "00000001", "00000002"]),
    "struct": (
        {"image": pa.array(STRUCTS, IMAGE)},
        ["00000000/0.png", "00000001/1.png", "00000002/2.png"],
    ),
    "a digest first": (
        {"md5": MD5, "image": pa.array(STRUCTS, IMAGE), "n": pa.array([1, 2, 3])},
        ["00000000/0.png", "00000001/1.png", "00000002/2.png"],
    ),
    "list of structs": (
        {"images": pa.array([STRUCTS[:2], [], STRUCTS[2:]], pa.list_(IMAGE))},
        ["00000000/00000/0.png", "00000000/00001/1.png", "00000002/00000/2.png"],
    ),
    "list of bytes": (
        {"images": pa.array([DATA[:2], None, DATA[2:]], pa.list_(pa.binary()))},
        ["00000000/00000", "00000000/00001", "00000002/00000"],
    ),
    "dictionary": (
        {"image": pa.array(DATA[:2] * 2).dictionary_encode(), "n": pa.array(range(4))},
        ["00000000", "00000001", "00000002", "00000003"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_column(library: Library, tmp_path: Path, shape: str) -> None:
    columns, keys = SHAPES[shape]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)
    report = library.index(path, sidecars=True)
    assert (report.added, report.failed) == (len(keys), 0), library.reasons()
    assert library.index().unchanged == len(keys)
    with embedsearch.open_store(library.store) as searcher:
        images = searcher.images(9).images
        assert [image.key for image in images] == keys
        if "n" in columns:
            assert [image.metadata["n"] for image in images] == columns["n"].to_pylist()
        assert not {"image", "images", "md5"} & set(searcher.columns)
        assert Image.open(io.BytesIO(searcher.thumbnail(keys[-1], 64))).size == (40, 30)


def test_paths_beside_the_file_are_read(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    paint(folder / "in" / "a.jpg", 1)
    paint(tmp_path / "secret.jpg", 2)
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    paths = ["in/a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "gone.jpg", None]
    paths += ["https://example.org/a.jpg", "link.jpg"]
    column = pa.array([{"bytes": None, "path": path} for path in paths], IMAGE)
    pq.write_table(pa.table({"image": column}), folder / "a.parquet")
    report = library.index(folder / "a.parquet")
    assert (report.added, report.failed) == (1, 6)
    reasons = library.reasons()
    assert reasons["00000003/gone.jpg"] == "vanished"
    assert reasons["00000001/secret.jpg"] == reasons["00000002/secret.jpg"] == "empty"
    with embedsearch.open_store(library.store) as searcher:
        (image,) = searcher.images(9).images
        assert image.key == "00000000/a.jpg" and searcher.thumbnail(image.key, 64)


@pytest.mark.parametrize("kind", [pa.binary(), pa.null()], ids=str)
def test_rows_of_paths_only(library: Library, tmp_path: Path, kind: pa.DataType) -> None:
    """Whole paths, URLs and other letters are below the file; what is over a link says so."""
    folder = tmp_path / "data"
    names = ["in/a b.jpg", "c.jpg", unicodedata.normalize("NFD", "ö.jpg")]
    for number, name in enumerate(names):
        paint(folder / name, number)
    paint(tmp_path / "out" / "o.jpg", 5)
    (folder / "linked").symlink_to(tmp_path / "out")
    paths = [f"file://{folder}/in/a%20b.jpg", f"{folder}/c.jpg", "ö.jpg", "linked/o.jpg"]
    paths += [f"{folder}/../out/o.jpg", f"{folder}.jpg", "file://elsewhere/a.jpg"]
    cells = [{"bytes": None, "path": path} for path in paths]
    column = pa.array(cells, pa.struct([("bytes", kind), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "n": range(7)}), folder / "a.parquet")
    report = library.index(folder / "a.parquet", sidecars=True)
    assert (report.added, report.failed) == (3, 4), library.reasons()
    failures = embedsearch.failures(library.store)
    details = {failure.key: failure.detail for _, failure in failures}
    assert "a path over a link, which is not followed: linked" in details["00000003/o.jpg"]
    assert "not below" in details["00000004/o.jpg"] and "not below" in details["00000006/a.jpg"]
    with embedsearch.open_store(library.store) as searcher:
        images = searcher.images(9).images
        assert [image.metadata for image in images] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert all(searcher.thumbnail(image.key, 64) for image in images)


def test_no_column_of_images(library: Library, tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": pa.array(["a"])}), tmp_path / "a.parquet")
    with pytest.raises(embedsearch.NothingIndexed, match=r"no column holds image files.*label"):
        library.index(tmp_path / "a.parquet")


def test_other_columns_may_hold_millions_of_values(library: Library, tmp_path: Path) -> None:
    """Masks pack well, and are no bomb."""
    masks = pa.array([[0] * 40_000] * 120, pa.list_(pa.uint8()))
    pictures = [content(seed % 4) for seed in range(120)]
    pq.write_table(pa.table({"image": pictures, "mask": masks}), tmp_path / "p.parquet")
    report = library.index(tmp_path / "p.parquet")
    assert (report.added, report.failed) == (120, 0)
    labels = pa.array([[0] * 80] * 60_000, pa.list_(pa.int64()))
    names = pa.array([f"{number}.png" for number in range(60_000)])
    pq.write_table(pa.table({"name": names, "labels": labels}), tmp_path / "m.parquet")
    found = embedsearch.index(store=library.store, metadata=str(tmp_path / "m.parquet"))
    assert found.metadata is not None and found.metadata.rows == 60_000
