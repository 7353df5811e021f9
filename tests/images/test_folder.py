"""Scanning a tree: what is found, in which order, and what is passed over."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from embedsearch.core.paths import printable
from embedsearch.core.records import Reason
from embedsearch.images.sources.folder import FolderScan
from embedsearch.images.sources.kinds import HEAD_BYTES, Kind, kind_of, starts_an_image
from tests.support.library import paint, run_cli


def keys(folder: Path, scope: str = "") -> list[str]:
    return [ref.key for ref in FolderScan(0, str(folder), scope)]


def test_found_are_regular_files_with_a_known_suffix(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.webp", "c.txt", ".hidden.jpg", "noext", "jpg", "d.tiff "):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "dir.jpg" / "e.png").write_bytes(b"xy")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "f.png").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("a.JPG")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.jpg")
    scan = FolderScan(3, str(tmp_path))
    refs = list(scan)
    assert [ref.key for ref in refs] == ["a.JPG", "b.webp", "d.tiff ", "dir.jpg/e.png"]
    assert {ref.root for ref in refs} == {3}
    assert refs[3].size == 2
    assert refs[3].mtime_ns == (tmp_path / "dir.jpg/e.png").stat().st_mtime_ns
    ignored = scan.ignored
    assert (ignored.hidden, ignored.links, ignored.special, ignored.other_suffix) == (2, 0, 1, 3)
    assert (ignored.seen, ignored.sidecars) == (2, 1) and ignored.kinds()["other files"] == 2
    assert ignored.total == 8 and not scan.failures


def test_a_store_inside_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "inner.es").mkdir()
    (tmp_path / "inner.es" / "FORMAT").write_text("embedsearch 1\n")
    (tmp_path / "inner.es" / "x.jpg").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "FORMAT").write_text("something else")
    (tmp_path / "other" / "y.jpg").write_bytes(b"x")
    assert keys(tmp_path) == ["other/y.jpg"]


def test_scope_gives_keys_of_the_root(tmp_path: Path) -> None:
    for name in ("a/b/1.png", "a/b/c/2.png", "a/bb/3.png"):
        paint(tmp_path / name, 1)
    assert keys(tmp_path, "a/b") == ["a/b/1.png", "a/b/c/2.png"]


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=6,
).filter(lambda name: name not in {".", ".."} and len(name.encode()) < 100)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.lists(names, min_size=1, max_size=3).map(tuple), min_size=1, max_size=25))
def test_order_is_the_byte_order_of_keys(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[str, ...]]
) -> None:
    """The merge with a store's rows relies on it: `a-b` before `a/c` before `a.jpg`'s siblings."""
    folder = tmp_path_factory.mktemp("order")
    for parts in paths:
        path = folder.joinpath(*parts[:-1], parts[-1] + ".jpg")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    found = [os.fsencode(key) for key in keys(folder)]
    assert found == sorted(found)
    walked = [
        os.path.relpath(os.path.join(top, name), folder)
        for top, _, files in os.walk(folder)
        for name in files
    ]

    def shown(key: str) -> bool:
        return all(p[0] != "." or p.startswith("..") for p in key.split("/"))

    assert sorted(os.fsdecode(key) for key in found) == sorted(filter(shown, walked))


def test_deep_and_long_paths_open(tmp_path: Path) -> None:
    """A path of 4,700 bytes, which no system call takes whole."""
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(180):
            Path("d" * 25).mkdir()
            os.chdir("d" * 25)
        Path("deep.jpg").write_bytes(b"x")
    finally:
        os.chdir(here)
    (key,) = keys(tmp_path)
    assert len(key) > 4600 and key.endswith("/deep.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_reported_once(tmp_path: Path) -> None:
    paint(tmp_path / "shut" / "a.png", 1)
    paint(tmp_path / "open" / "b.png", 1)
    (tmp_path / "shut").chmod(0)
    scan = FolderScan(0, str(tmp_path))
    try:
        assert [ref.key for ref in scan] == ["open/b.png"]
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert [(f.key, f.reason) for f in scan.failures] == [("shut", Reason.PERMISSION)]


def exact_key(found: dict[str, Any], tree: Path) -> bytes:
    """Return the exact key of what a program reads about an image below a tree."""
    name = found.get("full_path_bytes")
    path = os.fsencode(found["full_path"]) if name is None else base64.b64decode(name)
    return path.removeprefix(os.fsencode(tree) + b"/")


def test_hostile_tree(shared_data: Path, tmp_path: Path) -> None:
    """Odd names, links, FIFOs, sockets, sparse and deep entries: as the tree's maker expects."""
    tool = shared_data.parent / "tools" / "make_hostile_tree.py"
    tree, store = tmp_path / "tree", tmp_path / "t.es"
    made = subprocess.run(
        [sys.executable, str(tool), str(tree)], capture_output=True, text=True, check=True
    )
    expected = [json.loads(line) for line in made.stdout.splitlines()]
    try:
        done = run_cli("index", tree, "--store", store, "--model", "packaged", "--json")
    finally:
        (tree / "noperm_dir").chmod(0o700)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    query = run_cli(
        "query", tree / "good.jpg", "--store", store, "-k", "200", "--json", "--min-score", "0.9"
    )
    hits = [json.loads(line) for line in query.stdout.splitlines()]
    indexed = {exact_key(hit, tree) for hit in hits}
    failed = run_cli("failures", "--store", store, "--json").stdout.splitlines()
    refused = {exact_key(json.loads(line), tree) for line in failed}
    root = os.geteuid() == 0
    checked = 0
    for entry in expected:
        if (
            "path_hex" not in entry
            or entry["kind"].startswith("mode 000")
            or (root and ("mode-000" in entry["kind"]))
        ):
            continue
        key = bytes.fromhex(entry["path_hex"])
        checked += 1
        if entry["expect"] == "index":
            assert key in indexed, entry
        elif entry["expect"] in {"skip", "fail"} and "link" in entry["kind"]:
            assert key not in indexed, entry
        elif entry["expect"] == "fail":
            assert key in refused and key not in indexed, entry
        else:
            assert key not in indexed or "or" in entry["expect"], entry
    assert checked >= 45
    assert any(key.endswith(b"/deep.jpg") and len(key) > 4600 for key in indexed | refused)
    assert report["found"] == report["added"] + report["failed"]
    assert report["ignored"]["other_suffix"] >= 5000
    table = run_cli("query", tree / "good.jpg", "--store", store, "-k", "200").stdout
    assert "\x1b" not in table and "\u202e" not in table and "\r" not in table
    csv = run_cli("query", tree / "good.jpg", "--store", store, "-k", "200", "--csv").stdout
    assert ",=cmd|calc.jpg," in csv  # exact: programs read it


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, Kind.IMAGE) for name in (b"a.jpg", b"B.JPEG ", b"x.jpg_large", b"c.jpg~")),
        *((name, Kind.IMAGE) for name in (b"I.JPG.1", b"p.jpg?width=300&h=2.5", b"c.jpg.bak")),
        *((name, Kind.IMAGE) for name in (b"IMG_1.JPG.1", b"a.b.jpg?width=300", b"photo.png~")),
        *(
            (name, Kind.IMAGE)
            for name in (b"d.pjpeg", b"e.jif", b"a.png (1)", b"a.jpeg!d", b"..jpg")
        ),
        *(
            (name, Kind.UNKNOWN)
            for name in (
                b"12345",
                b"jpg",
                b"a.b c",
                b"photo.2019",
                b"a.",
                b"St. Tropez",
                b"IMG.final",
                b"a.jpgx",
            )
        ),
        *((name, Kind.SIDECAR) for name in (b"a.jpg.json", b"a.jpg.xmp", b"a.txt")),
        *((name, Kind.VIDEO) for name in (b"a.MOV", b"a.mp4", b"a.3gp", b"x.jpg.mp4", b"a.R3D")),
        *(
            (name, Kind.ARCHIVE)
            for name in (b"a.tar", b"a.tar.zst", b"a.zip", b"a.7z", b"a.jpg.gz")
        ),
        *((name, Kind.OTHER) for name in (b"dsc.jpg_original", b"a.jpg.part", b"x.jpg_files.html")),
        *((name, Kind.OTHER) for name in (b"a.py", b"jpg.doc", b"a.tmp")),
    ],
)
def test_what_names_say(name: bytes, kind: Kind) -> None:
    assert kind_of(name) is kind


