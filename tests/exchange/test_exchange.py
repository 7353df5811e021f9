"""`export` and `import`: what leaves a store comes back the same, and others read it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch import Key
from embedsearch.core.errors import (
    IncompatibleStore,
    Interrupted,
    NothingIndexed,
    StorageError,
    UsageError,
)
from embedsearch.core.session import Session
from embedsearch.exchange.export import export
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from tests.support.library import paint, run_cli
from tests.support.oracle import DIM, unit
from tests.support.stores import rows_of, unit_vectors


def assert_holds(store: Path, paths: list[str], vectors: Any) -> None:
    wanted = unit_vectors(store)
    assert sorted(paths) == sorted(wanted) and len(paths) == 11
    for path, vector in zip(paths, np.asarray(vectors), strict=True):
        assert vector == pytest.approx(wanted[path], abs=1e-6)


def test_parquet(store: Path, tmp_path: Path) -> None:
    report = export(store, tmp_path / "out.parquet")
    assert (report.rows, report.dim) == (11, DIM)
    table = pq.read_table(tmp_path / "out.parquet")
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)
    column: Any = table.column("vector").combine_chunks()
    paths: list[Any] = table.column("path").to_pylist()
    assert_holds(store, paths, column.flatten().to_numpy().reshape(-1, DIM))
    assert set(table.column("width").to_pylist()) == {48}


def test_numpy_and_csv(store: Path, tmp_path: Path) -> None:
    report = export(store, tmp_path / "out.npy")
    assert report.files == [str(tmp_path / "out.npy"), str(tmp_path / "out.csv")]
    vectors = np.load(tmp_path / "out.npy", allow_pickle=False)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert vectors.dtype == np.float32
    assert_holds(store, [row["path"] for row in rows], vectors)


def test_json_lines(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert_holds(store, [row["path"] for row in rows], [row["vector"] for row in rows])
    assert rows[0]["format"] == "PNG" and rows[0]["gps"] is None


def test_faiss(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "out.faiss")
    index = faiss.read_index(str(tmp_path / "out.faiss"))
    with (tmp_path / "out.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    wanted = unit_vectors(store)
    _, found = index.search(np.stack([wanted[path] for path in paths]), 1)
    assert found[:, 0].tolist() == list(range(11))


def test_only_what_meets_a_condition(store: Path, tmp_path: Path) -> None:
    report = export(store, tmp_path / "out.npy", where="path like 'a/%'")
    assert report.rows == 5
    assert np.load(tmp_path / "out.npy").shape == (5, DIM)
    before = {path: path.read_bytes() for path in tmp_path.glob("out.*")}
    with pytest.raises(UsageError, match="no matching row"):
        export(store, tmp_path / "out.npy", where="width = 0")
    with pytest.raises(UsageError, match="does not end in"):
        export(store, tmp_path / "out.txt")
    with pytest.raises(StorageError):
        export(store, tmp_path / "nowhere" / "out.npy")
    assert {path: path.read_bytes() for path in tmp_path.glob("out.*")} == before
    assert not list(tmp_path.glob(".*")), "an unfinished file was left"


@pytest.mark.parametrize("suffix", ["parquet", "npy", "jsonl", "faiss"])
def test_an_interrupted_export_leaves_nothing(store: Path, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(Interrupted):
        export(store, tmp_path / f"out.{suffix}", session=Session(stop=lambda: 2))
    assert not list(tmp_path.glob(".*"))


def test_shards_are_read_by_others_as_they_are(store: Path) -> None:
    """DuckDB, Polars and Hugging Face datasets, straight from the store."""
    files = [str(store / shard.relative) for shard in read_current(store).shards]
    wanted = rows_of(store)
    paths = {key.decode() for key in wanted} | {"a/03.png"}  # deleted rows are listed apart
    rows = duckdb.sql(f"select path, width, vector::float[{DIM}] from read_parquet({files})")
    assert rows is not None
    found = {path: (width, vector) for path, width, vector in rows.fetchall()}
    assert set(found) == paths
    polars = pytest.importorskip("polars", reason="needs the test extra")
    frame = polars.read_parquet(files)
    assert set(frame["path"]) == paths and frame["vector"].dtype.size == DIM
    datasets = pytest.importorskip("datasets", reason="needs the test extra")
    other = datasets.Dataset.from_parquet(files, cache_dir=str(store.parent / "datasets"))
    assert set(other["path"]) == paths
    for path, vector in zip(other["path"], other["vector"], strict=True):
        if path != "a/03.png":
            stored = np.frombuffer(wanted[path.encode()], np.float16)
            assert np.array_equal(np.array(vector, np.float16), stored)
            assert np.array_equal(np.array(found[path][1], np.float16), stored)


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_what_was_exported_comes_back(
    store: Path, photos: Path, tmp_path: Path, suffix: str, extractor: Callable[..., Any]
) -> None:
    embedsearch.index(store=store, center="none")
    export(store, tmp_path / f"out.{suffix}")
    paths = tmp_path / "out.csv" if suffix == "npy" else None
    other = tmp_path / "other.es"
    report = import_vectors(
        tmp_path / f"out.{suffix}",
        model="packaged",
        paths=paths,
        root=photos,
        store=other,
        center="none",
    )
    assert (report.rows, report.added, report.replaced, report.images) == (11, 11, 0, 11)
    assert check_store(other, read_data=True)[1] == []
    with embedsearch.open_store(store) as one, embedsearch.open_store(other) as two:
        for seed in range(3):
            ours, theirs = one.query(unit(seed)), two.query(unit(seed))
            assert [hit.key for hit in theirs] == [hit.key for hit in ours]
            scores = [hit.score for hit in ours]
            assert [hit.score for hit in theirs] == pytest.approx(scores, abs=2e-3)
    again = import_vectors(
        tmp_path / f"out.{suffix}", model="packaged", paths=paths, root=photos, store=other
    )
    assert (again.added, again.replaced, again.images) == (0, 11, 11)
    done = embedsearch.index(photos, store=other, extractor_factory=extractor)
    assert (done.unchanged, done.embedded) == (11, 0), "imported rows of files there are kept"


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_other_columns_come_along(tmp_path: Path, form: str) -> None:
    """With their types; images, vectors and what is called like a column of ours stay out."""
    columns = {
        "path": ["a", "./b", "a"],
        "label": ["x", "y", "twice"],
        "stars": [1, None, 3],
        "width": [7, 7, 7],
    }
    source, paths, store = tmp_path / "t.parquet", None, tmp_path / "s.es"
    if form == "parquet":
        more = {"image": [{"bytes": b"x"}] * 3, "vector": np.eye(3, 4).tolist()}
        pq.write_table(pa.table({**columns, **more}), source)
    else:
        source, _ = npy(tmp_path, np.eye(3, 4), [])
        paths = tmp_path / "t.csv"
        pa_csv.write_csv(pa.table(columns), paths)
    for _ in range(2):
        import_vectors(source, model="m", paths=paths, root=tmp_path, store=store)
        with embedsearch.open_store(store) as searcher:
            hits = searcher.query(embedsearch.Key("b"), 2, where="label <> 'z'")
        assert [(hit.key, hit.metadata) for hit in hits] == [
            ("b", {"label": "y", "stars": None}),
            ("a", {"label": "x", "stars": 1}),
        ]
        assert check_store(store, read_data=True)[1] == []
    vectors, names = npy(tmp_path, np.eye(2, 4), ["a", "c"])
    import_vectors(vectors, model="m", paths=names, root=tmp_path, store=store)
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(embedsearch.Key("a"), 3, where="label = 'x'")
    assert [hit.key for hit in hits] == ["a"], "a new vector leaves the columns as they are"


def npy(folder: Path, vectors: Any, names: list[str]) -> tuple[Path, Path]:
    np.save(folder / "v.npy", np.asarray(vectors))
    (folder / "p.txt").write_text("".join(name + "\n" for name in names))
    return folder / "v.npy", folder / "p.txt"


def test_vectors_of_another_model_are_asked_by_key_and_vector(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 7)).astype(np.float64) * 3
    source, paths = npy(tmp_path, vectors, [f"x/{n}.jpg" for n in range(50)])
    store = tmp_path / "f.es"
    said: list[str] = []
    session = Session(notice=said.append)
    report = import_vectors(
        source, model="clip", paths=paths, root="/nowhere", store=store, session=session
    )
    assert said == ["there is no folder /nowhere: no thumbnails until there is"]
    assert (report.model, report.images) == ("clip", 50)
    with embedsearch.open_store(store) as searcher:
        query = (vectors[3] / np.linalg.norm(vectors[3])).astype(np.float32)
        hits = searcher.query(query, 3)
        assert hits[0].key == "x/3.jpg" and hits[0].full_path == "/nowhere/x/3.jpg"
        assert [h.key for h in searcher.query(Key("x/3.jpg"), 3)] == [h.key for h in hits]
        picture = paint(tmp_path / "q.png", 1)
        for image in (str(picture), picture.read_bytes(), np.zeros((9, 9, 3), np.uint8)):
            with pytest.raises(IncompatibleStore, match="made elsewhere, by clip"):
                searcher.query(image)
    with pytest.raises(IncompatibleStore, match="clip2"):
        import_vectors(source, model="clip2", paths=paths, root="/nowhere", store=store)
    paint(tmp_path / "photos" / "new.png", 1)
    with pytest.raises(IncompatibleStore, match="no network here"):
        embedsearch.index(tmp_path / "photos", store=store)
    assert read_current(store).live == 50


def test_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    vectors = np.ones((6, 4), np.float32)
    vectors[1] = 0
    vectors[2, 1] = np.nan
    vectors[3, 0] = np.inf
    source, paths = npy(tmp_path, vectors, ["a", "b", "c", "d", "a", "./e//f"])
    store = tmp_path / "s.es"
    report = import_vectors(source, model="m", paths=paths, root=tmp_path, store=store)
    assert (report.rows, report.added, report.failed, report.repeated) == (6, 2, 3, 1)
    assert sorted((f.key, f.reason.value) for _, f in failures(store)) == [
        ("b", "not_finite"),
        ("c", "not_finite"),
        ("d", "not_finite"),
    ]
    with embedsearch.open_store(store) as searcher:
        assert sorted(h.key for h in searcher.query(np.full(4, 0.5, np.float32))) == ["a", "e/f"]
    source, paths = npy(tmp_path, np.zeros((2, 4), np.float32), ["y", "z"])
    with pytest.raises(NothingIndexed):
        import_vectors(source, model="m", paths=paths, root=tmp_path, store=tmp_path / "t.es")


GOOD, NAMES = np.eye(3, 4, dtype=np.float32), ["a", "b", "c"]


@dataclass(frozen=True)
class Three:
    """A store of three imported vectors, which a wrong file must not change."""

    folder: Path
    store: Path

    def refuses(
        self,
        words: str,
        source: Path,
        paths: Path | None = None,
        *,
        by: type[Exception] | tuple[type[Exception], ...] = UsageError,
    ) -> None:
        before = read_current(self.store)
        with pytest.raises(by, match=words):
            import_vectors(source, model="m", paths=paths, root=self.folder, store=self.store)
        assert read_current(self.store) == before
        assert check_store(self.store, read_data=True)[1] == []


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Three:
    folder = tmp_path_factory.mktemp("three")
    source, paths = npy(folder, GOOD, NAMES)
    import_vectors(source, model="m", paths=paths, root=folder, store=folder / "s.es")
    return Three(folder, folder / "s.es")


def test_vectors_without_paths_or_file_change_nothing(three: Three) -> None:
    source, paths = npy(three.folder, GOOD, NAMES)
    three.refuses("needs paths=", source)
    three.refuses("no such file", three.folder / "none.npy", paths)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "fewer"),
        (["a", "b", "c", "d"], "more"),
        (["a", "b", "../c"], "below"),
        (["a", "b", "/etc/passwd"], "below"),
        (["a", "b", ""], "below"),
    ],
    ids=["two", "four", "outside", "absolute", "empty"],
)
def test_wrong_paths_change_nothing(three: Three, names: list[str], words: str) -> None:
    three.refuses(words, *npy(three.folder, GOOD, names))


@pytest.mark.parametrize(
    "array",
    [np.ones(4), np.ones((2, 2), int), np.ones((0, 4)), np.ones((2, 2, 2))],
    ids=["one dimension", "integers", "no rows", "three dimensions"],
)
def test_wrong_arrays_change_nothing(three: Three, array: npt.NDArray[Any]) -> None:
    three.refuses("not float", *npy(three.folder, array, NAMES))


@pytest.mark.parametrize("what", ["pickled objects", "garbage"])
def test_arrays_that_cannot_be_read_change_nothing(three: Three, what: str) -> None:
    source, paths = npy(three.folder, GOOD, NAMES)
    if what == "garbage":
        source.write_bytes(b"\x93NUMPY garbage")
    else:
        np.save(source, np.array([{"a": 1}]), allow_pickle=True)
    three.refuses("cannot be read", source, paths)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["a"], "x": [1]}, "no column vector or embedding"),
        ({"vector": [[1.0]]}, "needs a column path"),
        ({"path": ["a"], "vector": [1.0]}, "not a list of floats"),
        ({"path": ["a"], "vector": [["x"]]}, "not a list of floats"),
        ({"path": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}, "components"),
        ({"path": ["a", "b"], "vector": [[1.0, 2.0], None]}, "components"),
        ({"path": ["a", None], "vector": [[1.0] * 4] * 2, "n": [1, 2]}, "no path"),
    ],
    ids=["no vector", "no path", "numbers", "texts", "lengths", "a null", "a null path"],
)
def test_wrong_tables_change_nothing(
    three: Three, tmp_path: Path, columns: dict[str, list[Any]], words: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    by = (UsageError, IncompatibleStore)
    three.refuses(words + "|dim", tmp_path / "t.parquet", by=by)


@pytest.mark.parametrize("value", [None, []])
def test_a_column_without_a_vector_changes_nothing(
    three: Three, tmp_path: Path, value: Any
) -> None:
    kind = pa.list_(pa.float32())
    column = pa.array([value] * 2, kind)
    pq.write_table(pa.table({"path": ["a", "b"], "vector": column}), tmp_path / "t.parquet")
    three.refuses("vector holds no vector", tmp_path / "t.parquet")
    column = pa.array([value, [1.0, 2.0, 3.0, 4.0]], kind)
    pq.write_table(pa.table({"path": ["a", "b"], "vector": column}), tmp_path / "t.parquet")
    three.refuses(r"vectors of \[0, 4\] components among those of 4", tmp_path / "t.parquet")


def test_what_is_no_table_changes_nothing(three: Three, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    three.refuses("cannot be read as Parquet", tmp_path / "t.parquet")


def test_vectors_of_another_length_than_the_models(tmp_path: Path) -> None:
    source, paths = npy(tmp_path, GOOD, NAMES)
    with pytest.raises(UsageError, match="512 components"):
        import_vectors(
            source, model="packaged", paths=paths, root=tmp_path, store=tmp_path / "p.es"
        )


def test_the_command_line(store: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    done = run_cli("export", out, "--store", store, "--where", "path like 'b/%'")
    assert done.returncode == 0 and done.stdout.startswith("6 rows of 512 components in ")
    arguments = ["import", out, "--paths", tmp_path / "out.csv", "--model", "mine"]
    done = run_cli(*arguments, "--root", photos, "--store", tmp_path / "i.es", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["added"] == 6
    done = run_cli("info", "--store", tmp_path / "i.es")
    assert "mine, made elsewhere" in done.stdout
    done = run_cli("query", photos / "b" / "00.png", "--store", tmp_path / "i.es")
    assert done.returncode == 6 and "made elsewhere" in done.stderr
    done = run_cli("query", "--key", "b/00.png", "--store", tmp_path / "i.es", "-k", "2")
    assert done.returncode == 0 and "0 x 0" not in done.stdout
    shutil.rmtree(tmp_path / "i.es")
    done = run_cli("import", out, "--model", "mine", "--store", tmp_path / "i.es")
    assert done.returncode == 2 and "--paths" in done.stderr
    assert not (tmp_path / "i.es").exists()
