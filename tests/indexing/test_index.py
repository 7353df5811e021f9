"""`index` as a sync: new, changed, moved, touched, deleted and failing files, counted exactly."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch.cli.output.text import report_lines
from embedsearch.core.config import DecodeLimits, IndexConfig
from embedsearch.core.errors import (
    NothingIndexed,
    StorageError,
    StoreNotFound,
    UsageError,
)
from embedsearch.core.records import ImageRef, Reason, Stage
from embedsearch.indexing.ref_list import RefList
from embedsearch.indexing.scope import Sources
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.writer import create_store
from tests.support.extractor import CountingExtractor
from tests.support.library import Library, counts, paint, run_cli
from tests.support.stores import contents, rows_of, said


def test_the_second_run_reads_and_embeds_nothing(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counts(library.index(photos)) == (12, 12, 0, 0, 0, 0, 0)
    assert CountingExtractor.embedded == 12
    generation = read_current(library.store).generation
    before = sorted(path.name for path in library.store.rglob("*"))
    monkeypatch.setattr(
        "embedsearch.indexing.pipeline.DecodePool", None
    )  # would fail if it were used
    monkeypatch.setattr("embedsearch.images.sources.folder.open_regular", None)
    report = library.index(photos)
    assert counts(report) == (12, 0, 0, 0, 12, 0, 0)
    assert report.embedded == 0 and report.generation == generation
    assert sorted(path.name for path in library.store.rglob("*")) == before


def test_every_kind_of_change_in_one_run(library: Library, photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture at all")
    assert counts(library.index(photos)) == (13, 12, 0, 0, 0, 1, 0)
    old = rows_of(library.store)
    paint(photos / "new.png", 100)
    paint(photos / "a" / "01.png", 101)  # other content
    (photos / "c").mkdir()
    (photos / "b" / "00.png").rename(photos / "c" / "moved.png")
    (photos / "b" / "02.png").unlink()
    os.utime(photos / "b" / "04.png", ns=(1, 1))  # touched in vain
    (photos / "a" / "03.png").write_bytes(b"broken now")
    CountingExtractor.embedded = 0
    report = library.index(photos)
    assert counts(report) == (13, 1, 1, 1, 8, 2, 1)
    assert CountingExtractor.embedded == 2
    now = rows_of(library.store)
    assert now[b"c/moved.png"] == old[b"b/00.png"]
    assert now[b"b/04.png"] == old[b"b/04.png"]
    assert now[b"a/01.png"] != old[b"a/01.png"]
    assert now.keys() == {*old, b"c/moved.png", b"new.png"} - {
        b"b/00.png",
        b"b/02.png",
        b"a/03.png",
    }
    assert library.reasons() == {"bad.jpg": Reason.NOT_AN_IMAGE, "a/03.png": Reason.NOT_AN_IMAGE}
    assert counts(library.index(photos)) == (13, 0, 0, 0, 11, 2, 0)
    assert CountingExtractor.embedded == 2
    # Mended files and changed limits are looked at again.
    paint(photos / "bad.jpg", 7)
    assert counts(library.index(photos)) == (13, 1, 0, 0, 11, 1, 0)
    assert check_store(library.store, read_data=True)[1] == []


def test_failures_are_retried_when_the_limits_change(library: Library, photos: Path) -> None:
    paint(photos / "large.png", 5, size=(200, 200))
    small = DecodeLimits(max_pixels=30_000)
    report = library.index(photos, limits=small)
    assert counts(report) == (13, 12, 0, 0, 0, 1, 0)
    assert report.over_limits == 1
    assert "1 of them is above --max-pixels or --max-bytes" in report_lines(report)
    assert library.reasons() == {"large.png": Reason.TOO_LARGE}
    assert library.index(photos, limits=small).failed == 1
    assert counts(library.index(photos)) == (13, 1, 0, 0, 12, 0, 0)
    assert library.reasons() == {}


def test_two_copies_and_a_deleted_one_move_once(library: Library, photos: Path) -> None:
    library.index(photos)
    data = (photos / "a" / "01.png").read_bytes()
    (photos / "a" / "01.png").unlink()
    for name in ("x.png", "y.png"):
        (photos / name).write_bytes(data)
    CountingExtractor.embedded = 0
    assert counts(library.index(photos)) == (13, 1, 0, 1, 11, 0, 0)
    assert CountingExtractor.embedded == 1
    rows = rows_of(library.store)
    assert rows[b"x.png"] == rows[b"y.png"]


def test_a_vanished_or_emptied_root_is_refused(library: Library, photos: Path) -> None:
    library.index(photos)
    before = rows_of(library.store)
    away = photos.with_name("away")
    photos.rename(away)
    with pytest.raises(UsageError, match=r"vanished.*12 images.*allow_empty"):
        library.index()
    photos.mkdir()  # the empty mount point of an unplugged disk
    with pytest.raises(UsageError, match="holds no image any more"):
        library.index()
    with pytest.raises(UsageError, match="holds no image any more"):
        library.index(photos)
    assert rows_of(library.store) == before
    with pytest.raises(NothingIndexed):
        library.index(allow_empty=True)
    assert rows_of(library.store) == {}
    photos.rmdir()
    away.rename(photos)
    assert library.index().added == 12


def test_a_changed_image_that_cannot_be_read_now_keeps_its_row(
    library: Library, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again while the run decodes; what its user said of it stays."""
    table = tmp_path / "t.csv"
    table.write_text("path,stars\na/01.png,5\n")
    library.index(photos, metadata=str(table))
    paint(photos / "a" / "01.png", 77)
    (photos / "b" / "00.png").write_bytes(b"no picture")
    places = Sources.places

    def written_meanwhile(*arguments: Any) -> Any:
        for ref, place in places(*arguments):
            if ref.key == "a/01.png":
                paint(photos / "a" / "01.png", 78, (90, 90))
            yield ref, place

    with monkeypatch.context() as patch:
        patch.setattr(Sources, "places", written_meanwhile)
        report = library.index()
    assert (report.failed, report.changed, report.images) == (2, 0, 11)
    assert library.reasons()["a/01.png"] is Reason.CHANGED
    report = library.index()
    assert (report.failed, report.changed, report.images) == (1, 1, 11)
    assert said(library.store, "a/01.png") == {"stars": 5}


