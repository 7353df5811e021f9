"""`index --metadata`: columns of the user's, joined to rows, kept while vectors come and go."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch import Key
from embedsearch.core.errors import DamagedStore, UsageError
from embedsearch.exchange.export import export
from embedsearch.indexing.repair import repair
from embedsearch.indexing.report import MetadataReport
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.info import info
from tests.support.extractor import CountingExtractor
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.oracle import unit
from tests.support.stores import said


@pytest.fixture
def sync(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> Callable[..., MetadataReport | None]:
    """Bring the store `s.es` into step with the photos."""

    def run(**options: Any) -> MetadataReport | None:
        return embedsearch.index(
            photos, store=tmp_path / "s.es", extractor_factory=extractor, **options
        ).metadata

    run(model="packaged")
    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.es"


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


ROWS = [
    {"path": "a/01.png", "caption": 'a cat,\n"Tom"', "stars": 5, "good": True},
    {"path": "b/02.png", "caption": "größe", "stars": 3, "good": False},
    {"path": "b/99.png", "caption": "nobody", "stars": 1, "good": True},
]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_form_keeps_its_types(
    sync: Callable[..., Any], store: Path, tmp_path: Path, form: str
) -> None:
    source = tmp_path / f"t.{form}"
    arrow = pa.Table.from_pylist(ROWS)
    if form == "parquet":
        pq.write_table(arrow, source)
    elif form == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        from pyarrow import csv

        csv.write_csv(arrow, source)
    embedded = CountingExtractor.embedded
    report = sync(metadata=str(source))
    assert CountingExtractor.embedded == embedded, "nothing is embedded again"
    assert (report.rows, report.matched, report.unmatched, report.images) == (3, 2, 1, 2)
    assert report.unmatched_names == ["b/99.png"]
    assert said(store, "a/01.png") == {k: v for k, v in ROWS[0].items() if k != "path"}
    assert said(store, "b/02.png")["caption"] == "größe"
    assert said(store, "a/03.png") == {}
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(unit(0), 20, where="stars >= 3 and good")
        assert [hit.key for hit in hits] == ["a/01.png"]
        assert len(searcher.query(unit(0), 20, where="caption is null")) == 10
        with pytest.raises(UsageError, match=r"columns: .*caption.*stars"):
            searcher.query(unit(0), where="star > 1")
    assert check_store(store, read_data=True)[1] == []


def test_by_name_by_whole_path_and_taken_names(
    sync: Callable[..., Any], store: Path, photos: Path, tmp_path: Path
) -> None:
    paint(photos / "c" / "01.png", 77)
    report = sync(metadata=table(tmp_path, "name,Width,when\n01.png,7,2024-05-06\n"))
    assert (report.matched, report.images) == (1, 2)
    day = datetime.date(2024, 5, 6)
    assert said(store, "a/01.png") == {"user_Width": 7, "when": day} == said(store, "c/01.png")
    sync(metadata=table(tmp_path, f"path,tag\n{photos}/c/01.png,x\n"))
    assert said(store, "c/01.png") == {"user_Width": 7, "when": day, "tag": "x"}
    assert said(store, "a/01.png") == {"user_Width": 7, "when": day, "tag": None}
    report = sync(metadata=table(tmp_path, "name,n\n007,1\n"))
    assert report.unmatched_names == ["007"], "a name of digits stays one"


def test_a_later_table_changes_what_it_names(
    sync: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    sync(metadata=table(tmp_path, "path,n,kept\na/01.png,1,yes\nb/02.png,2,yes\n"))
    before = read_current(store)
    sync()
    assert read_current(store) == before, "a run without a table changes nothing"
    sync(metadata=table(tmp_path, "path,n\na/01.png,1.5\na/03.png,\n"))
    assert said(store, "a/01.png") == {"n": 1.5, "kept": "yes"}
    assert said(store, "b/02.png") == {"n": 2.0, "kept": "yes"}
    assert said(store, "a/03.png") == {"n": None, "kept": None}
    before = read_current(store)
    words = r"column n is string here \('many' for a/01\.png\) and double in the store"
    with pytest.raises(UsageError, match=words):
        sync(metadata=table(tmp_path, "path,N\na/03.png,7\na/01.png,many\n"))
    assert read_current(store) == before


def test_metadata_stays_with_its_image(
    sync: Callable[..., Any], store: Path, photos: Path, tmp_path: Path
) -> None:
    """Moved, touched, changed, deleted, embedded anew: rows get other numbers."""
    text = "path,n\n" + "".join(f"{'ba'[n % 2]}/{n:02d}.png,{n}\n" for n in range(12))
    sync(metadata=table(tmp_path, text))
    (photos / "a" / "01.png").rename(photos / "b" / "moved.png")
    paint(photos / "b" / "02.png", 500)
    (photos / "a" / "03.png").unlink()
    data = (photos / "b" / "04.png").read_bytes()
    (photos / "b" / "04.png").write_bytes(data)
    for options in ({}, {}, {"rebuild": True, "model": "packaged"}):
        sync(**options)
        for key, n in (("b/moved.png", 1), ("b/02.png", 2), ("b/04.png", 4), ("a/05.png", 5)):
            assert said(store, key) == {"n": n}, (options, key)
        assert check_store(store, read_data=True)[1] == []
    report = sync(metadata=table(tmp_path, "path,m\na/05.png,1\n"))
    assert report.images == 11, "what was said of a deleted image is gone"
    paint(photos / "a" / "03.png", 3)
    sync()
    assert said(store, "a/03.png") == {}
    (photos / "a" / "05.png").unlink()
    sync()
    paint(photos / "a" / "05.png", 5)
    sync()
    sync(rebuild=True, model="packaged")
    assert said(store, "a/05.png") == {}, "that was another image, and it is gone"


def test_wrong_tables_change_nothing(
    sync: Callable[..., Any], store: Path, photos: Path, tmp_path: Path
) -> None:
    before = read_current(store)
    paint(photos / "new.png", 5)
    for text, words in (
        ("path,n\na/01.png,1\nb/02.png,2\na/01.png,3\n", "rows 1 and 3 both have the path"),
        ("picture,n\na/01.png,1\n", "needs a column path or name"),
        ("path,n\n,1\n", "row 1 has no path"),
        ("path,n,N\na/01.png,1,2\n", "upper and lower case"),
        ("path,n,n\na/01.png,1,2\n", "a column twice: n"),
        ("path,n\na/01.png,1,2\n", "cannot be read"),
        ("", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words):
            sync(metadata=table(tmp_path, text))
    for name in ("none.csv", "t.xlsx", "t.parquet", "t.jsonl"):
        if name != "none.csv":
            (tmp_path / name).write_bytes(b"\x00\xffgarbage")
        with pytest.raises(UsageError, match="metadata"):
            sync(metadata=str(tmp_path / name))
    assert read_current(store) == before, "the table is read before anything is done"


def test_sidecars(sync: Callable[..., Any], store: Path, photos: Path) -> None:
    """What lies beside an image, with types; what cannot be read costs only itself."""
    (photos / "a" / "01.png.json").write_text('{"stars": 5, "tags": ["x", "y"], "Exif": {"n": 1}}')
    (photos / "a" / "01.txt").write_text("\ufeffa cat\n")
    (photos / "b" / "02.json").write_text('{"stars": 3, "Tags": [], "row": 9, "odd": 1, "e": {}}')
    (photos / "b" / "02.png.txt").write_text("größe")
    (photos / "a" / "03.json").write_text('{"caption": "by json", "odd": "text", "vector": [1]}')
    (photos / "a" / "03.txt").write_text("by text")
    embedded = CountingExtractor.embedded
    report = sync(sidecars=True)
    assert CountingExtractor.embedded == embedded, "nothing is embedded again"
    assert (report.source, report.matched, report.images, report.unreadable) == (
        "sidecars",
        3,
        3,
        0,
    )
    nothing = {"stars": None, "tags": None, "Exif": None, "user_row": None, "odd": None, "e": None}
    first = {"stars": 5, "tags": ["x", "y"], "Exif": {"n": 1}, "caption": "a cat"}
    assert said(store, "a/01.png") == {**nothing, **first}
    second = {"stars": 3, "tags": [], "user_row": 9, "odd": "1", "e": "{}", "caption": "größe"}
    assert said(store, "b/02.png") == {**nothing, **second}
    assert said(store, "a/03.png") == {**nothing, "caption": "by json", "odd": '"text"'}
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(unit(0), 20, where="list_contains(tags, 'x') and exif.n = 1")
        assert [hit.key for hit in hits] == ["a/01.png"]
    before = read_current(store)
    (photos / "a" / "01.txt").unlink()
    sync(sidecars=True)
    assert said(store, "a/01.png")["caption"] is None, "a file counts as a whole"
    assert read_current(store).shards == before.shards
    assert check_store(store, read_data=True)[1] == []


def test_sidecars_that_cannot_be_read(
    sync: Callable[..., Any], store: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("not of the photos")
    (photos / "a" / "01.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(photos / "a" / "01.json")
    (photos / "a" / "03.json").write_text("[" * 100_000)
    (photos / "a" / "05.json").write_text("[1]")
    (photos / "a" / "07.txt").write_bytes(b"\xff\xfe")
    (photos / "a" / "09.txt").write_bytes(b"x" * (1 << 20) + b"x")
    (photos / "b" / "00.json").mkdir()
    (photos / "b" / "02.json").write_text('{"n": 123456789012345678901234567890}')
    (photos / "b" / "04.txt").write_text("  \n")
    report = sync(sidecars=True, follow_links=False)
    assert (report.matched, report.images, report.unreadable) == (1, 1, 7)
    names = " ".join(report.unreadable_names)
    for name in (
        "a/01.txt",
        "a/01.json",
        "a/03.json",
        "a/05.json (not a JSON object)",
        "b/00.json",
    ):
        assert name in names
    assert said(store, "b/02.png") == {"n": "123456789012345678901234567890"}
    assert info(store).to_dict()["columns"] == {"n": "string"}
    done = run_cli("index", photos, "--store", store, "--sidecars")
    assert "nothing new" not in done.stdout and "committed generation" in done.stdout
    assert "nothing new" in run_cli("index", photos, "--store", store).stdout
    assert "1 images have sidecars" in done.stdout and "7 sidecars cannot be read: " in done.stdout
    fields = json.dumps({f"f{number}": 1 for number in range(1001)})
    (photos / "a" / "05.json").write_text(fields)
    done = run_cli("index", photos, "--store", store, "--sidecars")
    assert done.returncode == 0 and "committed generation" in done.stdout
    assert said(store, "b/02.png") == {"n": "123456789012345678901234567890"}, "the others stay"
    done = run_cli("index", photos, "--store", store, "--sidecars", "--metadata", "x.csv")
    assert done.returncode == 2 and "exclude each other" in done.stderr


def test_many_rows_that_name_nothing(sync: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    lines = "".join(f"x/{n}.png,{n}\n" for n in range(200_000))
    report = sync(metadata=table(tmp_path, f"path,n\na/01.png,7\n{lines}"))
    assert (report.matched, report.unmatched, report.images) == (1, 200_000, 1)
    assert len(report.unmatched_names) == 20
    assert said(store, "a/01.png") == {"n": 7}


def test_a_damaged_table_is_an_error(sync: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    sync(metadata=table(tmp_path, "path,n\na/01.png,1\n"))
    record = read_current(store).metadata
    assert record is not None
    path = store / record.relative
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(DamagedStore, match=record.name):
        embedsearch.open_store(store)
    assert [problem.file for problem in check_store(store, read_data=True)[1]] == [record.relative]
    assert repair(store) == [
        "your own columns are lost: index with your table again to bring them back"
    ]
    assert check_store(store, read_data=True)[1] == []
    sync(metadata=table(tmp_path, "path,n\na/01.png,2\n"))
    assert said(store, "a/01.png") == {"n": 2}


def test_exports_and_hits_carry_it(sync: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    sync(metadata=table(tmp_path, "path,caption\na/01.png,a cat\n"))
    export(store, tmp_path / "out.parquet")
    exported = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row["path"]: row["caption"] for row in exported}["a/01.png"] == "a cat"
    with embedsearch.open_store(store) as searcher:
        hit = searcher.query(Key("a/01.png"), 1)[0]
    assert hit.to_dict()["metadata"] == {"caption": "a cat"}


def test_the_command_line(tmp_path: Path) -> None:
    text = 'path,caption\nclocks/clocks_1.jpg,"an old clock, brass"\nclocks/none.jpg,?\n'
    source = table(tmp_path, text)
    store = tmp_path / "s.es"
    arguments = ["index", SAMPLES, "--store", store, "--model", "packaged", "--metadata", source]
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"1 of 2 rows of {source} name images; 1 images have metadata" in done.stdout
    assert "1 rows name no image: clocks/none.jpg" in done.stdout
    query = ["query", "--key", "clocks/clocks_1.jpg", "--store", store, "-k", "1", "--json"]
    answer = json.loads(run_cli(*query, "--where", "caption like '%brass%'").stdout)
    assert answer["metadata"] == {"caption": "an old clock, brass"}
    report = json.loads(run_cli(*arguments, "--json").stdout)
    assert report["metadata"]["matched"] == 1 and report["unchanged"] == 54


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_columns_come_from_a_dataframe(library: str, sync: Callable[..., Any], store: Path) -> None:
    made = pytest.importorskip(library, reason="needs the test extra")
    columns: dict[str, Any] = {
        "path": ["a/01.png", "b/02.png"],
        "stars": [5, 3],
        "tag": ["x", None],
    }
    frame = made.table(columns) if library == "pyarrow" else made.DataFrame(columns)
    report = sync(metadata=frame)
    assert (report.rows, report.matched, report.unmatched) == (2, 2, 0)
    assert said(store, "a/01.png") == {"stars": 5, "tag": "x"}
    assert said(store, "b/02.png") == {"stars": 3, "tag": None}
    frame = made.table({"stars": [1]}) if library == "pyarrow" else made.DataFrame({"stars": [1]})
    with pytest.raises(UsageError, match=r"the (DataFrame|Table) needs a column path.*has stars"):
        sync(metadata=frame)
    with pytest.raises(UsageError, match="metadata must be text, not"):
        sync(metadata={"path": ["a/01.png"]})


def test_a_guessed_encoding_is_said(
    sync: Callable[..., Any], store: Path, tmp_path: Path, photos: Path
) -> None:
    (tmp_path / "t.csv").write_bytes("path;caption\na/01.png;Café\n".encode("cp1252"))
    done = run_cli("index", photos, "--store", store, "--metadata", tmp_path / "t.csv")
    assert done.returncode == 0, done.stderr
    assert "is not UTF-8 and was read as Windows-1252; if letters look wrong" in done.stderr
    assert said(store, "a/01.png") == {"caption": "Café"}
