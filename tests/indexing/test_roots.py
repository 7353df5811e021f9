"""Libraries that move: rows, vectors and columns stay; what is gone for good can be forgotten."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.indexing.store_update import _renumbered
from tests.support.library import Library, counts, paint, run_cli


def facts(store: Path) -> dict[str, Any]:
    return embedsearch.info(store).to_dict()


def captions(store: Path) -> dict[str, Any]:
    with embedsearch.open_store(store) as searcher:
        return {r.full_path: r.metadata.get("caption") for r in searcher.images(999).images}


@pytest.fixture
def library(tmp_path: Path, extractor: Any) -> Library:
    """Six images with captions, in a store; the extractor counts what is embedded."""
    for seed in range(6):
        paint(tmp_path / "photos" / f"sub{seed % 2}" / f"{seed}.jpg", seed)
    lines = "".join(f"sub{seed % 2}/{seed}.jpg,caption {seed}\n" for seed in range(6))
    (tmp_path / "labels.csv").write_text("path,caption\n" + lines)
    made = Library(tmp_path / "s.es", extractor)
    made.index(tmp_path / "photos", metadata=str(tmp_path / "labels.csv"))
    return made


def moved(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return (tmp_path / "photos").rename(tmp_path / "disk" / "big")


def test_a_folder_that_was_moved_is_recognised(library: Library, tmp_path: Path) -> None:
    before = {Path(path).name: text for path, text in captions(library.store).items()}
    new = moved(tmp_path)
    report = library.index(new)
    assert counts(report) == (6, 0, 0, 6, 0, 0, 0) and report.embedded == 0
    after = captions(library.store)
    assert {Path(path).name: text for path, text in after.items()} == before
    assert all(path.startswith(str(new)) for path in after)
    assert facts(library.store)["missing_roots"] == [str(tmp_path / "photos")]
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)


def test_a_folder_that_was_moved_in_part(library: Library, tmp_path: Path) -> None:
    """What is nowhere else stays: its disk may come back."""
    new = moved(tmp_path)
    (new / "sub0" / "0.jpg").unlink()
    paint(new / "fresh.jpg", 77)
    report = library.index(new)
    assert counts(report) == (6, 1, 0, 5, 0, 0, 0)
    assert report.images == 7
    assert captions(library.store)[str(tmp_path / "photos" / "sub0" / "0.jpg")] == "caption 0"
    with pytest.raises(UsageError, match="photos has vanished, and 1 image of it would leave"):
        library.index()


def test_both_names_at_once(library: Library, tmp_path: Path) -> None:
    new = moved(tmp_path)
    assert counts(library.index(tmp_path / "photos", new)) == (6, 0, 0, 6, 0, 0, 0)


def test_the_message_says_what_to_do(library: Library, tmp_path: Path) -> None:
    moved(tmp_path)
    with pytest.raises(UsageError) as told:
        library.index()
    words = str(told.value)
    order = [words.index(name) for name in ("relocate", "forget", "allow_empty")]
    assert order == sorted(order)


def test_a_folder_is_relocated(library: Library, tmp_path: Path) -> None:
    before = {Path(path).name: text for path, text in captions(library.store).items()}
    new = moved(tmp_path)
    report = embedsearch.relocate(tmp_path / "photos", new, library.store)
    assert (report.images, report.roots) == (6, [str(tmp_path / "photos")])
    assert {Path(path).name: text for path, text in captions(library.store).items()} == before
    assert facts(library.store)["roots"] == [str(new)]
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)


def test_a_disk_with_several_folders_is_relocated(tmp_path: Path, extractor: Any) -> None:
    disk = tmp_path / "old"
    for seed in range(4):
        paint(disk / f"root{seed % 2}" / f"{seed}.jpg", seed)
    with zipfile.ZipFile(disk / "more.zip", "w") as archive:
        archive.write(paint(tmp_path / "x.jpg", 9), "x.jpg")
    library = Library(tmp_path / "s.es", extractor)
    library.index(disk / "root0", disk / "root1", disk / "more.zip")
    disk.rename(tmp_path / "new")
    report = embedsearch.relocate(disk, tmp_path / "new", library.store)
    assert len(report.roots) == 3 and report.images == 5
    assert counts(library.index()) == (5, 0, 0, 0, 5, 0, 0)


def test_listed_files_are_relocated(tmp_path: Path, extractor: Any) -> None:
    for seed in range(3):
        paint(tmp_path / "photos" / f"{seed}.jpg", seed)
    names = sorted(map(str, (tmp_path / "photos").iterdir()))
    (tmp_path / "list.txt").write_text("\n".join(names))
    library = Library(tmp_path / "s.es", extractor)
    library.index(files=str(tmp_path / "list.txt"))
    new = moved(tmp_path)
    assert embedsearch.relocate(tmp_path / "photos", new, library.store).images == 3
    assert sorted(captions(library.store)) == [f"{new}/{seed}.jpg" for seed in range(3)]
    assert counts(library.index()) == (3, 0, 0, 0, 3, 0, 0)


def test_other_files_of_the_same_names_and_sizes_are_no_listed_ones(
    tmp_path: Path, extractor: Any
) -> None:
    for seed in range(3):
        paint(tmp_path / "old" / f"{seed}.bmp", seed)
        paint(tmp_path / "new" / f"{seed}.bmp", 10 + seed)
    library = Library(tmp_path / "s.es", extractor)
    library.index(*sorted((tmp_path / "old").iterdir()))
    (tmp_path / "old").rename(tmp_path / "away")
    with pytest.raises(UsageError, match="of 3 images that were looked for, 0 are there"):
        embedsearch.relocate(tmp_path / "old", tmp_path / "new", library.store)
    assert embedsearch.relocate(tmp_path / "old", tmp_path / "away", library.store).images == 3


def test_columns_of_all_rows_that_become_one_stay() -> None:
    table = pa.table(
        {
            "row": [1, 2, 3, 9],
            "a": [None, 2, 3, 9],
            "b": [1, None, None, 9],
            "c": [None, None, 3, 9],
        }
    )
    (one, other) = _renumbered(table, {1: 5, 2: 5, 3: 5}).to_pylist()
    assert one == {"row": 5, "a": 2, "b": 1, "c": 3} and other["a"] == 9
    assert _renumbered(table.slice(0, 0), {1: 5}).num_rows == 0


def test_what_cannot_be_relocated(library: Library, tmp_path: Path) -> None:
    old, store = tmp_path / "photos", library.store
    other = tmp_path / "other"
    for seed in range(6):
        paint(other / f"sub{seed % 2}" / f"{seed}.jpg", 100 + seed)
    before = facts(store)["generation"]
    for new, words in (
        (other, "of 6 images that were looked for, 0 are there"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        with pytest.raises(UsageError, match=words):
            embedsearch.relocate(old, new, store)
    with pytest.raises(UsageError, match="the store has no folder"):
        embedsearch.relocate(old / "sub0", other, store)
    library.index(other)
    with pytest.raises(UsageError, match="in the store already"):
        embedsearch.relocate(old, other, store)
    assert facts(store)["generation"] >= before and len(captions(store)) == 12


def test_a_link_at_the_old_place(library: Library, tmp_path: Path) -> None:
    new = moved(tmp_path)
    (tmp_path / "photos").symlink_to(new)
    assert embedsearch.relocate(tmp_path / "photos", new, library.store).images == 6
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)
    assert all(path.startswith(str(new)) for path in captions(library.store))


def test_a_folder_that_moved_into_another_one(library: Library, tmp_path: Path) -> None:
    paint(tmp_path / "all" / "x.jpg", 60)
    library.index(tmp_path / "all")
    before = sorted(map(str, captions(library.store).values()))
    (tmp_path / "photos").rename(tmp_path / "all" / "photos")
    with pytest.raises(UsageError, match=r"overlap: embedsearch index .*all"):
        embedsearch.relocate(tmp_path / "photos", tmp_path / "all" / "photos", library.store)
    assert counts(library.index(tmp_path / "all")) == (7, 0, 0, 6, 1, 0, 0)
    assert sorted(map(str, captions(library.store).values())) == before


def test_a_folder_is_forgotten(library: Library, tmp_path: Path) -> None:
    other = tmp_path / "other"
    paint(other / "x.jpg", 50)
    (other / "bad.jpg").write_bytes(b"no picture")
    library.index(other)
    with pytest.raises(UsageError, match="is a part of"):
        embedsearch.forget(tmp_path / "photos" / "sub0", library.store)
    with pytest.raises(UsageError, match="the store has no folder"):
        embedsearch.forget(tmp_path / "elsewhere", library.store)
    shutil.rmtree(other)
    report = embedsearch.forget(other, library.store)
    assert (report.images, report.roots) == (1, [str(other)])
    assert facts(library.store)["roots"] == [str(tmp_path / "photos")]
    assert facts(library.store)["failures"] == 0
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)
    assert set(captions(library.store).values()) == {f"caption {seed}" for seed in range(6)}
    assert embedsearch.check(library.store).problems == []


def test_the_commands(library: Library, tmp_path: Path) -> None:
    new = moved(tmp_path)
    store = ("--store", library.store)
    done = run_cli("relocate", tmp_path / "photos", new, *store)
    assert done.returncode == 0 and f"6 images now at {new}" in done.stdout, done.stderr
    shown = run_cli("info", *store).stdout
    assert f"folders     {new}\n" in shown
    shutil.rmtree(new)
    assert f"{new} (not there now)" in run_cli("info", *store).stdout
    done = run_cli("forget", new, "--json", *store)
    assert done.returncode == 0 and '"images": 6' in done.stdout, done.stderr
    assert run_cli("forget", new, *store).returncode == 2
