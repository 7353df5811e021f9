"""One odd entry costs itself: what it states is bounded, and what cannot be read is one failure."""

from __future__ import annotations

import errno
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.paths import bounded
from embedsearch.core.records import Reason
from embedsearch.images.sources.folder import FolderScan
from embedsearch.images.sources.listing import FileList
from tests.support.archives import make_parquet, make_tar, make_zip, members_of
from tests.support.library import Library, counts, paint

FAR = 13_569_465_600 * 10**9  # the year 2400
INT64 = 1 << 63


class OddTimes:
    """An `os.stat` and an `os.fstat` that state a time or raise an error for some names."""

    def __init__(self, patch: pytest.MonkeyPatch, answers: dict[str, int | OSError]) -> None:
        self._answers, real = answers, os.stat

        def stat(path: Any, *more: Any, **options: Any) -> Any:
            name = "" if isinstance(path, int) else os.path.basename(os.fsdecode(path))
            if isinstance(answer := self._answers.get(name), OSError):
                raise answer
            facts = real(path, *more, **options)
            return facts if answer is None else Facts(facts, answer)

        patch.setattr(os, "stat", stat)


class Facts:
    def __init__(self, real: os.stat_result, mtime_ns: int) -> None:
        self._real, self.st_mtime_ns = real, mtime_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    ("stated", "kept"), [(FAR, INT64 - 1), (-FAR, -INT64), (1 << 80, INT64 - 1), (5, 5)]
)
def test_a_time_is_bounded_where_it_is_read(
    stated: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bounded(stated) == kept
    paint(tmp_path / "odd.png", 1)
    OddTimes(monkeypatch, {"odd.png": stated})
    for source in (FolderScan(0, str(tmp_path)), FileList(0, str(tmp_path), ["odd.png"])):
        assert [ref.mtime_ns for ref in source] == [kept]


@pytest.mark.parametrize("seconds", [-9_223_372_037, 9_223_372_037, 13_569_465_600])
def test_files_of_any_time_are_indexed_and_unchanged(
    seconds: int, library: Library, photos: Path, tmp_path: Path
) -> None:
    members = members_of(photos)
    archive = make_tar(tmp_path / "a.tar", members)
    table = make_parquet(tmp_path / "a.parquet", members)
    for path in (photos / "b" / "00.png", archive, table):
        os.utime(path, ns=(0, seconds * 10**9))
        if path.stat().st_mtime != seconds:
            pytest.skip("this file system has no such time")
    listed = tmp_path / "list"
    listed.write_text("\n".join(map(str, photos.rglob("*.png"))))
    assert counts(library.index(photos, archive, table)) == (36, 36, 0, 0, 0, 0, 0)
    assert counts(library.index())[:2] == (36, 0)
    (photos / "b" / "00.png").rename(photos / "b" / "moved.png")
    report = library.index()
    assert (report.moved, report.added, report.failed) == (1, 0, 0)
    other = Library(tmp_path / "l.es", library._factory)
    (photos / "b" / "moved.png").rename(photos / "b" / "00.png")
    assert counts(other.index(files=str(listed)))[:2] == (12, 12)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EINVAL])