def test_a_vanished_root_can_be_let_go(library: Library, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    paint(other / "z.png", 50)
    library.index(photos, other)
    shutil.rmtree(other)
    for rebuild in (False, True):
        with pytest.raises(UsageError, match=r"other has vanished.*allow_empty"):
            library.index(rebuild=rebuild)
        assert len(rows_of(library.store)) == 13
    assert counts(library.index(allow_empty=True)) == (12, 0, 0, 0, 12, 0, 1)
    assert b"z.png" not in rows_of(library.store)
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(UsageError, match="rebuild would drop what the store holds"):
        library.index(rebuild=True)
    assert len(rows_of(library.store)) == 12


def test_failures_elsewhere_keep_their_verdict(
    library: Library, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    paint(other / "large.png", 5, size=(200, 200))
    paint(other / "small.png", 6)
    library.index(other, limits=DecodeLimits(max_pixels=30_000))
    assert library.reasons() == {"large.png": Reason.TOO_LARGE}
    library.index(photos)  # looks elsewhere, with limits that would let it in
    assert library.reasons() == {"large.png": Reason.TOO_LARGE}
    assert library.index().added == 1
    assert library.reasons() == {}


def test_scopes_and_roots(library: Library, photos: Path, tmp_path: Path) -> None:
    report = library.index(photos / "a")
    assert counts(report) == (6, 6, 0, 0, 0, 0, 0)
    other = tmp_path / "other"
    paint(other / "z.png", 50)
    library.index(other)
    assert [root.path for root in read_current(library.store).roots] == [
        str(photos / "a"),
        str(other),
    ]
    CountingExtractor.embedded = 0
    report = library.index(photos)  # around a known root: takes it over, keeps its vectors
    assert counts(report) == (12, 6, 0, 6, 0, 0, 0)
    assert CountingExtractor.embedded == 6
    roots = read_current(library.store).roots
    assert [root.path for root in roots] == [str(other), str(photos)]
    (photos / "b" / "00.png").unlink()
    (photos / "a" / "01.png").unlink()
    report = library.index(photos / "b")  # inside a root: only that part is looked at
    assert counts(report) == (5, 0, 0, 0, 5, 0, 1)
    assert b"a/01.png" in rows_of(library.store)
    assert counts(library.index()) == (11, 0, 0, 0, 11, 0, 1)
    with pytest.raises(UsageError, match="does not exist"):
        library.index(photos / "nowhere")
    (photos / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="is a file"):
        library.index(photos / "notes.txt")
    paint(photos / "b" / "02.png", 70)
    report = library.index(photos / "b" / "02.png")  # a list of one
    assert counts(report) == (1, 0, 1, 0, 0, 0, 0)


def test_failures_outside_the_scope_stay(library: Library, photos: Path) -> None:
    for folder in "ab":
        (photos / folder / "bad.jpg").write_bytes(b"bad")
    library.index(photos)
    (photos / "a" / "bad.jpg").unlink()
    (photos / "b" / "bad.jpg").unlink()
    library.index(photos / "a")
    assert library.reasons() == {"b/bad.jpg": Reason.NOT_AN_IMAGE}


def test_nothing_to_index_makes_no_store(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingIndexed, match="no images found"):
        library.index(tmp_path / "empty")
    assert not library.store.exists()
    with pytest.raises(StoreNotFound):
        library.index()
    assert not library.store.exists()
    create_store(library.store)  # as a first run leaves it that was killed early
    with pytest.raises(StoreNotFound, match="name the folders"):
        library.index()


def test_a_folder_of_broken_files_is_exit_1_with_their_reasons(
    library: Library, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    for number in range(3):
        (tmp_path / "broken" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(NothingIndexed, match="all 3 files failed"):
        library.index(tmp_path / "broken")
    assert len(library.reasons()) == 3
    assert check_store(library.store, read_data=True)[1] == []
    with embedsearch.open_store(library.store) as searcher:
        assert searcher.query(np.eye(512, dtype=np.float32)[0]) == []


def test_dry_run_changes_nothing(library: Library, photos: Path) -> None:
    report = library.index(photos, dry_run=True)
    assert counts(report) == (12, 12, 0, 0, 0, 0, 0) and not library.store.exists()
    library.index(photos)
    paint(photos / "a" / "01.png", 77)
    (photos / "b" / "00.png").unlink()
    before = contents(library.store)
    report = library.index(photos, dry_run=True)
    assert counts(report) == (11, 0, 1, 0, 10, 0, 1) and report.dry_run
    assert contents(library.store) == before


def test_vectors_that_are_not_finite_are_failures(
    photos: Path, tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    def make(*arguments: Any) -> Any:
        network = extractor(*arguments)

        def broken(pixels: Any) -> Any:
            vectors = network(pixels)
            if len(vectors) == 8:  # the first batch of two
                vectors[3] = np.nan
                vectors[5] *= 2
            return vectors

        broken.device, broken.precision, broken.lanes = "cpu", "fp32", 1  # type: ignore[attr-defined]
        return broken

    store = tmp_path / "n.es"
    report = embedsearch.index(photos, store=store, model="packaged", extractor_factory=make)
    assert counts(report) == (12, 10, 0, 0, 0, 2, 0)
    assert {f.stage for _, f in failures(store)} == {Stage.EMBED}
    assert {f.reason for _, f in failures(store)} == {Reason.NOT_FINITE}


@pytest.mark.parametrize("field", ["device", "precision"])
def test_config_is_checked(field: str) -> None:
    wrong: dict[str, Any] = {field: "nonsense"}
    with pytest.raises(UsageError, match=field):
        IndexConfig(**wrong)
    for bad in ({"workers": 0}, {"wait_s": -1.0}):
        with pytest.raises(UsageError):
            IndexConfig(**bad)


def test_command_line_and_python_agree(photos: Path, tmp_path: Path) -> None:
    """One path: the same rows, vectors and counts from either door."""
    done = run_cli("index", photos, "--store", tmp_path / "c.es", "--model", "packaged", "--json")
    report = embedsearch.index(photos, store=tmp_path / "p.es", model="packaged")
    theirs = json.loads(done.stdout)
    assert rows_of(tmp_path / "c.es") == rows_of(tmp_path / "p.es")
    for name in ("found", "added", "failed", "images", "ignored", "model", "device", "precision"):
        assert theirs[name] == report.to_dict()[name]


def test_a_list_of_refs_spills_and_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("embedsearch.indexing.ref_list._SPILL_BYTES", 1000)
    refs = RefList()
    names = [f"{'ü' * (number % 90)}{number}\udcff.jpg" for number in range(500)]
    wanted = [ImageRef(number % 3, name, number, -1) for number, name in enumerate(names)]
    for ref in wanted:
        refs.append(ref)
    assert len(refs) == 500 and list(refs) == wanted and list(refs) == wanted

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    refs = RefList()
    with pytest.raises(StorageError, match="No space left"):
        for ref in wanted:
            refs.append(ref)
