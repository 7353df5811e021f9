"""Links in walks: what is followed, once and without loops, and what is shown of it later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import embedsearch
from embedsearch.core.errors import NothingIndexed, UnreadableImage
from embedsearch.core.paths import open_link
from embedsearch.core.records import Reason
from embedsearch.core.walks import Excludes
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.folder import FolderScan
from tests.support.library import Library, counts, paint


def keys(folder: Path, rules: WalkRules | None = None, scope: str = "") -> list[str]:
    return [ref.key for ref in FolderScan(0, str(folder), scope, rules or WalkRules())]


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder beside the root, with pictures."""
    for number in range(3):
        paint(tmp_path / "away" / f"{number}.png", number)
    return tmp_path / "away"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_links_to_files_and_folders_are_followed(root: Path, away: Path) -> None:
    (root / "b.png").symlink_to(away / "0.png")
    (root / "all").symlink_to("../away")
    paint(root / "a.png", 9)
    (root / "hop").symlink_to("b2")
    (root / "b2").symlink_to("b3")
    (root / "b3").symlink_to("../away/0.png")
    scan = FolderScan(0, str(root))
    refs = {ref.key: ref for ref in scan}
    assert [*refs] == ["a.png", "all/0.png", "all/1.png", "all/2.png"]
    assert refs["all/0.png"].size == (away / "0.png").stat().st_size
    assert (scan.ignored.seen, scan.ignored.links) == (4, 0) and not scan.failures
    off = FolderScan(0, str(root), rules=WalkRules(follow_links=False))
    assert [ref.key for ref in off] == ["a.png"] and off.ignored.links == 5


def test_what_the_walk_reaches_by_itself_keeps_its_key(root: Path) -> None:
    paint(root / "z" / "real.png", 1)
    (root / "a.png").symlink_to("z/real.png")
    (root / "a").symlink_to("z")
    scan = FolderScan(0, str(root))
    assert [ref.key for ref in scan] == ["z/real.png"] and scan.ignored.seen == 2


def test_what_it_would_pass_over_is_taken_through_a_link(root: Path) -> None:
    """As git-annex has it: every picture is a link into a hidden folder of the root."""
    paint(root / ".git" / "annex" / "0.png", 1)
    paint(root / "@eaDir" / "1.png", 2)
    (root / "a.png").symlink_to(".git/annex/0.png")
    (root / "b.png").symlink_to("@eaDir/1.png")
    (root / "c.png").symlink_to("a.png")
    scan = FolderScan(0, str(root))
    assert [ref.key for ref in scan] == ["a.png", "b.png"]
    assert (scan.ignored.seen, scan.ignored.hidden, scan.ignored.excluded) == (1, 1, 1)


def test_loops_and_folders_above_end(root: Path, away: Path) -> None:
    (root / "deep").mkdir()
    paint(root / "deep" / "1.png", 5)
    (root / "deep" / "up").symlink_to("..")
    (root / "deep" / "self").symlink_to(".")
    (root / "everything").symlink_to("/")
    (root / "out").symlink_to(away)
    (away / "back").symlink_to(root)
    (away / "above").symlink_to("..")
    (away / "again").symlink_to(away)
    (root / "round").symlink_to("round")
    scan = FolderScan(0, str(root))
    assert [ref.key for ref in scan] == ["deep/1.png", "out/0.png", "out/1.png", "out/2.png"]
    assert scan.ignored.seen == 6
    assert [(f.key, f.reason) for f in scan.failures] == [("round", Reason.CHANGED)]


def test_two_links_that_lead_into_each_other(root: Path, tmp_path: Path) -> None:
    paint(tmp_path / "out" / "in" / "1.png", 1)
    paint(tmp_path / "out" / "2.png", 2)
    (root / "a").symlink_to(tmp_path / "out" / "in")
    (root / "b").symlink_to(tmp_path / "out")
    scan = FolderScan(0, str(root))
    assert [ref.key for ref in scan] == ["a/1.png", "b/2.png"] and scan.ignored.seen == 1


def test_the_order_is_that_of_keys(root: Path, away: Path) -> None:
    (root / "a").symlink_to(away)
    paint(root / "a-b.png", 1)
    paint(root / "a.png", 2)
    (root / "a0.png").symlink_to(paint(away.parent / "other.png", 3))
    found = [os.fsencode(key) for key in keys(root)]
    assert found == sorted(found) and len(found) == 6


