"""RAW in folders, archives and buckets: passed over without its library, taken with it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import embedsearch
from embedsearch.cli.output.text import report_lines
from embedsearch.core.errors import NothingIndexed
from embedsearch.core.records import Reason
from tests.support.library import Library, counts, paint
from tests.support.pictures import encoded, picture
from tests.support.raw_files import SIZE, dng, with_library
from tests.support.stores import rows_of

if TYPE_CHECKING:
    from tests.support.s3 import S3Server

SHOWN = picture(1, SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """RAW beside the JPEG of the same shot, and a picture of neither."""
    pytest.importorskip("rawpy", reason="reads RAW")
    made = tmp_path / "shots"
    paint(made / "other.png", 1)
    (made / "shot.NEF").write_bytes(dng(SHOWN, SHOWN))
    (made / "shot.jpg").write_bytes(encoded(SHOWN, "JPEG", quality=95).getvalue())
    return made


def test_raw_and_jpeg_are_two_rows_and_one_picture(tmp_path: Path, folder: Path) -> None:
    store = tmp_path / "s.es"
    embedsearch.index(folder, store=store, model="packaged", device="cpu")
    data = (folder / "shot.NEF").read_bytes()
    with embedsearch.open_store(store) as searcher:
        for image in (str(folder / "shot.NEF"), data):  # what is uploaded has no name
            hits = searcher.query(image, k=3)
            assert {hit.key for hit in hits[:2]} == {"shot.NEF", "shot.jpg"}
            assert [hit.ranked_by > 0.98 for hit in hits] == [True, True, False]
        named = {hit.key: hit for hit in hits}
        assert (named["shot.NEF"].width, named["shot.NEF"].height) == SIZE
        thumbnail = Image.open(io.BytesIO(searcher.thumbnail("shot.NEF", 64)))
        assert thumbnail.size == (64, 48)
    (group,) = embedsearch.duplicates(store).groups
    assert {group.keep.key, *(copy.picture.key for copy in group.copies)} == {
        "shot.NEF",
        "shot.jpg",
    }


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_a_store_that_passed_them_over_takes_them_later_and_keeps_them(
    library: Library, folder: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder if form == "folder" else folder.parent / f"shots.{form}"
    if form == "tar":
        with tarfile.open(place, "w") as tar:
            tar.add(folder, ".")
    if form == "zip":
        with zipfile.ZipFile(place, "w") as packed:
            for path in sorted(folder.iterdir()):
                packed.write(path, path.name)
    try:
        with_library(False, monkeypatch)
        report = library.index(place)
        assert counts(report) == (2, 2, 0, 0, 0, 0, 0)
        assert report.ignored.raw == 1
        assert "1 RAW: pip install" in report_lines(report)
        assert counts(library.index(place)) == (2, 0, 0, 0, 2, 0, 0)
        with_library(True, monkeypatch)
        assert counts(library.index(place)) == (3, 1, 0, 0, 2, 0, 0)
        assert counts(library.index(place)) == (3, 0, 0, 0, 3, 0, 0)
        # Where the library is missing later, say on another machine, no row is lost.
        with_library(False, monkeypatch)
        assert counts(library.index(place)) == (2, 0, 0, 0, 2, 0, 0)
        assert rows_of(library.store).keys() == {b"other.png", b"shot.NEF", b"shot.jpg"}
        assert counts(library.index(place, allow_empty=True))[-1] == (form == "folder")
        if form == "folder":  # an archive that was not changed is not read
            assert b"shot.NEF" not in rows_of(library.store)
    finally:
        with_library(True, monkeypatch)


def test_a_raw_file_that_is_gone_is_gone(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        library.index(folder)
        (folder / "shot.NEF").unlink()
        with_library(False, monkeypatch)
        assert counts(library.index(folder)) == (2, 0, 0, 0, 2, 0, 1)
    finally:
        with_library(True, monkeypatch)


def test_a_file_named_by_itself_is_known_by_its_content(library: Library, folder: Path) -> None:
    nameless = (folder / "shot.NEF").rename(folder / "shot")
    assert counts(library.index(nameless)) == (1, 1, 0, 0, 0, 0, 0)
    (folder / "noise.CR2").write_bytes(b"noise" * 99)
    report = library.index(folder)
    assert counts(report)[0] == 4 and report.failed == 1
    assert library.reasons() == {"noise.CR2": Reason.NOT_AN_IMAGE}


def test_what_is_only_raw_says_what_reads_it(
    library: Library, tmp_path: Path, without_rawpy: None
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.CR3").write_bytes(b"\0\0\0\x18ftypcrx ")
    with pytest.raises(NothingIndexed, match=r"1 RAW \(pip install '?rawpy.* lets their previews"):
        library.index(tmp_path / "in")


def test_a_bucket_gives_its_raw(
    s3: S3Server, library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_folder(folder, "bucket/in")
    try:
        with_library(False, monkeypatch)
        assert counts(library.index("s3://bucket/in")) == (2, 2, 0, 0, 0, 0, 0)
        with_library(True, monkeypatch)
        assert counts(library.index("s3://bucket/in")) == (3, 1, 0, 0, 2, 0, 0)
        with_library(False, monkeypatch)
        assert counts(library.index("s3://bucket/in")) == (2, 0, 0, 0, 2, 0, 0)
        assert b"shot.NEF" in rows_of(library.store)
    finally:
        with_library(True, monkeypatch)
