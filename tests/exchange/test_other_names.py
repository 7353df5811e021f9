"""Columns that are called otherwise in `import`, and files that other programs read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.library import paint, run_cli

VECTORS = np.eye(3, 4, dtype=np.float32)


def table(path: Path) -> Path:
    columns = {
        "img_file": ["x/1.jpg", "x/2.jpg", "3.jpg"],
        "clip_vec": VECTORS.tolist(),
        "path": ["of", "something", "else"],
        "path_bytes": [None, None, "eA=="],
        "label": ["red", "green", "blue"],
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_of_other_names(tmp_path: Path) -> None:
    source, store = table(tmp_path / "v.parquet"), tmp_path / "s.es"
    command = ("import", source, "--model", "clip", "--root", tmp_path, "--store", store)
    done = run_cli(*command, "--path-column", "img_file", "--vector-column", "clip_vec")
    assert done.returncode == 0 and "3 added" in done.stdout, done.stderr
    with embedsearch.open_store(store) as searcher:
        found = {image.path: image.metadata for image in searcher.images(9).images}
        assert found == {
            "x/1.jpg": {"label": "red"},
            "x/2.jpg": {"label": "green"},
            "3.jpg": {"label": "blue"},
        }
        (hit,) = searcher.query(VECTORS[1], k=1)
        assert hit.path == "x/2.jpg" and hit.score == pytest.approx(1.0)


def test_a_column_of_a_csv_beside_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    rows = [["where", "path", "label"], *([f"{n}.jpg", "no", f"l{n}"] for n in range(3))]
    with (tmp_path / "p.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    import_vectors(
        *(tmp_path / "v.npy",),
        model="clip",
        paths=tmp_path / "p.csv",
        path_column="where",
        root=tmp_path,
        store=tmp_path / "s.es",
    )
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        found = {image.path: image.metadata for image in searcher.images(9).images}
    assert found == {f"{n}.jpg": {"label": f"l{n}"} for n in range(3)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no column vector or embedding with vectors; give vector_column=clip_vec; it has"),
        ({"vector_column": "clip"}, "vector_column: .* no column clip; did you mean clip_vec"),
        ({"vector_column": "zzz"}, r"no column zzz\. It has the columns img_file, clip_vec, path"),
        ({"vector_column": "label"}, "label is string, not a list of floats"),
        (
            {"vector_column": "clip_vec", "path_column": "img_fil"},
            "path_column: .* no column img_fil; did you mean img_file",
        ),
    ],
    ids=["none", "near", "far", "texts", "path"],
)
def test_what_is_not_there_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        import_vectors(table(tmp_path / "v.parquet"), model="m", store=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists() or not any((tmp_path / "s").glob("manifests/*"))


def test_columns_need_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "list.txt").write_text("a\nb\nc\n")
    store: dict[str, Any] = {"model": "m", "store": tmp_path / "s"}
    with pytest.raises(UsageError, match="path_column needs a CSV"):
        import_vectors(tmp_path / "v.npy", paths=tmp_path / "list.txt", path_column="path", **store)
    with pytest.raises(UsageError, match="vector_column needs Parquet"):
        import_vectors(tmp_path / "v.npy", paths=tmp_path / "list.txt", vector_column="v", **store)
    done = run_cli(
        *("import", tmp_path / "v.npy", "--model", "m", "--paths", tmp_path / "list.txt"),
        *("--path-column", "x", "--store", tmp_path / "s"),
    )
    assert done.returncode == 2 and "--path-column needs a CSV" in done.stderr


def read_by(program: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file as a program reads it, by its path alone."""
    if program == "duckdb":
        found = duckdb.sql(f"FROM '{path}'")
        assert found is not None
        listed: list[dict[str, Any]] = found.to_arrow_table().to_pylist()
        return listed
    other = pytest.importorskip(program, reason="needs the test extra")
    frame = other.read_parquet(str(path))
    rows: list[dict[str, Any]] = (
        frame.to_dicts() if program == "polars" else frame.to_dict("records")
    )
    return rows


@pytest.mark.parametrize("program", ["duckdb", "polars", "pandas"])
def test_other_programs_read_both_files_by_one_path(tmp_path: Path, program: str) -> None:
    for seed in range(3):
        paint(tmp_path / "photos" / "in" / f"{seed}.png", seed)
    (tmp_path / "own.csv").write_text("path,caption,price\nin/0.png,ä,1.5\nin/1.png,,2\n")
    store = tmp_path / "s.es"
    embedsearch.index(
        tmp_path / "photos", store=store, model="packaged", metadata=str(tmp_path / "own.csv")
    )
    report = embedsearch.export(store, tmp_path / "all.parquet")
    current = read_by(program, store / "images.parquet")
    whole = read_by(program, tmp_path / "all.parquet")
    assert [row["path"] for row in current] == [f"in/{n}.png" for n in range(3)]
    assert current[0]["caption"] == "ä" and current[1]["price"] == 2
    for row, exported in zip(current, whole, strict=True):
        assert Path(row["full_path"]).is_file() and len(row["sha256"]) == 64
        assert {"path_bytes", "full_path_bytes", "folder", "width", "format"} <= set(row)
        assert set(exported) == {*row, "vector"}
        assert np.linalg.norm(exported["vector"]) == pytest.approx(1.0, abs=1e-3)
        assert len(exported["vector"]) == report.dim