def test_dangling_links_devices_and_other_roots(root: Path, away: Path) -> None:
    (root / "gone.png").symlink_to(away / "none.png")
    (root / "unplugged").symlink_to("/nowhere/at/all")
    (root / "null.png").symlink_to("/dev/null")
    (root / "words.txt").symlink_to("/etc/hostname")
    (root / "away").symlink_to(away)
    scan = FolderScan(0, str(root), rules=WalkRules(folders=(str(away),)))
    assert list(scan) == []
    assert (scan.ignored.special, scan.ignored.sidecars, scan.ignored.seen) == (1, 1, 1)
    assert {f.key: f.reason for f in scan.failures} == {
        "gone.png": Reason.VANISHED,
        "unplugged": Reason.VANISHED,
    }
    assert scan.unreachable == {"unplugged"}


def test_rows_behind_a_link_to_an_unplugged_disk_stay(
    library: Library, root: Path, away: Path
) -> None:
    paint(root / "own.png", 7)
    (root / "disk").symlink_to(away)
    (root / "one.png").symlink_to(paint(away.parent / "usb" / "1.png", 8))
    assert counts(library.index(root)) == (5, 5, 0, 0, 0, 0, 0)
    assert counts(library.index(root)) == (5, 0, 0, 0, 5, 0, 0)
    away.rename(away.parent / "gone")
    (away.parent / "usb").rename(away.parent / "gone too")
    report = library.index(root)
    assert (report.found, report.deleted, report.scan_failures, report.images) == (1, 0, 2, 5)
    (root / "disk").unlink()  # the user takes the link away
    report = library.index(root)
    assert (report.deleted, report.images) == (3, 2)


@pytest.mark.parametrize("name", ["disk", "Backup.2024", "old.docx"])
def test_rows_behind_a_link_to_an_empty_mount_point_stay(
    library: Library, root: Path, away: Path, name: str
) -> None:
    paint(root / "own.png", 7)
    (root / name).symlink_to(away)
    (away.parent / "none").mkdir()
    (root / "none").symlink_to(away.parent / "none")
    report = library.index(root)
    assert counts(report) == (4, 4, 0, 0, 0, 0, 0) and report.scan_failures == 0
    shutil.move(away, away.parent / "plugged")
    for is_there in (False, True):  # the target is missing, then there and empty
        if is_there:
            away.mkdir()
        for report in (library.index(root), library.index()):
            assert (report.found, report.deleted, report.scan_failures) == (1, 0, 1)
        assert list(library.reasons()) == [name]
    away.rmdir()
    shutil.move(away.parent / "plugged", away)
    report = library.index()
    assert counts(report) == (4, 0, 0, 0, 4, 0, 0) and report.scan_failures == 0
    shutil.rmtree(away)
    if name != "disk":
        away.mkdir()
    report = library.index(allow_empty=True)
    assert (report.deleted, report.images) == (3, 1)


def captions(library: Library) -> dict[str, object]:
    with embedsearch.open_store(library.store) as searcher:
        return {
            image.full_path: image.metadata.get("caption") for image in searcher.images(50).images
        }


def test_captions_stay_when_what_is_behind_a_link_becomes_a_root(
    library: Library, root: Path, away: Path
) -> None:
    paint(root / "own.png", 7)
    (root / "link").symlink_to("../away")
    paint(away.parent / "third" / "deep" / "x.png", 8)
    (root / "x.png").symlink_to("../third/deep/x.png")
    table = away.parent / "captions.csv"
    table.write_text("name,caption\n0.png,zero\n1.png,one\n2.png,two\nx.png,ex\nown.png,own\n")
    library.index(root, metadata=str(table))
    paint(away / "new.png", 9)
    report = library.index(root / "link")
    assert counts(report) == (4, 1, 0, 3, 0, 0, 0) and report.images == 6
    assert counts(library.index(away.parent / "third")) == (1, 0, 0, 1, 0, 0, 0)
    expected = {
        str(root / "own.png"): "own",
        **{str(away / f"{n}.png"): words for n, words in enumerate(("zero", "one", "two"))},
        str(away / "new.png"): None,
        str(away.parent / "third" / "deep" / "x.png"): "ex",
    }
    assert captions(library) == expected
    assert counts(library.index()) == (6, 0, 0, 0, 6, 0, 0)
    assert captions(library) == expected


