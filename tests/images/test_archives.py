"""Images in tar, zip and Parquet files: the rows of a folder; what broken archives cost."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.core.records import Reason, Stage
from embedsearch.images.thumbnails import ThumbnailReader
from embedsearch.store.info import failures
from tests.support.archives import MAKERS, make_parquet, make_tar, make_zip, members_of
from tests.support.extractor import CountingExtractor
from tests.support.library import Library, counts, paint, run_cli
from tests.support.stores import live_rows, said


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_gives_what_its_folder_gives(
    name: str, library: Library, photos: Path, tmp_path: Path
) -> None:
    archive = MAKERS[name](tmp_path / name, [("./" + n, data) for n, data in members_of(photos)])
    assert counts(library.index(photos)) == (12, 12, 0, 0, 0, 0, 0)
    assert counts(library.index(archive)) == (12, 12, 0, 0, 0, 0, 0)
    rows = live_rows(library.store)
    folder, packed = ([row for row in rows if row["root"] == root] for root in (0, 1))
    for name in ("key", "digest", "width", "height", "size", "vector", "signature"):
        mine, theirs = ({row["key"]: row[name] for row in some} for some in (folder, packed))
        assert str(mine) == str(theirs), name
    assert CountingExtractor.embedded == 24
    assert counts(library.index()) == (24, 0, 0, 0, 24, 0, 0)
    assert CountingExtractor.embedded == 24
    with embedsearch.open_store(library.store) as searcher:
        paths = {hit.full_path for hit in searcher.query(np.ones(512, np.float32) / 512**0.5, k=24)}
    assert str(archive / members_of(photos)[0][0]) in paths


def test_an_unchanged_archive_is_not_opened(
    library: Library, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_tar(tmp_path / "a.tar", [*members_of(photos), ("broken.jpg", b"no picture")])
    assert counts(library.index(archive)) == (13, 12, 0, 0, 0, 1, 0)
    monkeypatch.setattr(tarfile, "open", None)
    assert counts(library.index(archive)) == (13, 0, 0, 0, 12, 1, 0)
    assert library.reasons() == {"broken.jpg": Reason.NOT_AN_IMAGE}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_an_archive_that_grows(name: str, library: Library, photos: Path, tmp_path: Path) -> None:
    """Only what is new is embedded, though every member is younger than its row."""
    members = members_of(photos)
    archive = MAKERS[name](tmp_path / name, members[:8])
    assert library.index(archive).added == 8
    other = paint(tmp_path / "other.png", 77).read_bytes()
    MAKERS[name](archive, [*members[1:], (members[1][0], other)][1:])  # two go, one is another
    os.utime(archive, ns=(1, 1))
    assert counts(library.index(archive)) == (11, 4, 1, 0, 6, 0, 1)
    assert CountingExtractor.embedded == 8 + 5
    assert {row["mtime_ns"] for row in live_rows(library.store)} == {1}


def test_an_archive_beside_and_in_a_folder_of_pictures(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    """Each is a root of its own; a vanished archive is refused like a vanished folder."""
    archive = make_tar(photos / "more.tar", [("x.png", members_of(photos)[0][1])])
    assert counts(library.index(archive)) == (1, 1, 0, 0, 0, 0, 0)
    report = library.index(photos)
    assert (report.added, report.images, report.ignored.other_suffix) == (12, 13, 1)
    archive.rename(tmp_path / "away.tar")
    with pytest.raises(UsageError, match=r"more\.tar has vanished"):
        library.index()
    assert library.index(allow_empty=True).images == 12
    folder = tmp_path / "folder.tar"
    shutil.copytree(photos, folder)
    assert library.index(folder).added == 12  # a folder of that name is a folder


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_names_that_lead_out_and_names_that_come_twice(
    make: Callable[..., Path], library: Library, photos: Path, tmp_path: Path
) -> None:
    good = members_of(photos)
    names = ["../up.png", "/etc/abs.png", "a/../../b.png", "ok/../in.png", ".hidden/x.png", "n.txt"]
    twice = [("two.png", good[0][1]), ("two.png", good[1][1])]
    suffix = ".zip" if make is make_zip else ".tar"
    with pytest.warns(UserWarning) if make is make_zip else nullcontext():
        archive = make(tmp_path / f"a{suffix}", [*[(n, good[0][1]) for n in names], *twice])
    report = library.index(archive)
    assert counts(report) == (1, 1, 0, 0, 0, 0, 0)
    assert (report.ignored.hidden, report.ignored.other_suffix, report.scan_failures) == (1, 1, 5)
    (row,) = live_rows(library.store)
    assert (row["key"], row["size"]) == (b"two.png", len(good[1][1]))
    assert {f.key: f.reason for _, f in failures(library.store)} == {
        **dict.fromkeys(names[:4], Reason.UNSAFE_NAME),
        "two.png": Reason.DUPLICATE_NAME,
    }
    again = library.index(archive)
    assert (again.unchanged, again.scan_failures) == (1, 5)


def test_links_and_devices_of_a_tar(library: Library, photos: Path, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", members_of(photos)[:1])
    with tarfile.open(archive, "a") as tar:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE),
                           ("f.png", tarfile.FIFOTYPE), ("d.png", tarfile.DIRTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    report = library.index(archive)
    assert (report.found, report.ignored.links, report.ignored.special) == (1, 2, 1)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.xz"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_archive_costs_what_is_behind_the_cut(
    name: str, share: float, library: Library, photos: Path, tmp_path: Path
) -> None:
    """What was there before stays: a copy that broke off must not empty the store."""
    archive = MAKERS[name](tmp_path / name, members_of(photos))
    assert library.index(archive).added == 12
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    report = library.index(archive)
    assert report.deleted == 0 and report.images >= 11
    reasons = {(f.stage, f.reason) for _, f in failures(library.store)}
    assert (Stage.SCAN, Reason.BROKEN_ARCHIVE) in reasons
    archive.write_bytes(whole)
    report = library.index(archive)
    assert (report.images, report.failed, report.scan_failures) == (12, 0, 0)


def test_a_broken_header_is_not_the_end(library: Library, photos: Path, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", members_of(photos))
    with tarfile.open(archive) as tar:
        place = tar.getmembers()[6].offset
    data = bytearray(archive.read_bytes())
    data[place + 150] ^= 0xFF  # in the checksum
    archive.write_bytes(data)
    report = library.index(archive)
    assert (report.added, report.scan_failures) == (6, 1)
    ((_, failure),) = failures(library.store)
    assert failure.reason is Reason.BROKEN_ARCHIVE and "after 6 images" in failure.detail


def test_zip_members_that_cannot_be_had(library: Library, photos: Path, tmp_path: Path) -> None:
    """Another checksum, another length, a bomb, a method or a cipher that nobody here reads."""
    data = members_of(photos)[0][1]
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("good.png", data)
        made.writestr("crc.png", data)
        made.writestr("lzma.png", data, zipfile.ZIP_LZMA)
        made.writestr("bomb.png", bytes(30 << 20), zipfile.ZIP_DEFLATED)
        made.writestr("locked.png", data)
        made.writestr("shorter.png", data, zipfile.ZIP_DEFLATED)
    whole = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as made:
        crc = made.getinfo("crc.png")
    whole[crc.header_offset + 30 + len("crc.png") + 20] ^= 1
    for name, offset, value in (("locked.png", 8, 1), ("shorter.png", 24, len(data) - 9)):
        entry = whole.rfind(name.encode()) - 46  # in the directory at the end
        assert whole[entry : entry + 4] == b"PK\1\2"
        whole[entry + offset : entry + offset + 2] = value.to_bytes(2, "little")
    archive.write_bytes(whole)
    report = library.index(archive, limits=DecodeLimits(max_bytes=20 << 20))
    assert (report.found, report.added, report.failed) == (6, 1, 5)
    assert library.reasons() == {
        "crc.png": Reason.CORRUPT,
        "lzma.png": Reason.UNSUPPORTED_FORMAT,
        "bomb.png": Reason.TOO_BIG,
        "locked.png": Reason.ENCRYPTED,
        "shorter.png": Reason.CORRUPT,
    }


def test_a_gzip_bomb_is_passed_by(library: Library, photos: Path, tmp_path: Path) -> None:
    bomb = ("bomb.png", bytes(64 << 20))
    archive = make_tar(tmp_path / "a.tgz", [bomb, *members_of(photos)[:1]], "w:gz")
    report = library.index(archive, limits=DecodeLimits(max_bytes=1 << 20))
    assert (report.added, library.reasons()) == (1, {"bomb.png": Reason.TOO_BIG})


def test_what_is_no_archive(library: Library, tmp_path: Path) -> None:
    for name, data in {
        "empty.tar": b"",
        "text.tar": b"no archive" * 1000,
        "text.zip": b"no archive" * 1000,
        "text.tgz": gzip.compress(b"no archive" * 1000),
        "cut.tgz": gzip.compress(b"no archive" * 1000)[:20],
        "zeros.tar": bytes(10240),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(NothingIndexed, match="no images found"):
            library.index(tmp_path / name)
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"is a file, but neither an image nor one of \.tar"):
        library.index(tmp_path / "photo.png")
    assert not library.store.exists()


def test_an_archive_that_changes_while_it_is_read(
    library: Library, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_tar(tmp_path / "a.tar", members_of(photos))
    from embedsearch.images.archives.tar import TarArchive

    usual = TarArchive.places

    def late(self: TarArchive, refs: Any) -> Any:
        os.utime(archive, ns=(5, 5))
        return usual(self, refs)

    monkeypatch.setattr(TarArchive, "places", late)
    with pytest.raises(NothingIndexed):
        library.index(archive)
    assert set(library.reasons().values()) == {Reason.CHANGED}
    monkeypatch.undo()
    assert library.index(archive).added == 12


def test_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", members_of(photos))
    store = tmp_path / "c.es"
    done = run_cli("index", archive, "--store", store, "--model", "packaged")
    assert done.returncode == 0 and "12 images found: 12 added" in done.stdout
    sheet = tmp_path / "sheet.png"
    shown = run_cli(
        "query", photos / members_of(photos)[0][0], "--store", store, "-k", "3", "--sheet", sheet
    )
    assert shown.returncode == 0 and "a.tar/" in shown.stdout and sheet.stat().st_size > 5000


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_pictures_of_an_archive_are_shown_and_asked_with(
    name: str, photos: Path, tmp_path: Path
) -> None:
    """Thumbnails, sheets, crops and query images: an image is where its archive has it."""
    members = members_of(photos)
    archive = MAKERS[name](tmp_path / name, members)
    embedsearch.index(archive, store=tmp_path / "t.es", model="packaged")
    with ThumbnailReader(64) as pictures:
        shown = list(pictures.tiles([str(archive / members[0][0]), str(archive / "no.png")]))
        whole = list(pictures.tiles([str(photos / members[0][0])]))
    assert shown[0] is not None and whole[0] is not None and shown[1] is None
    assert np.array_equal(shown[0], whole[0])
    with embedsearch.open_store(tmp_path / "t.es") as searcher:
        key = members[3][0]
        thumbnail = searcher.thumbnail(key, 32)
        assert Image.open(io.BytesIO(thumbnail)).size == (32, 27)
        crop = embedsearch.Crop(embedsearch.Key(key), 0, 0, 40, 30)
        file_crop = embedsearch.Crop(str(photos / key), 0, 0, 40, 30)
        assert searcher.query(crop, k=3) == searcher.query(file_crop, k=3)
        (hit,) = searcher.query(str(archive / key), k=1)
        assert hit.key == key and hit.ranked_by > 0.999
        with pytest.raises(UnreadableImage, match="there is no such file"):
            searcher.query(str(archive / "no.png"))
        archive.unlink()
        with pytest.raises(UnreadableImage, match="there is no such file"):
            searcher.thumbnail(members[4][0], 32)


@pytest.mark.parametrize("is_struct", [True, False])
def test_a_parquet_column(is_struct: bool, library: Library, photos: Path, tmp_path: Path) -> None:
    """Hugging Face's layout and plain binary: an image a row, changed rows alone embedded anew."""
    members = members_of(photos)
    file = make_parquet(tmp_path / "a.parquet", members, is_struct=is_struct)
    assert counts(library.index(file)) == (12, 12, 0, 0, 0, 0, 0)
    assert counts(library.index(photos)) == (12, 12, 0, 0, 0, 0, 0)
    rows = live_rows(library.store)
    names = [row["key"].decode() for row in rows if row["root"] == 0]
    assert names[7] == (f"00000007/{Path(members[7][0]).name}" if is_struct else "00000007")
    packed, plain = (
        sorted((row["digest"], row["vector"]) for row in rows if row["root"] == root)
        for root in (0, 1)
    )
    assert packed == plain
    embedded = CountingExtractor.embedded
    assert counts(library.index(file)) == (12, 0, 0, 0, 12, 0, 0)
    swapped = [*members[:6], ("a/x.png", paint(tmp_path / "x.png", 99).read_bytes()), *members[7:]]
    make_parquet(file, swapped, is_struct=is_struct)
    report = library.index(file)
    assert CountingExtractor.embedded == embedded + 1
    assert (report.added + report.changed, report.unchanged, report.images) == (1, 11, 24)


