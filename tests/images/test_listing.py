"""Files named one by one: what a list adds, changes and drops, and what it leaves alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.core.records import Reason
from embedsearch.images.sources.listing import read_paths
from tests.support.library import Library, counts, paint, run_cli


def listing(path: Path, *files: str | Path) -> str:
    path.write_bytes(b"".join(os.fsencode(file) + b"\n" for file in files))
    return str(path)


def test_a_list_touches_what_it_names(library: Library, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    names = listing(tmp_path / "l.txt", *files[:5], photos / "none.png", photos, "/etc/hostname")
    report = library.index(files=names)
    assert counts(report) == (5, 5, 0, 0, 0, 0, 0)
    assert (report.ignored.special, report.ignored.other_suffix, report.scan_failures) == (1, 1, 1)
    assert list(library.reasons().values()) == [Reason.VANISHED]
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