def test_a_file_without_a_suffix_is_an_image_by_its_first_bytes(tmp_path: Path) -> None:
    picture = paint(tmp_path / "a.png", 1).read_bytes()
    named = ("12345", "photo.2019", "St. Tropez", "IMG.final")
    for name in (*named, "a.part", "empty", "text", "words.odd", "bitmap"):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "words.odd").write_text("words")
    (tmp_path / "text").write_text("BMW and other words that begin like one")
    Image.new("RGB", (4, 4)).save(tmp_path / "bitmap", "BMP")
    scan = FolderScan(0, str(tmp_path))
    assert [ref.key for ref in scan] == sorted([*named, "a.png", "bitmap"])
    assert scan.ignored.suffixes == {"part": 1, "odd": 1, "": 2}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_every_format_is_told_by_its_first_bytes(form: str) -> None:
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, form)
    assert starts_an_image(file.getvalue()[:HEAD_BYTES])
    assert not starts_an_image(file.getvalue()[:3] if form != "JPEG" else b"\xff\xd8")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("é😀", "é😀"),
        ("a\x1b[31m\n\u202e\u200b", "a\\x1b[31m\\n\\u202e\\u200b"),
        (os.fsdecode(b"latin-\xe9"), "latin-\\xe9"),
    ],
    ids=["plain", "Unicode", "controls", "not UTF-8"],
)
def test_printable_shows_what_lies(name: str, shown: str) -> None:
    assert printable(name) == shown