def test_whether_links_are_followed_is_kept(library: Library, root: Path, away: Path) -> None:
    paint(root / "own.png", 7)
    (root / "link").symlink_to(away)
    (root / "one.png").symlink_to(paint(away.parent / "usb" / "1.png", 8))
    assert counts(library.index(root)) == (5, 5, 0, 0, 0, 0, 0)
    report = library.index(dry_run=True, follow_links=False)
    assert (report.deleted, report.behind_links) == (4, 4)
    assert counts(library.index()) == (5, 0, 0, 0, 5, 0, 0)
    report = library.index(follow_links=False)
    assert (report.deleted, report.behind_links, report.left_out) == (4, 4, 0)
    for _ in range(2):
        report = library.index()
        assert counts(report) == (1, 0, 0, 0, 1, 0, 0) and report.ignored.links == 2
    assert embedsearch.info(library.store).to_dict()["follow_links"] is False
    assert counts(library.index(follow_links=True))[:2] == (5, 4)
    assert counts(library.index()) == (5, 0, 0, 0, 5, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links of others")
def test_a_link_of_another_user_leads_only_to_what_is_theirs(
    root: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write into a shared folder must not make other files of this user readable."""
    for name, target in (("a.png", away / "0.png"), ("b.png", away / "1.png"), ("f", away)):
        (root / name).symlink_to(target)
        os.lchown(root / name, 1234, 1234)
    os.chown(away / "1.png", 1234, 1234)
    scan = FolderScan(0, str(root))
    assert [ref.key for ref in scan] == ["b.png"]
    assert {f.key: f.reason for f in scan.failures} == {
        "a.png": Reason.PERMISSION,
        "f": Reason.PERMISSION,
    }
    folder = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError, match="another user"):
            open_link("a.png", folder)
    finally:
        os.close(folder)


def test_a_followed_picture_is_shown_and_asked_with_but_nothing_else_behind_its_link(
    library: Library, root: Path, away: Path, tmp_path: Path
) -> None:
    (root / "a.png").symlink_to(away / "0.png")
    (root / "more").symlink_to(paint(tmp_path / "third" / "x.png", 11).parent)
    library.index(root)
    secret = paint(tmp_path / "private" / "x.png", 99)
    with embedsearch.open_store(library.store) as searcher:
        shown = [searcher.thumbnail(key, 32) for key in ("a.png", "more/x.png")]
        assert [searcher.thumbnail(key, 32) for key in ("a.png", "more/x.png")] == shown
        (root / "a.png").unlink()
        (root / "a.png").symlink_to(secret)
        (root / "more").unlink()
        (root / "more").symlink_to(secret.parent)
        for key in ("a.png", "more/x.png"):
            with pytest.raises(UnreadableImage, match="another file"):
                searcher.thumbnail(key, 32)
        (root / "a.png").unlink()
        shutil.copy(away / "0.png", tmp_path / "moved.png")
        (root / "a.png").symlink_to(tmp_path / "moved.png")  # the same bytes in another place
        assert searcher.thumbnail("a.png", 32) == shown[0]


def test_a_folder_that_is_a_link_now_shows_only_what_was_indexed(
    library: Library, root: Path, tmp_path: Path
) -> None:
    paint(root / "a.png", 1)
    library.index(root)
    private = paint(tmp_path / "private" / "a.png", 2, size=(48, 48)).parent
    with embedsearch.open_store(library.store) as searcher:
        shown = searcher.thumbnail("a.png", 32)
        root.rename(tmp_path / "moved")
        root.symlink_to(private)
        with pytest.raises(UnreadableImage, match="another file"):
            searcher.thumbnail("a.png", 32)
        root.unlink()
        root.symlink_to(tmp_path / "moved")
        assert searcher.thumbnail("a.png", 32) == shown


def test_a_run_that_finds_nothing_says_what_it_passed_over(
    library: Library, root: Path, without_rawpy: None
) -> None:
    (root / "l.png").symlink_to(paint(root.parent / "x.png", 1))
    (root / ".h.png").write_bytes(b"")
    (root / "raw.cr2").write_bytes(b"II*\0")
    (root / "v.mov").write_bytes(b"")
    (root / "notes.docx").write_bytes(b"")
    (root / "shard.tar").write_bytes(b"")
    paint(root / "#recycle" / "old.png", 2)
    with pytest.raises(NothingIndexed) as caught:
        library.index(root, follow_links=False)
    for words in (
        *(
            "1 hidden",
            "1 links (follow_links=True",
            "1 left out by patterns",
            "1 RAW (pip",
            "1 videos",
        ),
        *(f"1 archives (name them, as in {root}/*.tar)", "1 other files (1 .docx; files=LIST"),
    ):
        assert words in str(caught.value)


def test_archives_inside_archives_are_told(library: Library, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paint(tmp_path / "in" / "a.png", 1)
    inner = shutil.make_archive(str(tmp_path / "inner"), "tar", tmp_path / "in")
    (tmp_path / "t").mkdir()
    shutil.move(inner, tmp_path / "t" / "inner.tar")
    outer = shutil.make_archive(str(tmp_path / "outer"), "tar", tmp_path / "t")
    with pytest.raises(NothingIndexed, match=r"none is opened inside another, such as .*unpack"):
        library.index(outer)
    (tmp_path / "x.tar.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(embedsearch.UsageError, match=r"archives like x\.tar\.zst are not read"):
        library.index(tmp_path / "x.tar.zst")


def test_patterns_leave_out_and_are_kept(library: Library, root: Path) -> None:
    for name in ("a.png", "@eaDir/a/t.png", "#recycle/o.png", "__MACOSX/m.png", "raw/r.png"):
        paint(root / name, len(name))
    report = library.index(root)
    assert counts(report) == (2, 2, 0, 0, 0, 0, 0) and report.ignored.excluded == 3
    report = library.index(exclude=("raw/", "!@eaDir/"))
    assert counts(report) == (2, 1, 0, 0, 1, 0, 1) and report.left_out == 1
    assert counts(library.index()) == (2, 0, 0, 0, 2, 0, 0)
    facts = embedsearch.info(library.store).to_dict()
    assert facts["excludes"] == {"patterns": ("raw/", "!@eaDir/"), "defaults": True}
    assert counts(library.index(exclude=("",), default_excludes=False))[:2] == (5, 3)
    assert counts(library.index()) == (5, 0, 0, 0, 5, 0, 0)
    assert counts(library.index(rebuild=True)) == (5, 5, 0, 0, 0, 0, 0)
    assert counts(library.index()) == (5, 0, 0, 0, 5, 0, 0)
    report = library.index(default_excludes=True)
    assert (report.deleted, report.left_out) == (3, 3)


def test_patterns_are_those_of_gitignore(root: Path) -> None:
    for name in ("a.png", "b.png", "x/a.png", "x/y/c.png", "#odd/d.png", "Bücher/e.png"):
        paint(root / name, len(name))

    def found(*patterns: str) -> list[str]:
        return keys(root, WalkRules(excludes=Excludes(patterns)))

    assert found("/a.png", "x/y", "#odd") == ["Bücher/e.png", "b.png", "x/a.png"]
    assert found("*.png", "!b.png") == ["b.png"]
    assert found("./x", "Bu\u0308cher/") == ["#odd/d.png", "a.png", "b.png"]  # as macOS spells it
    with pytest.raises(embedsearch.UsageError, match="is not a pattern as in"):
        found("!")


def test_a_named_folder_that_a_walk_would_pass_over_is_a_root(library: Library, root: Path) -> None:
    paint(root / "a.png", 1)
    paint(root / "@eaDir" / "t.png", 2)
    paint(root / ".hidden" / "h.png", 3)
    library.index(root)
    for name in ("@eaDir", ".hidden"):
        assert counts(library.index(root / name)) == (1, 1, 0, 0, 0, 0, 0)
    assert counts(library.index(root)) == (1, 0, 0, 0, 1, 0, 0)
    assert counts(library.index()) == (3, 0, 0, 0, 3, 0, 0)


def test_archives_have_their_own_litter(library: Library, root: Path) -> None:
    paint(root / "a.png", 1)
    paint(root / "__MACOSX" / "a.png", 2)
    archive = shutil.make_archive(str(root.parent / "z"), "zip", root)
    report = library.index(archive)
    assert counts(report) == (1, 1, 0, 0, 0, 0, 0) and report.ignored.excluded == 1
    report = library.index(exclude=("!__MACOSX/",))  # although the archive did not change
    assert counts(report) == (2, 1, 0, 0, 1, 0, 0)
    with embedsearch.open_store(library.store) as searcher:
        assert searcher.thumbnail("__MACOSX/a.png", 32)
