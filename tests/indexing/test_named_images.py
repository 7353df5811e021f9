"""Which images the names of a table mean: one each, whatever the way they are written."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.images.tables.table import UserTable, read_user_table
from embedsearch.indexing.named_images import named_images
from embedsearch.indexing.report import MetadataReport
from embedsearch.store.current import read_current
from tests.support.library import Library, paint
from tests.support.stores import live_rows, said

NFC = "größe.png"
NFD = unicodedata.normalize("NFD", NFC)


def joined(library: Library, source: Path, text: str, *folders: Path) -> MetadataReport:
    source.write_text(text)
    report = library.index(*folders, metadata=str(source)).metadata
    assert report is not None
    return report


def test_a_table_beside_its_images_is_about_these(library: Library, tmp_path: Path) -> None:
    """Hugging Face has a table for each split, and the same names in all of them."""
    for number, split in enumerate(("train", "test", "new")):
        paint(tmp_path / split / "0.png", 10 + number)
        paint(tmp_path / split / NFC, 20 + number)
    (tmp_path / "test" / NFC).rename(tmp_path / "test" / NFD)
    folders = [tmp_path / "train", tmp_path / "test", tmp_path / "new"]
    beside = tmp_path / "test" / "metadata.csv"
    report = joined(library, beside, f"file_name,text\n0.png,zero\n{NFC},one\n", *folders)
    assert (report.matched, report.images) == (2, 2)
    texts = {(row["root"], row["key"]): row.get("text") for row in described(library)}
    assert sorted(filter(None, texts.values())) == ["one", "zero"]
    assert {root for (root, _), text in texts.items() if text} == {root_of(library, folders[1])}
    report = joined(library, tmp_path / "t.csv", "file_name,text\n0.png,which\n")
    assert (report.matched, report.unmatched, report.images) == (0, 1, 2)
    reason = "0.png (names images of 3 folders: write the whole path)"
    assert report.unmatched_names == [reason]
    report = joined(library, tmp_path / "t.csv", f"path,text\n{folders[0]}/0.png,this\nnew/0.png,x")
    assert (report.matched, report.images) == (2, 4), "whole, and from the table's folder"


def test_a_table_is_about_the_folder_that_is_indexed_with_it(
    library: Library, tmp_path: Path
) -> None:
    """Two folders hold the same names; the table lies elsewhere."""
    for number, place in enumerate(("x", "y", "y/2020")):
        paint(tmp_path / place / "0.png", 10 + number)
    away = tmp_path / "away" / "t.csv"
    away.parent.mkdir()
    library.index(tmp_path / "x", tmp_path / "y")

    def texts() -> dict[str, str]:
        roots = {root.id: Path(root.path).name for root in read_current(library.store).roots}
        return {
            f"{roots[row['root']]}/{os.fsdecode(row['key'])}": row["text"]
            for row in described(library)
            if row.get("text")
        }

    assert joined(library, away, "path,text\n0.png,of x\n", tmp_path / "x").matched == 1
    assert texts() == {"x/0.png": "of x"}
    assert joined(library, away, "path,text\n0.png,below y\n", tmp_path / "y" / "2020").matched == 1
    assert texts() == {"x/0.png": "of x", "y/2020/0.png": "below y"}
    assert joined(library, away, "path,text\n0.png,of y\n", tmp_path / "y").matched == 1
    assert joined(library, away, "path,text\n0.png,which\n").matched == 0
    both = "path,text\ny/2020/0.png,other\n2020/0.png,it\n"
    assert joined(library, away, both, tmp_path / "x").matched == 1, "x has none of that name"
    assert texts() == {"x/0.png": "of x", "y/0.png": "of y", "y/2020/0.png": "it"}
    assert joined(library, away, "name,text\n0.png,all\n", tmp_path / "x").images == 3


def described(library: Library) -> list[dict[str, Any]]:
    """Return the live rows with the user's columns."""
    from embedsearch.store.snapshot import open_snapshot

    with open_snapshot(library.store) as snapshot:
        columns = snapshot.metadata()
    own = {} if columns is None else {row["row"]: row for row in columns.to_pylist()}
    return [{**row, **own.get(row["row"], {})} for row in live_rows(library.store)]