def test_rows_without_an_image(library: Library, photos: Path, tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [
        {"bytes": None, "path": "elsewhere.jpg"},
        None,
        {"bytes": b"no picture", "path": "../../x.jpg"},
        {"bytes": members_of(photos)[0][1], "path": None},
        {"bytes": b"", "path": "empty.jpg"},
    ]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array(values, kind)}), file)
    assert counts(library.index(file)) == (5, 1, 0, 0, 0, 4, 0)
    assert library.reasons() == {
        "00000000/elsewhere.jpg": Reason.VANISHED,
        "00000001": Reason.EMPTY,
        "00000002/x.jpg": Reason.NOT_AN_IMAGE,
        "00000004/empty.jpg": Reason.EMPTY,
    }


def test_a_parquet_file_that_is_none(library: Library, photos: Path, tmp_path: Path) -> None:
    file = make_parquet(tmp_path / "a.parquet", members_of(photos))
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(NothingIndexed):
        library.index(file)
    pq.write_table(pa.table({"path": ["a.jpg"]}), file)
    with pytest.raises(NothingIndexed):
        library.index(file)
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    file.write_bytes(damaged)
    report = library.index(photos, file)
    assert report.found == 24 and report.added + report.failed == 24


SAID = [
    ("a/01.json", b'{"stars": 5, "tags": ["x"]}'),
    ("a/01.txt", b"a cat\n"),
    ("a/03.cls", b"7"),
    ("a/05.cls", b"seven"),
    ("b/02.png.txt", "größe".encode()),
    ("b/04.json", b"[" * 100_000),
    ("b/04.txt", b"x" * (1 << 20) + b"x"),
    (".hidden/01.json", b'{"stars": 9}'),
    ("../b/06.json", b'{"stars": 9}'),
]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_sidecars_lie_in_archives_too(
    name: str, library: Library, photos: Path, tmp_path: Path
) -> None:
    """As WebDataset writes them: what one says comes back with the image, as beside a file."""
    archive = MAKERS[name](tmp_path / name, [*members_of(photos), *SAID])
    report = library.index(archive, sidecars=True)
    assert report.metadata is not None
    assert (report.metadata.matched, report.metadata.unreadable) == (3, 3)
    where = " ".join(report.metadata.unreadable_names)
    assert "a/05.cls (not a whole number)" in where and "b/04.txt (" in where
    assert "b/04.json (nested too deeply)" in where
    nothing = {"stars": None, "tags": None, "caption": None, "cls": None}
    first = {"stars": 5, "tags": ["x"], "caption": "a cat"}
    assert said(library.store, "a/01.png") == {**nothing, **first}
    assert said(library.store, "a/03.png") == {**nothing, "cls": 7}
    assert said(library.store, "b/02.png") == {**nothing, "caption": "größe"}
    again = library.index(sidecars=True)
    assert again.metadata == report.metadata and again.embedded == 0


def test_other_columns_of_parquet_come_along(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    rows = [{"bytes": data, "path": name} for name, data in members_of(photos)]
    columns = {
        "image": rows,
        "label": list(range(len(rows))),
        "caption": [None if n % 2 else f"picture {n}" for n in range(len(rows))],
        "mask": [b"bytes"] * len(rows),
        "path": ["of theirs"] * len(rows),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    report = library.index(tmp_path / "a.parquet", sidecars=True)
    assert report.metadata is not None and report.metadata.matched == 12
    third = {"label": 3, "caption": None, "user_path": "of theirs"}
    assert said(library.store, "00000003/07.png") == third
