"""Copies of pictures: which are found, which one is kept, and what is said of them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.config import DuplicateConfig
from embedsearch.core.errors import UsageError
from embedsearch.curation.copies import DuplicateReport
from embedsearch.curation.duplicates import duplicates
from tests.support.library import BOAT, CLOCK, GOLDEN, SAMPLES, paint, run_cli
from tests.support.stores import imported, with_packaged_weights


def found(report: DuplicateReport) -> dict[str, dict[str, str]]:
    """Return the kept keys, and how each copy is one."""
    return {
        group.keep.key: {
            copy.picture.key.removeprefix("copies/"): copy.how for copy in group.copies
        }
        for group in report.groups
    }


PLAIN = {"same.jpg": "same bytes", "small.png": "copy", "grey.png": "gray"}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({"flips": True}, {"flip.png": "flipped"}),
        ({"rotations": True}, {"right.png": "turned right", "half.png": "upside down"}),
        (
            {"flips": True, "rotations": True},
            {
                "flip.png": "flipped",
                "upside.png": "upside down, flipped",
                "right.png": "turned right",
                "half.png": "upside down",
                "left_flipped.png": "turned left, flipped",
            },
        ),
        ({"crops": True}, {"part.png": "crop"}),
    ],
)
def test_copies_are_found(store: Path, options: dict[str, Any], more: dict[str, str]) -> None:
    """And nothing else: all other photos are photos of their own."""
    keep = (f"folder={store.parent / 'photos' / 'clocks'}",)
    report = duplicates(store, config=DuplicateConfig(keep=keep, **options))
    groups = found(report)
    clock = groups.pop("clocks/clocks_1.jpg")
    boat = groups.pop("boats/boats_1.jpg")
    assert boat == {"boat.jpg": "copy"}
    # Turned ones are copies of each other, too, where only some turns are looked for.
    assert {**PLAIN, **more}.items() <= clock.items()
    rest = [name for group in groups.items() for name in (group[0], *group[1])]
    assert all("copies/" in name or name.endswith((".png", ".jpg")) for name in rest)
    assert set(clock) <= set(os.listdir(store.parent / "photos" / "copies"))
    if not options:
        assert clock == PLAIN and not groups
        assert (report.images, report.copies, report.unsigned) == (64, 4, 0)
    for group in report.groups:
        assert all(0.9 < copy.score <= 1.0 for copy in group.copies)


def test_which_one_is_kept(store: Path, tmp_path: Path) -> None:
    def kept(*wishes: str) -> str:
        config = DuplicateConfig(
            keep=wishes, where="path like '%clocks_1%' or path like 'copies/%'"
        )
        report = duplicates(store, config=config)
        return max(report.groups, key=lambda group: len(group.copies)).keep.key

    photos = store.parent / "photos"
    # The gray one has as many pixels and more bytes, but no colors: no colored one goes for it.
    assert kept() == kept("largest") == "clocks/clocks_1.jpg"
    assert kept("format=JPEG,PNG") in {"clocks/clocks_1.jpg", "copies/same.jpg"}
    assert kept("format=PNG") == "copies/small.png"
    assert kept(f"folder={photos / 'clocks'}") == "clocks/clocks_1.jpg"
    with pytest.raises(UsageError, match="no image of the store lies in"):
        kept(f"folder={photos / 'clo'}")
    assert kept("format=JPEG", f"folder={photos / 'copies'}") == "copies/same.jpg"
    ages = {"clocks/clocks_1.jpg": 5, "copies/same.jpg": 4, "copies/small.png": 3}
    for wish, key in (("oldest", "copies/small.png"), ("newest", "clocks/clocks_1.jpg")):
        again = shutil.copytree(photos, tmp_path / wish)
        for name, age in ages.items():
            os.utime(again / name, (age, age))
        embedsearch.index(again, store=tmp_path / f"{wish}.es", model="packaged")
        config = DuplicateConfig(keep=(wish,))
        report = duplicates(tmp_path / f"{wish}.es", config=config)
        assert max(report.groups, key=lambda group: len(group.copies)).keep.key == key


def test_one_folder_against_another(store: Path) -> None:
    photos = store.parent / "photos"
    report = duplicates(store, photos / "copies", against=photos / "clocks")
    assert found(report) == {"clocks/clocks_1.jpg": PLAIN}
    report = duplicates(
        store,
        photos / "clocks",
        against=photos / "copies",
        config=DuplicateConfig(flips=True),
    )
    ((group),) = report.groups
    assert (group.keep.key, [copy.picture.key for copy in group.copies]) == (
        "copies/same.jpg",
        ["clocks/clocks_1.jpg"],
    )
    assert found(duplicates(store, photos / "copies")) == {
        "copies/same.jpg": {"grey.png": "gray", "small.png": "copy"}
    }


@pytest.mark.parametrize(
    ("folder", "against", "words"),
    [
        ("none", None, "no image of the store lies in"),
        ("clo", None, "no image of the store lies in"),
        (None, "", "needs a folder"),
        ("", "clocks", "are in"),
    ],
    ids=["not there", "a beginning of a name", "against nothing", "against a part of itself"],
)
def test_folders_that_cannot_be_compared(
    store: Path, folder: str | None, against: str | None, words: str
) -> None:
    photos = store.parent / "photos"
    one, other = (None if name is None else photos / name for name in (folder, against))
    with pytest.raises(UsageError, match=words):
        duplicates(store, one, against=other)


@pytest.mark.parametrize("unused", [{"crops": True}, {"keep": ("largest",)}], ids=str)
def test_what_would_do_nothing_is_refused(store: Path, unused: dict[str, Any]) -> None:
    photos = store.parent / "photos"
    with pytest.raises(UsageError, match=f"leave out {next(iter(unused))}"):
        embedsearch.duplicates(store, photos / "copies", against=photos / "clocks", **unused)


def test_look_alikes(store: Path) -> None:
    """Every two of a group reach the cosine that is asked for."""
    with embedsearch.open_store(store) as searcher:
        report = duplicates(store, config=DuplicateConfig(similar=0.6))
        assert len(report.groups) > 3
        for group in report.groups:
            rows = [group.keep.row, *(copy.picture.row for copy in group.copies)]
            vectors = searcher.embed([embedsearch.Key(row) for row in rows])
            assert (vectors @ vectors.T).min() >= 0.6 - 1e-3
            assert {copy.how for copy in group.copies} <= {"similar", "same bytes"}


def test_the_script_deletes_what_it_says(tmp_path: Path) -> None:
    """Real files of hostile names, a real shell; what is kept is never touched."""
    photos = tmp_path / "photos"
    names = [
        "a.jpg",
        "-rf",
        "it's $(touch owned).jpg",
        "two\nlines.jpg",
        os.fsdecode(b"\xff\xfe.jpg"),
    ]
    names = [name if name.endswith(".jpg") else name + ".jpg" for name in names]
    photos.mkdir()
    for number, name in enumerate(names):
        shutil.copy(CLOCK, photos / name)
        os.utime(photos / name, (number, number))
    shutil.copy(BOAT, photos / "b.jpg")
    shutil.copy(BOAT, photos / "b2.jpg")
    store, script = tmp_path / "s.es", tmp_path / "delete it.sh"
    embedsearch.index(photos, store=store, model="packaged")
    done = run_cli("duplicates", "--store", store, "--script", script, "--keep", "oldest")
    assert done.returncode == 0, done.stderr
    assert "nothing was deleted" in done.stderr and len(os.listdir(photos)) == 7
    boats = sorted({"b.jpg", "b2.jpg"})
    (photos / boats[0]).unlink()  # the one that would be kept: its copy must stay
    assert [line for line in done.stdout.splitlines() if "keep" in line and boats[0] in line]
    shell = subprocess.run(["sh", script], capture_output=True, cwd=tmp_path)
    assert shell.returncode == 0
    assert sorted(os.listdir(photos)) == sorted(["a.jpg", "b2.jpg"])
    assert b"the picture to keep is missing" in shell.stderr and b"b2.jpg" in shell.stderr
    assert not (tmp_path / "owned").exists()
    again = subprocess.run(["sh", script], capture_output=True, cwd=tmp_path)
    assert sorted(os.listdir(photos)) == ["a.jpg", "b2.jpg"], again.stderr


def test_files_named_one_by_one_are_files(tmp_path: Path) -> None:
    """The script deletes their copies, and another name of one file is no copy."""
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(CLOCK, tmp_path / name)
    os.link(tmp_path / "a.jpg", tmp_path / "link.jpg")
    store, script = tmp_path / "s.es", tmp_path / "delete.sh"
    embedsearch.index(sorted(tmp_path.glob("*.jpg")), store=store, model="packaged")
    (group,) = embedsearch.duplicates(store).groups
    assert group.keep.full_path == str(tmp_path / "a.jpg")
    assert {copy.picture.full_path.rpartition("/")[2]: copy.how for copy in group.copies} == {
        "b.jpg": "same bytes",
        "link.jpg": "same file",
    }
    assert run_cli("duplicates", "--store", store, "--script", script).returncode == 0
    subprocess.run(["sh", script], check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["a.jpg", "link.jpg"]


def test_output_for_programs(store: Path) -> None:
    lines = run_cli("duplicates", "--store", store, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["what"] for row in rows if row["group"] == 1] == ["keep", "copy"]
    shown = run_cli("duplicates", "--store", store, "--csv").stdout
    read = list(csv.DictReader(io.StringIO(shown)))
    assert [{**row, "score": str(row["score"])} for row in rows] and len(read) == len(rows)
    assert [row["path"] for row in read] == [row["path"] for row in rows]
    for arguments, words in (
        (["--json", "--csv"], "exclude"),
        (["--threshold", "0.2"], "0.5 to 1"),
        (["--similar", "2"], "at most 1"),
        (["--similar", "0.9", "--flips"], "see no flips"),
        (["--keep", "biggest"], "largest, oldest"),
        (["--keep", "format="], "largest, oldest"),
        (["--where", "widht > 1"], "did you mean width"),
        (["--script", str(store)], "s.es"),
    ):
        done = run_cli("duplicates", "--store", store, *arguments)
        assert done.returncode in {2, 4} and words in done.stderr, done.stderr


def test_a_page_of_copies(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    hostile = '"><script>alert(1)</script>'.replace("/", "_") + ".jpg"
    for name in ("a.jpg", hostile, "gone.jpg"):
        shutil.copy(CLOCK, photos / name)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    (photos / "gone.jpg").unlink()
    out = tmp_path / "copies.html"
    done = run_cli("duplicates", "--store", tmp_path / "s.es", "--html", out)
    assert done.returncode == 0 and "3 images, 2 of them copies" in done.stderr, done.stderr
    page = out.read_text()
    assert page.count("<figure") == 3 and page.count("data:image/jpeg") == 2
    assert page.count("cannot be read any more") == 1 and "<script" not in page
    assert page.count("same bytes · 1.000") == 2 and page.count("keep") >= 1
    assert run_cli("duplicates", "--store", tmp_path / "s.es", "--html", tmp_path).returncode == 4


def test_pictures_without_a_signature(tmp_path: Path) -> None:
    golden = with_packaged_weights(shutil.copytree(GOLDEN / "format_1", tmp_path / "old"))
    with pytest.raises(UsageError, match="no image here has a signature"):
        duplicates(golden)
    photos = shutil.copytree(SAMPLES / "boats", tmp_path / "more")
    shutil.copy(photos / "boats_1.jpg", photos / "twin.jpg")
    embedsearch.index(photos, store=golden)
    report = duplicates(golden)
    assert report.unsigned == 7
    # One of the old ones, which moved here, and the new one are of the same bytes.
    assert sorted(len(group.copies) for group in report.groups) == [1]


def test_pictures_without_structure_are_compared_by_their_bytes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (
        ("a.png", "black"),
        ("b.png", "white"),
        ("c.png", "black"),
        ("d.png", "grey"),
    ):
        Image.new("RGB", (60, 40), colour).save(photos / name)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    assert found(duplicates(tmp_path / "s.es")) == {"a.png": {"c.png": "same bytes"}}


def test_real_duplicates(shared_data: Path, tmp_path: Path) -> None:
    embedsearch.index(shared_data / "duplicates", store=tmp_path / "s.es", model="packaged")
    config = DuplicateConfig(flips=True, rotations=True, crops=True)
    report = duplicates(tmp_path / "s.es", config=config)
    by_photo = {
        frozenset(
            os.path.basename(p.key)[:12] for p in (g.keep, *(copy.picture for copy in g.copies))
        ): len(g.copies) + 1
        for g in report.groups
    }
    # Of the first one, one file is turned by 25 degrees, which is no quarter turn.
    assert sorted(by_photo.values()) == [2, 3, 5, 9]
    alpha = frozenset({"alpha_channel"[:12], "ukbench00120"})
    assert by_photo.keys() == {
        alpha,
        *(frozenset({f"ukbench{n}"}) for n in ("00120", "09268", "09380")),
    }


def test_many_copies_of_one_picture(tmp_path: Path) -> None:
    """20,000 vectors, nearly the same; in the benchmark they are 100,000."""
    rng = np.random.default_rng(4)
    one = rng.standard_normal(64).astype(np.float32)
    vectors = one + 0.02 * rng.standard_normal((20_000, 64), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = imported(tmp_path, vectors, (f"{n}.jpg" for n in range(20_000)))
    started = time.monotonic()
    report = duplicates(store, config=DuplicateConfig(similar=0.98))
    assert [len(group.copies) for group in report.groups] == [19_999]
    assert time.monotonic() - started < 60


def test_a_wish_that_no_image_meets_is_an_error(tmp_path: Path) -> None:
    picture = Image.open(paint(tmp_path / "p" / "other" / "a.png", 1, size=(90, 90)))
    (tmp_path / "p" / "originals").mkdir()
    picture.save(tmp_path / "p" / "originals" / "a.jpg", quality=80)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")

    def kept(wish: str) -> str:
        (group,) = embedsearch.duplicates(tmp_path / "s.es", keep=(wish,)).groups
        return group.keep.key

    for wish in ("format=JPEG", "format=jpg", "format=.JPG", f"folder={tmp_path}/p/originals"):
        assert kept(wish) == "originals/a.jpg"
    for wish, words in (
        ("format=JEPG", "no image is JEPG, but there are JPEG, PNG"),
        ("format=GIF,JPEG", "no image is GIF"),
        (f"folder={tmp_path}/p/orignals", "no image of the store lies in"),
    ):
        with pytest.raises(UsageError, match=words):
            kept(wish)
        script = tmp_path / "d.sh"
        done = run_cli(
            *("duplicates", "--csv", "--keep", wish, "--script", script),
            *("--store", tmp_path / "s.es"),
        )
        assert (done.returncode, script.exists()) == (2, False)
        assert ",keep," in done.stdout, "the groups are shown as they are without the wish"
        assert "--keep" in done.stderr
