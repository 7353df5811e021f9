"""Outputs that users name: none replaces a photo, or what a store is made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import embedsearch
from tests.support.library import SAMPLES, run_cli


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `photos` of pictures and its store `s.es`."""
    home = tmp_path_factory.mktemp("outputs")
    shutil.copytree(SAMPLES / "boats", home / "photos")
    shutil.copy(home / "photos/boats_1.jpg", home / "photos/again.jpg")
    embedsearch.index(home / "photos", store=home / "s.es", model="packaged")
    return home


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "command",
    [
        ("query", "photos/boats_5.jpg", "-k", "1", "--sheet", "photos/boats_1.jpg"),
        ("query", "photos/boats_5.jpg", "-k", "1", "--html", "photos/boats_5.jpg"),
        ("map", "photos/boats_2.jpg"),
        ("duplicates", "--html", "photos/boats_4.jpg"),
        ("duplicates", "--script", "photos/boats_6.png"),
        ("duplicates", "--script", "link"),
        ("duplicates", "--script", "photos/cut.jpg"),
    ],
    ids=["sheet", "query itself", "map", "page", "script", "link", "damaged photo"],
)
def test_no_output_replaces_a_photo(album: Path, command: tuple[str, ...]) -> None:
    (album / "link").unlink(missing_ok=True)
    (album / "link").symlink_to("photos/boats_3.webp")
    (album / "photos/cut.jpg").write_bytes(b"no longer a picture")
    before = contents(album / "photos")
    done = run_cli(*command, "--store", "s.es", cwd=album)
    assert done.returncode == 2, done.stdout
    assert "is a picture, which is not replaced: name another file" in done.stderr, done.stderr
    assert contents(album / "photos") == before


def test_what_may_be_written_again(album: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()  # as mktemp makes it
    query = ("query", album / "photos/boats_5.jpg", "-k", "1", "--store", album / "s.es")
    for name in ("empty.png", "sheet.png", "sheet.png"):
        assert run_cli(*query, "--sheet", tmp_path / name).returncode == 0, name
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 200
    for _ in range(2):
        assert run_cli(*query, "--html", tmp_path / "hits.html").returncode == 0
    with Image.open(SAMPLES / "boats/boats_1.jpg") as photo:
        photo.save(tmp_path / "sheet.png")  # no longer ours
    assert run_cli(*query, "--sheet", tmp_path / "sheet.png").returncode == 2


def test_an_export_does_not_replace_what_is_indexed(tmp_path: Path) -> None:
    pictures = [(SAMPLES / f"boats/boats_{n}.jpg").read_bytes() for n in (1, 2)]
    pq.write_table(pa.table({"image": pictures}), tmp_path / "set.parquet")
    embedsearch.index(tmp_path / "set.parquet", store=tmp_path / "s.es", model="packaged")
    before = (tmp_path / "set.parquet").read_bytes()
    (tmp_path / "link.parquet").symlink_to("set.parquet")
    for name in ("set.parquet", "link.parquet"):
        done = run_cli("export", tmp_path / name, "--store", tmp_path / "s.es")
        assert done.returncode == 2 and "is what the store indexes" in done.stderr, done.stderr
    assert (tmp_path / "set.parquet").read_bytes() == before
    assert run_cli("export", tmp_path / "out.parquet", "--store", tmp_path / "s.es").returncode == 0
