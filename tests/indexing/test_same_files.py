"""One file, one row: however it was named, with its vector and the user's columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import embedsearch
from embedsearch.core.records import EmbeddingBatch, ImageFacts, ImageRef, Root, RootKind
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.indexing.report import IndexReport
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.store.check import check_store
from embedsearch.store.snapshot import open_snapshot
from embedsearch.store.writer import StoreWriter
from tests.support.extractor import CountingExtractor
from tests.support.library import paint
from tests.support.oracle import unit


@pytest.fixture
def index(tmp_path: Path, extractor: Callable[..., Any]) -> Callable[..., IndexReport]:
    """Index into `s.es`; three photos lie in `p/sub`."""
    for number in range(3):
        paint(tmp_path / "p" / "sub" / f"{number}.png", number)

    def run(*folders: Path, **options: Any) -> IndexReport:
        model: dict[str, Any] = {} if (tmp_path / "s.es").exists() else {"model": "packaged"}
        return embedsearch.index(
            folders, store=tmp_path / "s.es", extractor_factory=extractor, **model, **options
        )

    return run


def bring(tmp_path: Path, root: Path, *names: str) -> None:
    """Import a vector of ones for each of the names."""
    np.save(tmp_path / "v.npy", np.ones((len(names), 512), np.float32))
    (tmp_path / "names.csv").write_text("path,caption\n" + "".join(f"{n},of {n}\n" for n in names))
    import_vectors(
        tmp_path / "v.npy", paths=tmp_path / "names.csv", root=root, store=tmp_path / "s.es",
        model="packaged",
    )  # fmt: skip


def captions(tmp_path: Path) -> dict[str, str | None]:
    """Return the caption of each file, once it is seen that no output has a file twice."""
    store = tmp_path / "s.es"
    with embedsearch.open_store(store) as searcher:
        images = searcher.images(100).images
        paths = [hit.full_path for hit in searcher.query(unit(0), k=100)]
    assert len(set(paths)) == len(paths) == len(images)
    for group in embedsearch.duplicates(store, similar=0.9).groups:
        assert group.keep.full_path not in {copy.picture.full_path for copy in group.copies}
    assert check_store(store, read_data=True)[1] == []
    return {
        image.full_path.removeprefix(f"{tmp_path}/"): image.metadata.get("caption")
        for image in images
    }


def listed(tmp_path: Path, *names: str) -> str:
    (tmp_path / "list").write_text("".join(f"{tmp_path}/{name}\n" for name in names))
    return str(tmp_path / "list")


def table(tmp_path: Path, *names: str) -> str:
    lines = "".join(f"{tmp_path}/{name},of {name.rpartition('/')[2]}\n" for name in names)
    (tmp_path / "t.csv").write_text("path,caption\n" + lines)
    return str(tmp_path / "t.csv")


ALL = [f"p/sub/{number}.png" for number in range(3)]


@pytest.mark.parametrize("above", ["p", "p/sub"])
def test_a_listed_file_goes_over_to_its_folder(
    index: Callable[..., IndexReport], tmp_path: Path, above: str
) -> None:
    index(files=listed(tmp_path, ALL[0], ALL[1]), metadata=table(tmp_path, ALL[0], ALL[1]))
    paint(tmp_path / ALL[1], 77)
    embedded = CountingExtractor.embedded
    report = index(tmp_path / above)
    assert (report.moved, report.added, report.changed, report.images) == (1, 1, 1, 3)
    assert CountingExtractor.embedded == embedded + 2, "the one that changed, and the new one"
    assert captions(tmp_path) == {ALL[0]: "of 0.png", ALL[1]: "of 1.png", ALL[2]: None}
    again = index()
    assert (again.unchanged, again.deleted, again.committed) == (3, 0, False)


def test_a_listed_file_that_a_walk_passes_over_stays_listed(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    paint(tmp_path / "p" / ".hidden" / "4.png", 4)
    shutil.copy(tmp_path / ALL[0], tmp_path / "p" / "sub" / "plain")
    names = ("p/.hidden/4.png", ALL[0])
    index(files=listed(tmp_path, *names), metadata=table(tmp_path, *names))
    for _ in range(2):
        assert index(tmp_path / "p", exclude=("*2.png",)).images == 4
        found = captions(tmp_path)
        assert (found["p/.hidden/4.png"], found[ALL[0]]) == ("of 4.png", "of 0.png")
    (tmp_path / ALL[0]).unlink()
    (tmp_path / names[0]).unlink()
    paint(tmp_path / "p" / ".hidden" / "5.png", 5)
    assert index(allow_empty=True).deleted == 2


def test_a_copy_does_not_get_the_columns_of_a_file_that_stayed(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    index(tmp_path / "p" / "sub", metadata=table(tmp_path, *ALL))
    shutil.copy(tmp_path / ALL[0], tmp_path / "p" / "0.png")  # its key comes first
    shutil.copy(tmp_path / ALL[0], tmp_path / "p" / "sub" / "00.png")
    shutil.move(tmp_path / ALL[2], tmp_path / "p" / "moved.png")
    report = index(tmp_path / "p")
    assert (report.added, report.moved) == (2, 3)
    assert captions(tmp_path) == {
        "p/0.png": None, "p/sub/00.png": None, ALL[0]: "of 0.png", ALL[1]: "of 1.png",
        "p/moved.png": "of 2.png",
    }  # fmt: skip


def test_behind_a_link_and_then_in_its_folder(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "p" / "sub")
    (tmp_path / "t.csv").write_text("name,caption\n0.png,of 0.png\n")
    index(tmp_path / "a", metadata=str(tmp_path / "t.csv"))
    shutil.copy(tmp_path / ALL[0], tmp_path / "p" / "sub" / "00.png")
    index(tmp_path / "p", allow_empty=True)
    index(allow_empty=True)
    assert captions(tmp_path) == {
        "p/sub/00.png": None, ALL[0]: "of 0.png", ALL[1]: None, ALL[2]: None
    }  # fmt: skip


def test_an_import_names_the_rows_that_are_there(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    index(tmp_path / "p", files=listed(tmp_path, ALL[0]))
    (tmp_path / "link").symlink_to(tmp_path / "p")
    bring(tmp_path, tmp_path / "p" / "sub", "0.png", "3.png")
    bring(tmp_path, tmp_path, "link/sub/1.png", "p/sub/2.png")
    paint(tmp_path / "p" / "sub" / "3.png", 3)
    expected = {
        ALL[0]: "of 0.png", ALL[1]: "of link/sub/1.png", ALL[2]: "of p/sub/2.png",
        "p/sub/3.png": "of 3.png",
    }  # fmt: skip
    assert captions(tmp_path) == expected
    with open_snapshot(tmp_path / "s.es") as snapshot:
        assert [root.path for root in snapshot.manifest.roots] == [str(tmp_path / "p")]
    assert index(allow_empty=True).images == 4
    assert captions(tmp_path) == expected


def test_an_import_meets_names_with_other_accents(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    paint(tmp_path / "p" / "sub" / "e\u0301.png", 5)
    index(tmp_path / "p")
    bring(tmp_path, tmp_path / "p", "sub/\xe9.png", "gone/\xe9.png")
    found = captions(tmp_path)
    assert len(found) == 5 and found["p/sub/e\u0301.png"] == "of sub/\xe9.png"


@pytest.mark.parametrize("above", ["p", "p/sub"])
def test_imported_vectors_stay_when_their_folder_is_indexed(
    index: Callable[..., IndexReport], tmp_path: Path, above: str
) -> None:
    bring(tmp_path, tmp_path / "p" / "sub", "0.png", "1.png")
    embedded = CountingExtractor.embedded
    assert index(tmp_path / above).images == 3
    assert CountingExtractor.embedded == embedded + 1
    assert captions(tmp_path) == {ALL[0]: "of 0.png", ALL[1]: "of 1.png", ALL[2]: None}


def test_a_store_that_holds_files_twice_is_mended(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    """As older versions left it: a list, and an import below a folder that is scanned."""
    index(tmp_path / "p", metadata=table(tmp_path, ALL[1]))
    store = tmp_path / "s.es"
    with StoreWriter(store) as writer, open_snapshot(store) as snapshot:
        roots = (
            *snapshot.manifest.roots,
            Root(7, str(tmp_path / "p" / "sub")),
            Root(8, "/", RootKind.LIST),
        )
        update = StoreUpdate(writer, snapshot.manifest.model, roots, rebuild=False)
        names = [str(tmp_path / name)[1:] for name in ALL]
        refs = [ImageRef(7, f"{n}.png", -1, -1) for n in range(3)]
        refs += [ImageRef(8, name, -1, -1) for name in names]
        vectors = np.tile(unit(1), (6, 1)).astype(np.float32)
        update.add(EmbeddingBatch(refs, [ImageFacts(0, 0, "", bytes(32))] * 6, vectors))
        update.commit({})
        first = update.manifest.next_row - 6
        with update.staged() as staged:
            known = update.user_columns()
            assert known is not None and staged.manifest.live == 9
        more = {"row": range(first, first + 6), "caption": [f"other {n}" for n in range(6)]}
        update.set_user_columns(pa.concat_tables([known, pa.table(more, schema=known.schema)]))
        update.commit({})
    for group in embedsearch.duplicates(store).groups:
        assert group.keep.full_path not in {copy.picture.full_path for copy in group.copies}
    report = index()
    assert (report.images, report.committed) == (3, True)
    assert captions(tmp_path) == {ALL[0]: "other 0", ALL[1]: "of 1.png", ALL[2]: "other 2"}
    assert not index().committed


def test_a_rebuild_of_a_store_that_holds_a_file_twice(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    index(files=listed(tmp_path, ALL[0]), metadata=table(tmp_path, ALL[0]))
    store = tmp_path / "s.es"
    with StoreWriter(store) as writer, open_snapshot(store) as snapshot:
        roots = (*snapshot.manifest.roots, Root(7, str(tmp_path / "p")))
        update = StoreUpdate(writer, snapshot.manifest.model, roots, rebuild=False)
        ref = ImageRef(7, "sub/0.png", -1, -1)
        vector = unit(1)[None].astype(np.float32)
        update.add(EmbeddingBatch([ref], [ImageFacts(0, 0, "", bytes(32))], vector))
        update.commit({})
    index(rebuild=True)
    assert captions(tmp_path) == {ALL[0]: "of 0.png", ALL[1]: None, ALL[2]: None}


def test_a_rebuild_follows_a_file_that_has_moved(
    index: Callable[..., IndexReport], tmp_path: Path
) -> None:
    table = tmp_path / "m.csv"
    table.write_text("name,caption\n0.png,sea\n1.png,wood\n")
    index(tmp_path / "p", metadata=str(table))
    (tmp_path / "p" / "sub" / "0.png").rename(tmp_path / "p" / "moved.png")
    shutil.copy(tmp_path / "p" / "sub" / "1.png", tmp_path / "p" / "copy.png")
    index(rebuild=True)
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        captions = {
            name: searcher.get(name).metadata.get("caption")
            for name in ("moved.png", "sub/1.png", "copy.png", "sub/2.png")
        }
    assert captions == {
        "moved.png": "sea",
        "sub/1.png": "wood",
        "copy.png": None,
        "sub/2.png": None,
    }