def test_an_entry_without_facts_costs_itself(
    number: int, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counts(library.index(photos))[:2] == (12, 12)
    paint(photos / "b" / "sub" / "new.png", 50)
    with monkeypatch.context() as patch:
        OddTimes(patch, {"02.png": OSError(number, os.strerror(number))})
        report = library.index()
    assert (report.added, report.deleted, report.scan_failures) == (1, 0, 1)
    assert set(library.reasons()) == {"b/02.png"}
    report = library.index()
    assert (report.added, report.deleted, report.scan_failures) == (0, 0, 0)
    assert not library.reasons()


def test_an_entry_without_a_type_and_a_listing_that_breaks(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir
    error = OSError(errno.EIO, "Input/output error")

    class Entry:
        def __init__(self, entry: Any) -> None:
            self._entry, self.name = entry, entry.name

        def __getattr__(self, name: str) -> Callable[..., Any]:
            def ask(**options: Any) -> Any:
                if self.name == "02.png":
                    raise error
                return getattr(self._entry, name)(**options)

            return ask

    class Listing:
        def __init__(self, breaks: bool) -> None:
            self._breaks = breaks

        def __call__(self, descriptor: int) -> Listing:
            with real(descriptor) as entries:
                self._left = sorted(entries, key=lambda entry: entry.name)
            self._breaks = self._breaks and self._left[0].name == "00.png"
            return self

        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def __next__(self) -> Entry:
            if not self._left:
                raise StopIteration
            if self._breaks and len(self._left) == 3:
                raise error
            return Entry(self._left.pop(0))

    monkeypatch.setattr(os, "scandir", lambda folder: Listing(breaks=False)(folder))
    scan = FolderScan(0, str(photos))
    assert len(list(scan)) == 11
    assert [(f.key, f.reason) for f in scan.failures] == [("b/02.png", Reason.IO_ERROR)]
    monkeypatch.setattr(os, "scandir", lambda folder: Listing(breaks=True)(folder))
    scan = FolderScan(0, str(photos))
    assert len(list(scan)) == 6 + 2  # what was listed before the error, but for 02.png
    assert [failure.key for failure in scan.failures] == ["b/02.png", "b"]


def test_a_zip_that_states_what_no_file_has(library: Library, photos: Path, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", members_of(photos), zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    # The first record of the directory: sizes and offset in a zip64 field, as large as they go.
    at = data.index(b"PK\1\2")
    name, extra = struct.unpack_from("<HH", data, at + 28)
    assert not extra
    struct.pack_into("<II", data, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, at + 30, 4 + 24)
    struct.pack_into("<I", data, at + 42, 0xFFFFFFFF)
    field = struct.pack("<HHQQQ", 1, 24, (1 << 64) - 1, (1 << 64) - 1, (1 << 63) - 1)
    data[at + 46 + name : at + 46 + name] = field
    end = data.index(b"PK\5\6")
    size = struct.unpack_from("<I", data, end + 12)[0]
    struct.pack_into("<I", data, end + 12, size + len(field))
    archive.write_bytes(data)
    report = library.index(archive)
    assert (report.added, report.failed) == (11, 1)
    assert set(library.reasons().values()) <= {Reason.CORRUPT, Reason.TOO_BIG}


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, (1 << 80) - 1, -5])
def test_a_tar_that_states_what_no_file_has(
    size: int, library: Library, photos: Path, tmp_path: Path
) -> None:
    archive = make_tar(tmp_path / "a.tar", members_of(photos))
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1]
    data = bytearray(archive.read_bytes())
    header = data[last.offset : last.offset + 512]
    header[124:136] = (size % (1 << 88) | 1 << 95).to_bytes(12, "big")  # base 256
    if size < 0:
        header[124:136] = b"\xff" + (size % (1 << 88)).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[last.offset : last.offset + 512] = header
    archive.write_bytes(data)
    report = library.index(archive)
    assert report.added == 11
    assert report.failed + report.scan_failures >= 1


def test_a_broken_page_costs_its_group(library: Library, photos: Path, tmp_path: Path) -> None:
    path = make_parquet(tmp_path / "whole.parquet", members_of(photos))
    table = pq.read_table(path)
    path = tmp_path / "a.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=4,
        compression="none",
        write_page_checksum=True,
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(1)
    columns = [group.column(number) for number in range(group.num_columns)]
    (column,) = (column for column in columns if column.path_in_schema.endswith("bytes"))
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(data)
    report = library.index(path)
    assert (report.added, report.failed) == (8, 4)


def test_a_date_that_no_clock_tells_counts_as_none(
    library: Library, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    from PIL import Image

    photos = tmp_path / "dated"
    for name, date in (("a.jpg", "0001:01:01 00:00:00"), ("b.jpg", "9999:12:31 23:59:59")):
        exif = Image.Exif()
        exif[0x0132] = date
        paint(photos / name, 1, exif=exif)
    paint(photos / "c.jpg", 1)
    library.index(photos)
    for wish in ("oldest", "newest"):
        report = embedsearch.duplicates(library.store, keep=(wish,))
        assert len(report.groups) == 1 and len(report.groups[0].copies) == 2
