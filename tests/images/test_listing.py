"""Files named one by one: what a list adds, changes and drops, and what it leaves alone."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.core.records import Reason
from embedsearch.images.sources import links
from embedsearch.images.sources.listing import read_paths
from tests.support.library import Library, counts, paint, run_cli


def listing(path: Path, *files: str | Path) -> str:
    path.write_bytes(b"".join(os.fsencode(file) + b"\n" for file in files))
    return str(path)


def test_a_list_touches_what_it_names(library: Library, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    names = listing(tmp_path / "l.txt", *files[:5], photos / "none.png", photos, "/etc/hostname")
    report = library.index(files=names)
    assert counts(report) == (6, 5, 0, 0, 0, 1, 0)  # what is named is decoded
    assert (report.ignored.special, report.ignored.total, report.scan_failures) == (1, 1, 1)
    assert set(library.reasons().values()) == {Reason.VANISHED, Reason.NOT_AN_IMAGE}
    assert counts(library.index(files=listing(tmp_path / "l.txt", *files[3:7]))) == (
        *(4, 2, 0, 0, 2, 0, 0),
    )
    paint(files[0], 50)
    files[1].unlink()
    report = library.index(files=listing(tmp_path / "l.txt", files[0]))
    assert counts(report) == (1, 0, 1, 0, 0, 0, 0) and report.images == 7
    paint(files[6], 51)
    report = library.index()  # all that was ever named
    assert counts(report) == (6, 0, 1, 0, 5, 0, 1) and report.images == 6
    assert counts(library.index(rebuild=True)) == (6, 6, 0, 0, 0, 0, 0)


def test_a_listed_file_of_a_known_folder_is_an_image_of_that(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    library.index(photos)
    new = paint(photos / "new.png", 60)
    other = paint(tmp_path / "other.png", 61)
    (photos / "a" / "01.png").unlink()  # not named: not looked at
    report = library.index(files=listing(tmp_path / "l.txt", new, other))
    assert counts(report) == (2, 2, 0, 0, 0, 0, 0) and report.images == 14
    assert counts(library.index(photos)) == (12, 0, 0, 0, 12, 0, 1)


def test_relative_paths_links_and_odd_names(
    library: Library, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    odd = os.fsencode(str(photos)) + b"/line\nbreak \xff.png"
    Path(os.fsdecode(odd)).write_bytes((photos / "a" / "01.png").read_bytes())
    (tmp_path / "there").symlink_to(photos)
    (tmp_path / "l.bin").write_bytes(
        b"\0".join([b"a/01.png", odd, os.fsencode(tmp_path / "there" / "b" / "02.png")]) + b"\0"
    )
    assert counts(library.index(files=str(tmp_path / "l.bin"))) == (3, 3, 0, 0, 0, 0, 0)


def test_a_carriage_return_is_part_of_a_name_where_nul_separates() -> None:
    assert list(read_paths(io.BytesIO(b"a.jpg\r\0b.jpg\0"))) == ["a.jpg\r", "b.jpg"]
    assert list(read_paths(io.BytesIO(b"a.jpg\r\nb.jpg\r"))) == ["a.jpg", "b.jpg"]


def test_a_file_that_cannot_be_opened_costs_only_itself(
    library: Library, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index(photos)
    shutil.copy(photos / "a" / "01.png", photos / "scan0001")
    more = paint(photos / "b" / "more.png", 70)

    def opened(path: str, mode: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(links, "open", opened, raising=False)
    report = library.index(files=listing(tmp_path / "l.txt", photos / "scan0001", more))
    assert (report.added, report.failed) == (2, 0), "it is decoded as a file of a list"


def test_what_is_no_list(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        library.index(files=str(tmp_path / "none.txt"))
    with pytest.raises(NothingIndexed, match="files"):
        library.index(files=listing(tmp_path / "l.txt"))
    with pytest.raises(NothingIndexed, match=r"vanished: No such file"):
        library.index(files=listing(tmp_path / "l.txt", "/nowhere/x.png"))
    with pytest.raises(UsageError, match="no list of paths"):
        list(read_paths(io.BytesIO(b"x" * (1 << 21))))
    with pytest.raises(UsageError, match="rebuild"):
        library.index(files="l.txt", rebuild=True)
    assert not library.store.exists()


def test_through_a_pipe(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:4]
    index = ["index", "--files", "-", "--store", tmp_path / "s.es", "--model", "packaged"]
    done = run_cli(*index, input="\n".join(map(str, files)))
    assert done.returncode == 0 and "4 images found: 4 added" in done.stdout
    done = run_cli("query", files[0], "--store", tmp_path / "s.es", "-k", "1", "--paths")
    assert done.stdout.strip() == str(files[0])


def test_what_is_named_is_decoded_whatever_its_name(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    """Content decides: hidden, without a suffix, with another, left out by patterns, a link."""
    picture = (photos / "a" / "01.png").read_bytes()
    names = [".hidden", "12345", "photo.jpg?width=300", "x.data", "@eaDir/thumb.png"]
    for number, name in enumerate(names):
        paint(tmp_path / "n" / f"{number}.png", 200 + number)
        (tmp_path / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "n" / f"{number}.png").rename(tmp_path / "odd" / name)
    (tmp_path / "odd" / "link").symlink_to(photos / "a" / "01.png")
    files = [tmp_path / "odd" / name for name in [*names, "link"]]
    report = library.index(files=listing(tmp_path / "l.txt", *files))
    assert counts(report) == (6, 6, 0, 0, 0, 0, 0)
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)
    assert counts(library.index(rebuild=True)) == (6, 6, 0, 0, 0, 0, 0)
    assert (photos / "a" / "01.png").read_bytes() == picture


def test_a_named_file_of_a_known_folder_stays_when_that_is_walked(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    library.index(photos)
    odd = photos / ".hidden.png"
    paint(photos / "n.png", 300).rename(odd)
    report = library.index(files=listing(tmp_path / "l.txt", odd))
    assert counts(report) == (1, 1, 0, 0, 0, 0, 0) and report.images == 13
    assert counts(library.index(photos)) == (12, 0, 0, 0, 12, 0, 0)
    assert counts(library.index()) == (13, 0, 0, 0, 13, 0, 0)


def test_a_place_that_is_an_image_is_a_list_of_one(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    new = paint(tmp_path / "elsewhere" / "12345.png", 400).rename(tmp_path / "elsewhere" / "12345")
    library.index(photos / "a")
    assert counts(library.index(new)) == (1, 1, 0, 0, 0, 0, 0)
    assert counts(library.index(new)) == (1, 0, 0, 0, 1, 0, 0)
    assert counts(library.index()) == (7, 0, 0, 0, 7, 0, 0)
    other = paint(tmp_path / "elsewhere" / "b.png", 401)
    assert counts(library.index(other, rebuild=True)) == (8, 8, 0, 0, 0, 0, 0)
    assert counts(library.index()) == (8, 0, 0, 0, 8, 0, 0)


def test_a_part_of_a_folder_and_a_file_elsewhere_in_it(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    library.index(photos)
    new = paint(photos / "a" / "new.png", 60)
    report = library.index(photos / "b", files=listing(tmp_path / "l.txt", new))
    assert counts(report) == (7, 1, 0, 0, 6, 0, 0)


def test_an_unplugged_disk_empties_no_list(library: Library, photos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    files = [paint(disk / "dcim" / f"{number}.png", 500 + number) for number in range(3)]
    kept = paint(tmp_path / "kept.png", 510)
    names = listing(tmp_path / "l.txt", *files, kept)
    library.index(files=names)
    disk.rename(tmp_path / "unplugged")
    for repeat in (names, None):
        report = library.index(files=repeat)
        assert (report.found, report.deleted, report.scan_failures, report.images) == (1, 0, 3, 4)
    (disk / "dcim").mkdir(parents=True)  # a mount point, with nothing in it
    report = library.index()
    assert (report.found, report.deleted, report.images) == (1, 0, 4)
    (tmp_path / "unplugged" / "dcim").rename(tmp_path / "back")
    (disk / "dcim").rmdir()
    (tmp_path / "back").rename(disk / "dcim")
    files[0].unlink()  # truly gone: its folder is there and lists others
    report = library.index()
    assert (report.found, report.deleted, report.images) == (3, 1, 3)
    (disk / "dcim").rename(tmp_path / "away")
    report = library.index(allow_empty=True)
    assert (report.found, report.deleted, report.images) == (1, 2, 1)


def test_a_list_whose_files_are_all_gone_is_no_accident_of_the_store(
    library: Library, tmp_path: Path
) -> None:
    files = [paint(tmp_path / "p" / f"{number}.png", number) for number in range(2)]
    (tmp_path / "p" / "other.txt").write_text("")
    library.index(files=listing(tmp_path / "l.txt", *files))
    for file in files:
        file.unlink()
    with pytest.raises(UsageError, match="allow_empty"):
        library.index()