def root_of(library: Library, folder: Path) -> int:
    roots = read_current(library.store).roots
    return next(root.id for root in roots if root.path == str(folder))


@pytest.mark.parametrize("one", ["a.png", NFC])
@pytest.mark.parametrize("form", ["./{}", "{root}/{}", "{root}/b/../{}", "file://{quoted}", NFD])
def test_an_image_that_is_named_twice(
    library: Library, tmp_path: Path, one: str, form: str
) -> None:
    root = tmp_path / "p"
    one = NFC if form == NFD else one
    paint(root / one, 1)
    library.index(root)
    before = read_current(library.store)
    paint(root / "new.png", 2)
    two = form.format(one, root=root, quoted=quote(str(root / one)))
    with pytest.raises(UsageError, match=r"rows 1 and 3, .*both name .*/p/") as caught:
        joined(library, tmp_path / "t.csv", f"path,n\n{one},1\nnone.png,2\n{two},3\n", root)
    assert repr(one) in str(caught.value) and repr(two) in str(caught.value)
    assert read_current(library.store) == before, "nothing was written"


def test_an_image_named_twice_makes_no_store(library: Library, tmp_path: Path) -> None:
    paint(tmp_path / "p" / "a.png", 1)
    with pytest.raises(UsageError, match="rows 1 and 2"):
        joined(library, tmp_path / "t.csv", "name,n\na.png,1\n./a.png,2\n", tmp_path / "p")
    assert not (library.store / "CURRENT").exists()


def test_two_images_that_look_the_same_are_two(library: Library, tmp_path: Path) -> None:
    paint(tmp_path / "p" / NFC, 1)
    paint(tmp_path / "p" / NFD, 2)
    text = f"path,n\n{NFC},1\n{NFD},2\n"
    assert joined(library, tmp_path / "t.csv", text, tmp_path / "p").matched == 2
    assert (said(library.store, NFC), said(library.store, NFD)) == ({"n": 1}, {"n": 2})
    (tmp_path / "p" / NFD).unlink()
    library.index(rebuild=True, model="packaged")
    assert said(library.store, NFC) == {"n": 1}, "what was said of the other is gone"


def test_names_as_people_write_paths(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["a b.png", NFC, os.fsdecode(b"caf\xe9.png"), "c.png", "~d.png"]
    for number, name in enumerate(names):
        paint(tmp_path / "p" / name, number)
    given = [f"file://{quote(os.fsencode(tmp_path / 'p' / name))}" for name in names[:3]]
    given[1] = f"FILE://localhost{quote(str(tmp_path / 'p' / NFD))}"
    given += ["~/p/c.png", "~d.png", "file://elsewhere/p/c.png"]
    text = "image,n\n" + "".join(f"{name},{number}\n" for number, name in enumerate(given))
    report = joined(library, tmp_path / "t.csv", text, tmp_path / "p")
    assert (report.matched, report.unmatched_names) == (5, ["file://elsewhere/p/c.png"])
    assert [said(library.store, name)["n"] for name in names] == [0, 1, 2, 3, 4]


def test_names_on_a_web_server(tmp_path: Path) -> None:
    """There is a name as it is, and as in a URL: both together name the image twice."""

    def rows(*names: str) -> dict[int, list[int]]:
        source = tmp_path / "t.csv"
        source.write_text("path,n\n" + "".join(f"{name},1\n" for name in names))
        table: UserTable = read_user_table(source, frozenset())
        images = [(7, 0, "a b.jpg"), (8, 0, "c.jpg")]
        return named_images(table, {0: "https://example.org/p"}, images).rows

    url = "https://example.org/p/a%20b.jpg"
    assert rows(url, "https://example.org/p/c.jpg") == {0: [7], 1: [8]}
    with pytest.raises(UsageError, match=r"rows 1 and 2, 'a b.jpg' and 'https:.*both name"):
        rows("a b.jpg", url)
