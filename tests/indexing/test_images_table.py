"""`images.parquet`: what other programs read of a store is always its current rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import StorageError
from embedsearch.indexing import images_table
from tests.support.library import Library, paint


def table_of(store: Path) -> dict[str, object]:
    rows = pq.read_table(store / "images.parquet").to_pylist()
    return {row["path"]: row.get("caption") for row in rows}


def current(store: Path) -> dict[str, object]:
    with embedsearch.open_store(store) as searcher:
        return {r.key: r.metadata.get("caption") for r in searcher.images(999).images}


def test_the_table_follows_every_change(library: Library, tmp_path: Path) -> None:
    photos, store = tmp_path / "photos", library.store
    for seed in range(5):
        paint(photos / f"{seed}.jpg", seed)
    (tmp_path / "labels.csv").write_text("path,caption\n1.jpg,one\n2.jpg,two\n")
    library.index(photos, metadata=str(tmp_path / "labels.csv"))
    assert table_of(store) == current(store) and table_of(store)["1.jpg"] == "one"
    names = pq.read_schema(store / "images.parquet").names
    assert {"row", "path", "path_bytes", "folder", "width", "taken_at", "caption"} <= set(names)
    assert "vector" not in names
    (photos / "0.jpg").unlink()
    (photos / "1.jpg").rename(photos / "moved.jpg")
    paint(photos / "2.jpg", 77)
    library.index()
    assert table_of(store) == current(store) and table_of(store)["moved.jpg"] == "one"
    assert len(table_of(store)) == 4
    (photos / "3.jpg").unlink()
    library.index()
    embedsearch.repair(store, to=embedsearch.generations(store)[-1].generation)
    assert table_of(store) == current(store)
    shutil.move(photos, tmp_path / "elsewhere")
    embedsearch.relocate(photos, tmp_path / "elsewhere", store)
    folders = pq.read_table(store / "images.parquet").column("folder").to_pylist()
    assert set(folders) == {str(tmp_path / "elsewhere")}
    assert embedsearch.check(store).problems == []


def test_a_table_that_is_lost_or_old_comes_back(library: Library, tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.jpg", 1)
    library.index(tmp_path / "photos")
    table = library.store / "images.parquet"
    for content in (None, b"half a table", table.read_bytes()[:100]):
        table.unlink()
        if content is not None:
            table.write_bytes(content)
        library.index()
        assert table_of(library.store) == {"a.jpg": None}


def test_without_room_there_is_no_table(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better none than one of a former generation."""
    paint(tmp_path / "photos" / "a.jpg", 1)
    library.index(tmp_path / "photos")

    def full(*_: object) -> None:
        raise StorageError("No space left on device")

    monkeypatch.setattr(images_table, "replace", full)
    paint(tmp_path / "photos" / "b.jpg", 2)
    assert library.index().images == 2
    assert not (library.store / "images.parquet").exists()
    monkeypatch.undo()
    library.index()
    assert sorted(table_of(library.store)) == ["a.jpg", "b.jpg"]


def test_a_column_of_any_type(library: Library, tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.jpg", 1)
    table = pa.table({"path": ["a.jpg"], "tags": [["x", "y"]], "place": [{"lat": 1.5}]})
    pq.write_table(table, tmp_path / "m.parquet")
    library.index(tmp_path / "photos", metadata=str(tmp_path / "m.parquet"))
    (row,) = pq.read_table(library.store / "images.parquet").to_pylist()
    assert (row["tags"], row["place"]) == (["x", "y"], {"lat": 1.5})
