"""Tables as spreadsheets, Hugging Face and scripts write them: separators, encodings, names."""

from __future__ import annotations

import datetime
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
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.images.tables import csv_table, json_table, text_file
from embedsearch.images.tables.table import UserTable, read_user_table
from embedsearch.learning.labels import read_rows
from tests.support.stores import said

TEXT = 'path;caption;number\r\ngröße.jpg;Größe, x;007\r\na.jpg;"a;b";008\r\n'


def read(folder: Path, content: str | bytes, name: str = "t.csv") -> UserTable:
    source = folder / name
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_user_table(source, frozenset())


def values(table: UserTable) -> dict[str, dict[str, Any]]:
    return dict(zip(table.names, table.columns.to_pylist(), strict=True))


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        b"sep=;\r\n" + TEXT.encode(),
        ("\ufeffsep=;\r\n" + TEXT).encode(),
        TEXT.replace(";", "\t").replace("a\tb", "a;b").encode(),
        TEXT.replace(";", "|").replace("a|b", "a;b").encode(),
        TEXT.replace("Größe, x", '"Größe, x"').replace(";", ",").replace("a,b", "a;b").encode(),
        TEXT.replace("\r\n", "\r").encode(),
        (TEXT + ";;\r\n\r\n;;\r\n").encode(),
        TEXT.replace("number", "number;;").replace("7", "7;;").replace("8", "8;;").encode(),
    ],
)
def test_the_dialects_of_csv(tmp_path: Path, content: bytes) -> None:
    assert values(read(tmp_path, content)) == {
        "größe.jpg": {"caption": "Größe, x", "number": "007"},
        "a.jpg": {"caption": "a;b", "number": "008"},
    }


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    table = read(tmp_path, ",path,n,\n0,a.jpg,1,\n1,b.jpg,2,\n")
    assert values(table) == {"a.jpg": {"n": 1}, "b.jpg": {"n": 2}}, "the index of pandas"


def test_types_are_those_of_the_whole_column(tmp_path: Path) -> None:
    """What digits say stays: zeros in front, identifiers beyond 64 bits, decimal commas."""
    columns = {
        "whole": ["1", "-2", ""],
        "real": ["1.5", "NaN", "2"],
        "zip": ["01234", "90210", "10115"],
        "id": ["12345678901234567890123", "1", "2"],
        "comma": ["1,5", "2,5", "3"],
        "yes": ["true", "False", ""],
        "day": ["2024-05-06", "", "2024-05-07"],
        "time": ["08:30", "08:30:10", ""],
        "when": ["2024-05-06T01:02:03", "", ""],
        "zone": ["2024-05-06T01:02:03Z", "", ""],
        "hash": ["12e456", "1", "2"],
        "short": ["1e5", "2", "3E7"],
        "hex": ["0x0A", "0x0b", ""],
        "grouped": ["1_000", "2", "3"],
        "power": ["1e-05", "1e+16", "1.5e3"],
        "long": ["12345678901234567", "1.5", ""],
        "zero": ["0", "0.5", "-0.5"],
        "empty": ["", "NA", ""],
        "mixed": ["1", "x", ""],
        "year0": ["0000-01-01", "2024-05-06", ""],
    }
    lines = [";".join(["path", *columns])]
    lines += [";".join([f"{n}.jpg", *(cell[n] for cell in columns.values())]) for n in range(3)]
    table = read(tmp_path, "\n".join(lines)).columns
    found = {
        name: (str(table.schema.field(name).type), table[name].to_pylist()) for name in columns
    }
    moment = datetime.datetime(2024, 5, 6, 1, 2, 3)

    def texts(name: str) -> tuple[str, list[str | None]]:
        return "string", [cell or None for cell in columns[name]]

    assert found == {
        "whole": ("int64", [1, -2, None]),
        "real": ("double", [1.5, None, 2.0]),
        "zip": texts("zip"),
        "id": texts("id"),
        "comma": texts("comma"),
        "yes": ("bool", [True, False, None]),
        "day": ("date32[day]", [datetime.date(2024, 5, 6), None, datetime.date(2024, 5, 7)]),
        "time": ("time64[us]", [datetime.time(8, 30), datetime.time(8, 30, 10), None]),
        "when": ("timestamp[us]", [moment, None, None]),
        "zone": ("timestamp[us, tz=UTC]", [moment.replace(tzinfo=datetime.UTC), None, None]),
        "hash": texts("hash"),
        "short": texts("short"),
        "hex": texts("hex"),
        "grouped": texts("grouped"),
        "power": ("double", [1e-05, 1e16, 1500.0]),
        "long": texts("long"),
        "zero": ("double", [0.0, 0.5, -0.5]),
        "empty": ("null", [None, None, None]),
        "mixed": texts("mixed"),
        "year0": texts("year0"),
    }


