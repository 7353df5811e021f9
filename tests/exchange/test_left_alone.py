"""What an export and an import leave alone: facts of images, other tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.exchange.export import export
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.store.check import check_store
from tests.support.library import paint
from tests.support.stores import unit_vectors


def test_an_image_keeps_its_facts_with_another_vector(
    store: Path, photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    def facts() -> dict[str, tuple[Any, ...]]:
        with embedsearch.open_store(store) as searcher:
            found = searcher.images(50).images
            return {
                r.path: (r.width, r.format, r.brightness, r.metadata.get("stars")) for r in found
            }

    (tmp_path / "t.csv").write_text("path,stars\na/01.png,5\n")
    embedsearch.index(photos, store=store, metadata=str(tmp_path / "t.csv"))
    before, vectors = facts(), unit_vectors(store)
    turned = {path: np.roll(vector, 1) for path, vector in reversed(vectors.items())}
    table = {"path": list(turned), "vector": [vector.tolist() for vector in turned.values()]}
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    (photos / "a" / "05.png").rename(tmp_path / "away.png")  # cannot be looked at now
    paint(photos / "a" / "07.png", 99)  # another picture by now
    report = import_vectors(tmp_path / "v.parquet", model="packaged", root=photos, store=store)
    assert (report.added, report.replaced, report.images) == (0, 11, 11)
    assert check_store(store, read_data=True)[1] == []
    now = unit_vectors(store)
    assert all(now[path] == pytest.approx(turned[path], abs=1e-3) for path in turned)
    unknown = {"a/07.png": (0, "", None, *before["a/07.png"][3:])}
    assert facts() == before | unknown
    (tmp_path / "away.png").rename(photos / "a" / "05.png")
    done = embedsearch.index(photos, store=store, extractor_factory=extractor)
    assert (done.unchanged, done.embedded) == (11, 0)


def test_no_other_table_is_replaced(store: Path, tmp_path: Path) -> None:
    captions = tmp_path / "products.csv"
    captions.write_text("path,caption\na/01.png,red\n")
    for suffix in ("npy", "faiss"):
        with pytest.raises(UsageError, match=r"products\.csv would be written, too"):
            export(store, tmp_path / f"products.{suffix}")
    assert captions.read_text().endswith("red\n") and not list(tmp_path.glob("products.[nf]*"))
    for where in (None, "path like 'b/%'"):  # what we wrote may be written again
        report = export(store, tmp_path / "out.npy", where=where)
    assert (tmp_path / "out.csv").read_text().count("\n") == report.rows + 1 == 7


def test_json_lines_are_json(store: Path, photos: Path, tmp_path: Path) -> None:
    table = pa.table({"path": ["a/01.png"], "x": [float("nan")], "y": [[1.0, float("inf")]]})
    embedsearch.index(photos, store=store, metadata=table)
    export(store, tmp_path / "out.jsonl", where="path = 'a/01.png'")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    row = json.loads((tmp_path / "out.jsonl").read_text(), parse_constant=refuse)
    assert (row["x"], row["y"], row["path"]) == (None, [1.0, None], "a/01.png")
