"""Hostile and foreign names through every output for programs, and back to the file."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.json
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.cli.output.text import exact_unless_shown
from embedsearch.exchange.export import export
from embedsearch.exchange.import_vectors import import_vectors
from tests.support.library import paint, run_cli

NAMES = [
    "a.jpg",
    "=1+1.jpg",
    "-minus.jpg",
    "@at.jpg",
    "\U0001f469‍\U0001f467.jpg",
    "خانه‌ها.jpg",
    "soft\xadhyphen.jpg",
    "two\nlines.jpg",
    os.fsdecode(b"latin-\xe9.jpg"),
    unicodedata.normalize("NFD", "größe.jpg"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    for seed, name in enumerate(NAMES):
        paint(folder / "photos" / name, seed)
    embedsearch.index(folder / "photos", store=folder / "s.es", model="packaged")
    return folder / "s.es"


def opened(row: Any) -> str:
    """Return the name of the file that a row of an output leads to."""
    exact = row["full_path_bytes"]
    path = os.fsdecode(base64.b64decode(exact)) if exact else row["full_path"]
    assert os.path.isfile(path), path
    return os.path.basename(path)


def test_every_output_leads_to_the_file(store: Path, tmp_path: Path) -> None:
    ask = ("query", "--key", "a.jpg", "--store", store, "-k", "99")
    lines = run_cli(*ask, "--json").stdout
    for line in lines.splitlines():
        line.encode()
    assert sorted(opened(json.loads(line)) for line in lines.splitlines()) == sorted(NAMES)
    shown = run_cli(*ask, "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(shown, newline="")))
    assert sorted(opened(row) for row in rows) == sorted(NAMES)
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"hits.{suffix}"
        assert run_cli(*ask, "--out", out).returncode == 0
    assert sorted(opened(row) for row in pq.read_table(out).to_pylist()) == sorted(NAMES)
    # Strict parsers, in other languages.
    read = pyarrow.json.read_json(tmp_path / "hits.jsonl").to_pylist()
    assert sorted(opened(row) for row in read) == sorted(NAMES)
    query = f"SELECT full_path, full_path_bytes FROM read_json('{tmp_path}/hits.jsonl')"
    found = duckdb.connect().execute(query).to_arrow_table()
    assert found is not None and sorted(map(opened, found.to_pylist())) == sorted(NAMES)


def test_csv_on_a_terminal_is_safe_to_look_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "a\x1b[31mb,1\nc,2\n"
    assert exact_unless_shown(lines) == lines
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert exact_unless_shown(lines) == "a\\x1b[31mb,1\nc,2\n"


def test_paths_with_nul_between_them(store: Path) -> None:
    command = [sys.executable, "-m", "embedsearch", "query", "--key", "a.jpg", "-k", "99"]
    command += ["--paths", "-0", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, check=True)
    paths = done.stdout.split(b"\0")
    assert paths.pop() == b""
    assert sorted(os.path.basename(os.fsdecode(path)) for path in paths) == sorted(NAMES)
    done = subprocess.run([*command[:-4], "-0", *command[-2:]], capture_output=True)
    assert done.returncode == 2 and b"--null needs --paths" in done.stderr


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_finds_its_image(store: Path, name: str) -> None:
    with embedsearch.open_store(store) as searcher:
        assert searcher.get(name).key == name
        text = unicodedata.normalize("NFC", name) if "gr" in name else name
        if "latin" not in name:
            quoted = text.replace("'", "''")
            assert [
                image.key for image in searcher.images(9, where=f"path = '{quoted}'").images
            ] == [name]
        assert searcher.get(text).key == name
        whole = str(store.parent / "photos" / text)
        assert searcher.query(whole, k=1)[0].key == name


def test_the_text_of_a_name_finds_it_too(store: Path) -> None:
    with embedsearch.open_store(store) as searcher:
        assert searcher.get("latin-\\xe9.jpg").key == NAMES[8]


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_an_export_comes_back(store: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"all.{suffix}"
    export(store, out)
    import_vectors(
        out,
        paths=out.with_suffix(".csv") if suffix == "npy" else None,
        root=store.parent / "photos",
        model="packaged",
        store=tmp_path / "t.es",
    )
    with embedsearch.open_store(tmp_path / "t.es") as searcher:
        keys = [image.key for image in searcher.images(99).images]
        assert sorted(keys) == sorted(NAMES)
        assert searcher.get("a.jpg").metadata == {}


def test_tables_and_sidecars_in_another_form(tmp_path: Path) -> None:
    nfd, nfc = NAMES[9], unicodedata.normalize("NFC", NAMES[9])
    paint(tmp_path / "photos" / nfd, 1)
    paint(tmp_path / "photos" / "b.jpg", 2)
    (tmp_path / "photos" / nfc.replace(".jpg", ".txt")).write_text("a caption")
    (tmp_path / "labels.csv").write_text(f"path,size\n{nfc},7\nb.jpg,8\n")
    report = embedsearch.index(
        tmp_path / "photos",
        store=tmp_path / "s.es",
        model="packaged",
        metadata=str(tmp_path / "labels.csv"),
    )
    assert report.metadata is not None and report.metadata.matched == 2
    embedsearch.index(tmp_path / "photos", store=tmp_path / "s.es", sidecars=True)
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        values = searcher.get(nfc).metadata
        assert (values["caption"], values["user_size"]) == ("a caption", 7)


def test_urls_that_were_imported_stay(tmp_path: Path) -> None:
    urls = [
        "https://h.example/a.jpg",
        "https:/h.example/a.jpg",
        "https://h.example/./a//b.jpg?id=1",
    ]
    import numpy as np

    np.save(tmp_path / "v.npy", np.eye(3, 8, dtype=np.float32))
    (tmp_path / "p.txt").write_text("".join(f"{url}\n" for url in urls))
    report = import_vectors(
        tmp_path / "v.npy",
        paths=tmp_path / "p.txt",
        root=tmp_path,
        model="clip",
        store=tmp_path / "s.es",
    )
    assert (report.added, report.repeated) == (3, 0)
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        for url in (urls[0], urls[2]):
            record = searcher.get(url)
            assert record.key == record.full_path == url


class _Raw(zipfile.ZipInfo):
    """A member whose name is written as it is, without the flag for UTF-8."""

    raw = b""
    system = 3

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits & ~0x800


@pytest.mark.parametrize(
    ("raw", "extra", "name"),
    [
        ("größe.jpg".encode(), b"", "größe.jpg"),
        ("été.jpg".encode("cp437"), b"", "été.jpg"),
        (b"photos\\sub\\a.jpg", b"", "photos/sub/a.jpg"),
        (b"dir/back\\slash.jpg", b"", "dir/back\\slash.jpg"),
    ],
    ids=["UTF-8 without the flag", "code page 437", "Windows' separators", "a real backslash"],
)
def test_names_in_zips(tmp_path: Path, raw: bytes, extra: bytes, name: str) -> None:
    paint(tmp_path / "x.jpg", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = _Raw("x.jpg")
        info.raw, info.extra = raw, extra
        archive.writestr(info, (tmp_path / "x.jpg").read_bytes())
    embedsearch.index(tmp_path / "a.zip", store=tmp_path / "s.es", model="packaged")
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        assert [image.key for image in searcher.images(9).images] == [name]
        assert searcher.query(embedsearch.Key(name), k=1)[0].key == name


def test_windows_separators_lead_nowhere_else(tmp_path: Path) -> None:
    paint(tmp_path / "x.jpg", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for raw in (b"..\\..\\up.jpg", b"\\abs.jpg", b"good.jpg"):
            info = _Raw("x.jpg")
            info.raw = raw
            archive.writestr(info, (tmp_path / "x.jpg").read_bytes())
    embedsearch.index(tmp_path / "a.zip", store=tmp_path / "s.es", model="packaged")
    found = {failure.key: failure.reason for _, failure in embedsearch.failures(tmp_path / "s.es")}
    assert found == {"../../up.jpg": "unsafe_name", "/abs.jpg": "unsafe_name"}


def test_a_sheet_tells_names_apart(tmp_path: Path) -> None:
    from embedsearch.cli.output.fonts import runs

    shown = [
        "".join(part for _, part in runs(name, 12))
        for name in ("时钟", "くるみ", "\U000f0000\U000f0001")
    ]
    assert shown == ["时钟", "くるみ", "\\U000f0000\\U000f0001"]


@pytest.mark.parametrize("fonts", ["of the system", "of the package"])
def test_a_sheet_has_letters_of_every_script(fonts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine without any font, as in a container."""
    from embedsearch.cli.output import fonts as module

    if fonts == "of the package":
        monkeypatch.setattr(module, "_places", lambda char: [])
        module._font_of.cache_clear()
    for name in ("São Tomé.jpg", "東京 2024.jpg", "서울.png", "Москва", "ירושלים", "🌅 sunrise ❤"):
        found = module.runs(name, 12)
        assert "".join(part for _, part in found) == name
        for font, part in found:
            empty = bytes(font.getmask("\uffff"))
            assert all(char == " " or bytes(font.getmask(char)) != empty for char in part)
    module._font_of.cache_clear()