def test_an_empty_cell_is_null_whatever_the_others_hold(tmp_path: Path) -> None:
    for others in ("x", "007", "1.5", ""):
        table = read(tmp_path, f"path;T\na.jpg;{others}\nb.jpg;\n")
        assert table.columns["T"].to_pylist()[1] is None, others


def test_a_type_does_not_depend_on_the_first_rows(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,{n},{'x' * 100}\n" for n in range(20_000))
    table = read(tmp_path, f"path,n,t\n{rows}last.jpg,many,\n")
    assert table.columns["n"][0].as_py() == "0" and table.columns["n"][20_000].as_py() == "many"


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.json"])
def test_long_lines(tmp_path: Path, name: str) -> None:
    """Rows are read in blocks, and a row may be longer than any of a library's."""
    lengths = [10, 2_500_000, 300_001, 999_999, 3_000_000]
    rows = [{"path": f"{n}.jpg", "ocr": "x" * length} for n, length in enumerate(lengths)]
    if name == "t.csv":
        text = "path,ocr\n" + "".join(f"{row['path']},{row['ocr']}\n" for row in rows)
    elif name == "t.jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = json.dumps(rows)
    assert [len(row["ocr"]) for row in values(read(tmp_path, text, name)).values()] == lengths
    if name == "t.csv":
        labels = read_rows(tmp_path / name, ["path", "ocr"])
        assert [len(row["ocr"]) for _, row in labels] == lengths


def test_what_a_row_may_take_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (csv_table, json_table, text_file):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 2 << 20)
    monkeypatch.setattr(json_table, "MAX_DOCUMENT_BYTES", 3 << 20)
    for text, name, words in (
        ("path,n\na.jpg," + "x" * (2 << 20), "t.csv", "line 2: a row is longer than 2 MB"),
        ('path,n\na.jpg,"' + "x\n" * (1 << 20), "t.csv", "a row is longer than 2 MB; is a quote"),
        ("path" + "," * (2 << 20), "t.csv", "line 1: a row is longer than 2 MB"),
        ('{"path":"a"}\n{"path": "' + "x" * (4 << 20), "t.jsonl", "line 2 is longer than 2 MB"),
        (
            '[{"path":"a"},\n' + " " * (4 << 20) + "]",
            "t.json",
            "3 MB has to be one object a line",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            read(tmp_path, text, name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        # Damaged UTF-8, another script, and bytes that Windows-1252 does not have.
        (
            "path;t\na.jpg;Größe ".encode() + b"\xf6\n",
            r"line 2, t is not UTF-8.*0xf6.*iconv -f WIN",
        ),
        ("path,t\nмир.jpg,привет мир\n".encode("cp1251"), "line 2, path is not UTF-8.*CSV UTF-8"),
        ("path;東京\na.jpg;1\n".encode("shift_jis"), "line 1, the header is not UTF-8"),
        ("path,t\na.jpg,1\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"path,t\na.jpg,1,2\n", "line 2 has 3 values, and the header 2: .* holds , into quotes"),
        (b'path,t\na.jpg,"x\nb.jpg,y\n', "a quote that opens a value is not closed"),
        (b"", "it is empty"),
        (b"path;path \na.jpg;b.jpg\n", "a column twice"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said_in_our_words(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, content)


HERE = {"a.jpg": {"n": 1, "t": "x"}, "b.jpg": {"n": 2, "t": None}}
ROWS = [{"path": "a.jpg", "n": 1, "t": "x"}, {"path": "b.jpg", "n": 2}]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson"])
@pytest.mark.parametrize(
    "text",
    [
        "".join(json.dumps(row) + "\n" for row in ROWS),
        json.dumps(ROWS),
        "\n  " + json.dumps(ROWS, indent=2),
        json.dumps({"a.jpg": {"n": 1, "t": "x"}, "b.jpg": {"n": 2}}),
        json.dumps({"a.jpg": {"n": 1, "t": "x"}, "b.jpg": {"n": 2}}, indent=1),
        json.dumps({"1": ROWS[0], "2": ROWS[1]}),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "\ufeff" + json.dumps(ROWS),
    ],
)
def test_the_forms_of_json(tmp_path: Path, name: str, text: str) -> None:
    assert values(read(tmp_path, text, name)) == HERE


def test_json_in_utf_16_and_of_many_kinds(tmp_path: Path) -> None:
    assert values(read(tmp_path, json.dumps(ROWS).encode("utf-16"), "t.json")) == HERE
    one = json.dumps({"path": "a.jpg", "n": 1}, indent=1)
    assert values(read(tmp_path, one, "t.json")) == {"a.jpg": {"n": 1}}
    mixed = '{"path":"a.jpg","n":1}\n{"path":"b.jpg","n":"x"}\n'
    assert values(read(tmp_path, mixed, "t.jsonl")) == {"a.jpg": {"n": "1"}, "b.jpg": {"n": '"x"'}}
    names = json.dumps({"x/a.jpg": {"name": "Tom"}})
    table = read(tmp_path, names, "t.json")
    assert (table.by, values(table)) == ("path", {"x/a.jpg": {"name": "Tom"}})
    assert read(tmp_path, json.dumps({"a.jpg": {"image": "x"}}), "t.json").names == ["a.jpg"]


@pytest.mark.parametrize("form", ["lines", "array", "indented", "large"])
def test_json_keeps_all_digits(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    long = 12345678901234567890
    rows: list[dict[str, Any]] = [
        {"path": "a", "id": long, "in": {"id": long}, "l": [1, long], "f": 1e20, "m": 2**53 + 1},
        {"path": "b", "id": 1, "in": {"id": 2}, "l": [], "f": 1, "m": 1.5},
        {"path": "c", "id": None, "in": None, "l": None, "f": None, "m": None},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if form == "large":
        monkeypatch.setattr(json_table, "MAX_DOCUMENT_BYTES", 10)
    elif form != "lines":
        text = json.dumps(rows, indent=1 if form == "indented" else None)
    assert values(read(tmp_path, text, "t.json")) == {
        "a": {
            "id": str(long), "in": f'{{"id": {long}}}', "l": f"[1, {long}]", "f": 1e20,
            "m": str(2**53 + 1),
        },
        "b": {"id": "1", "in": '{"id": 2}', "l": "[]", "f": 1.0, "m": "1.5"},
        "c": {"id": None, "in": None, "l": None, "f": None, "m": None},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "value 1 is a number; one object a line, an array of objects, or"),
        ('{"path":"a"}\n[{"path":"b"}]\n', "value 2 is an array; one object a line"),
        ('{"path":"a"}\n{"path":\n', "line 3, character 1: Expecting value; one object a line"),
        ('{"images": [{"file_name": "a.jpg"}], "info": {}}', "fields images, info; a column path"),
        ("", "it is empty"),
        ("[]", "needs a column path"),
        ("[" * 100_000, "nested too deeply"),
        (b'[{"path":"a"},\n{"path":"\xf6"}]', "line 2 is not UTF-8.*0xf6"),
        ('"path"', "value 1 is a text"),
    ],
)
def test_what_is_wrong_with_json_is_said_in_our_words(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, text, "t.json")


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("file_name,text", 0),
        ("Path,text", 0),
        ("text, path ", 1),
        ("FileName,text", 0),
        ("File Name,text", 0),
        ("image,text", 0),
        ("text,File", 1),
        ("image_path,text", 0),
        ("file_name,path", 1),
        ("Path,path", 1),
        ("name,file_name", 1),
        ("image,filename", 1),
        ("name,text", 0),
    ],
)
def test_the_column_that_names_images(tmp_path: Path, header: str, column: int) -> None:
    names = ["a.jpg", "b.jpg"]
    for form in ("csv", "tsv", "jsonl", "parquet"):
        columns = header.split(",")
        rows = [{columns[column]: name, columns[1 - column]: "hi"} for name in names]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
            table = read_user_table(tmp_path / "t.parquet", frozenset())
        elif form == "jsonl":
            table = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")
        else:
            cells = "".join(",".join(row[name] for name in columns) + "\n" for row in rows)
            text = (header + "\n" + cells).replace(",", "," if form == "csv" else "\t")
            table = read(tmp_path, text, f"t.{form}")
        assert table.names == names, form


def test_pictures_in_a_column_do_not_name_images(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"x", "path": "b.jpg"}, "file_name": "a.jpg", "n": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    table = read_user_table(tmp_path / "t.parquet", frozenset())
    assert values(table) == {"a.jpg": {"n": 1}}


def test_names_begin_at_the_root_or_at_the_table(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    """Hugging Face puts metadata.csv beside the images that it names."""

    def matched(source: Path, text: str) -> tuple[int, int]:
        source.write_text(text)
        report = embedsearch.index(
            photos,
            store=tmp_path / "s.es",
            model="packaged",
            extractor_factory=extractor,
            metadata=str(source),
        ).metadata
        assert report is not None
        return report.matched, report.images

    assert matched(photos / "a" / "metadata.csv", "file_name,n\n01.png,1\n03.png,2\n") == (2, 2)
    assert said(tmp_path / "s.es", "a/01.png") == {"n": 1}
    assert matched(photos / "metadata.csv", "file_name,n\na/01.png,5\n") == (1, 2)
    assert said(tmp_path / "s.es", "a/01.png") == {"n": 5}
    assert matched(tmp_path / "w.csv", "file,n\nb\\02.png,7\n./a/05.png,8\n") == (2, 4)
    assert said(tmp_path / "s.es", "b/02.png") == {"n": 7}
    assert said(tmp_path / "s.es", "a/05.png") == {"n": 8}
    assert matched(tmp_path / "w.csv", "file,n\n01.png,9\n") == (0, 4), "not in the root"


def test_labels_and_pairs_come_in_the_same_dialects(tmp_path: Path) -> None:
    source = tmp_path / "l.csv"
    source.write_bytes(
        'sep=;\r\nFile_Name; Kind ;x\r\nö.jpg;"a\r\nb";1\r\n\r\nb.jpg;c\r\n'.encode("utf-16")
    )
    assert read_rows(source, ["path", "Kind"]) == [
        (4, {"path": "ö.jpg", "Kind": "a\r\nb"}),
        (6, {"path": "b.jpg", "Kind": "c"}),
    ]
    source.write_bytes("path,kind\nö.jpg,a\n".encode("latin-1"))
    assert read_rows(source, ["path", "kind"])[0][1]["path"] == "\udcf6.jpg", "a name of a file"
    source.write_bytes("path,kind\na.jpg,ö\n".encode("latin-1"))
    with pytest.raises(UsageError, match="line 2, kind is not UTF-8"):
        read_rows(source, ["path", "kind"])
    with pytest.raises(UsageError, match="has no column 'age'; it has path, kind"):
        read_rows(source, ["path", "age"])


def test_vectors_are_imported_by_such_tables(tmp_path: Path) -> None:
    vectors = np.eye(2, 8, dtype=np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "p.CSV").write_bytes("Filename;Zip\nä.jpg;01234\nb.jpg;10115\n".encode("utf-16"))
    rows = [
        {"file_name": "ä.jpg", "embedding": [0.5, 1]},
        {"file_name": "b.jpg", "embedding": [1, 0.5]},
    ]
    table = pa.Table.from_pylist([{**row, "zip": "0123"} for row in rows])
    pq.write_table(table, tmp_path / "v.parquet")
    for source, paths in (("v.npy", tmp_path / "p.CSV"), ("v.parquet", None)):
        store = tmp_path / f"{source}.es"
        report = import_vectors(
            tmp_path / source, model="theirs", paths=paths, root=tmp_path, store=store
        )
        assert report.added == 2
        assert next(iter(said(store, "ä.jpg").values())) in ("01234", "0123")
    (tmp_path / "p.txt").write_bytes("\ufeffä.jpg\r\nb.jpg\r\n".encode())
    store = tmp_path / "l.es"
    import_vectors(
        tmp_path / "v.npy", model="m", paths=tmp_path / "p.txt", root=tmp_path, store=store
    )
    assert said(store, "ä.jpg") == {}


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    table = pa.table({"path": pa.array([b"caf\xe9.png"], pa.binary()), "n": [1]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="path is not UTF-8 text"):
        read_user_table(tmp_path / "t.parquet", frozenset())
