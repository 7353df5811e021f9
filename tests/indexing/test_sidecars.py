"""`index --sidecars` with the names that Google Takeout gives to files beside images."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.images.sources.sidecar_names import SidecarNames
from embedsearch.images.sources.sidecars import beside_files
from tests.support.library import paint, run_cli
from tests.support.stores import said

LONG = "Screenshot_20240506-010203_Some very long application name"


def found(keys: list[str], there: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    names = SidecarNames(there)
    return dict(names.of_images(keys)), names.left


@pytest.mark.parametrize(
    ("image", "sidecar"),
    [
        ("a.jpg", "a.jpg.json"),
        ("a.jpg", "a.json"),
        ("a.jpg", "a.jpg.supplemental-metadata.json"),
        ("a.jpg", "a.jpg.supplemental-meta.json"),
        ("a.jpg", "a.jpg.suppl.json"),
        ("a.jpg", "a.jpg.s.json"),
        ("a.jpg", "a.jpg..json"),
        ("x/a.jpg", "x/a.jpg.supplemen.json"),
        ("a(1).jpg", "a.jpg.supplemental-metadata(1).json"),
        ("a(1).jpg", "a.jpg.suppl(1).json"),
        ("a(12).jpg", "a.jpg(12).json"),
        ("a(1).jpg", "a(1).jpg.supplemental-metadata.json"),
        ("a-edited.jpg", "a.jpg.supplemental-metadata.json"),
        ("a-edited.jpg", "a.jpg.json"),
        ("a-edited(1).jpg", "a.jpg.supplemental-metadata(1).json"),
        ("a-bearbeitet.jpg", "a.jpg.suppl.json"),
        ("gru\u0308n.jpg", "gr\u00fcn.jpg.supplemental-metadata.json"),
        (LONG + ".jpg", LONG[:46] + ".json"),
    ],
)
def test_names_of_takeout(image: str, sidecar: str) -> None:
    others = ["b.jpg", "a(2).jpg"]
    assert found([image, *others], [sidecar, "metadata.json"]) == (
        {image: [sidecar], **{name: [] for name in others}},
        ["metadata.json"],
    )


def test_names_of_several_images() -> None:
    keys = ["a.HEIC", "a-edited.jpg", "b.jpg", "b-edited.jpg"]
    there = ["a.HEIC.supplemental-metadata.json", "b.jpg.json", "b-edited.jpg.json", "b.jpg.txt"]
    assert found(keys, there)[0] == {
        "a.HEIC": [there[0]],
        "a-edited.jpg": [there[0]],
        "b.jpg": [there[1], there[3]],
        "b-edited.jpg": [there[2]],
    }
    twins = [LONG + "1.jpg", LONG + "2.jpg"]
    assert found(twins, [LONG[:46] + ".json"])[1] == [LONG[:46] + ".json"], "whose is it?"
    assert found(["a.jpg"], ["a.jpg.supplemental-metadata(1).json", "a.jpg.support.json"])[1]


def test_many_names_that_are_not_ascii_take_little_time() -> None:
    keys = [f"ü{number}.jpg" for number in range(20_000)]
    there = [f"u\u0308{number}.jpg.supplemental-metadata.json" for number in range(20_000)]
    matched, left = found(keys, there)
    assert matched["ü7.jpg"] == [there[7]] and left == []


def test_sidecars_behind_links(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    photos, away = tmp_path / "photos", tmp_path / "away"
    paint(photos / "own.png", 0)
    for number, name in enumerate(("a", "b", "c"), start=1):
        paint(away / f"{name}.png", number)
        (away / f"{name}.json").write_text(json.dumps({"title": name}))
    (photos / "folder").symlink_to(away)
    for name in ("x.png", "x.json"):  # as git-annex has it: all are links
        (away.parent / "annex").mkdir(exist_ok=True)
        (photos / name).symlink_to(f"../annex/{name}")
    paint(tmp_path / "annex" / "x.png", 9)
    (tmp_path / "annex" / "x.json").write_text('{"title": "x"}')
    (photos / "own.json").symlink_to("/nowhere.json")
    store = tmp_path / "s.es"

    def report(**options: Any) -> Any:
        options |= {"model": "packaged", "extractor_factory": extractor, "sidecars": True}
        return embedsearch.index(photos, store=store, **options).metadata

    said_so = report()
    assert (said_so.matched, said_so.unreadable, said_so.unused) == (4, 1, 0)
    assert said_so.unreadable_names == ["own.json (No such file or directory)"]
    titles = {"folder/a.png": "a", "folder/b.png": "b", "folder/c.png": "c", "x.png": "x"}
    assert {key: said(store, key)["title"] for key in titles} == titles
    away.rename(tmp_path / "unplugged")  # its rows stay, and are said to have no sidecars now
    assert report().unreadable_names == [
        "own.json (No such file or directory)",
        "those in folder (No such file or directory)",
    ]
    assert {key: said(store, key)["title"] for key in titles} == titles
    (tmp_path / "unplugged").rename(away)
    (photos / "own.json").unlink()
    (photos / "own.json").symlink_to("../annex/x.json")
    assert said_so.matched == 4 and report(follow_links=False).unreadable == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links of others")
def test_a_sidecar_link_of_another_user_leads_only_to_what_is_theirs(tmp_path: Path) -> None:
    paint(tmp_path / "p" / "a.png", 1)
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "x"}')
    (tmp_path / "p" / "a.json").symlink_to(secret)
    os.lchown(tmp_path / "p" / "a.json", 1234, 1234)
    (beside, _) = beside_files(str(tmp_path / "p"), ["a.png"], follow=True)
    assert not beside.fields and "another user" in beside.unreadable[0]


def test_sidecars_of_takeout_in_a_folder_and_an_archive(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("a.png", "a(1).png", "a-edited.png", "b.png")):
        paint(photos / name, number)
    for name, title in (
        ("a.png.supplemental-metadata.json", "a"),
        ("a.png.supplemental-metadata(1).json", "a(1)"),
        ("b.png.suppl.json", "b"),
        ("metadata.json", "album"),
        ("c.png.suppl.json", "c"),
    ):
        (photos / name).write_text(json.dumps({"title": title}))
    (photos / "read me.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    for source in (photos, tmp_path / "t.zip"):
        store = tmp_path / f"{source.name}.es"
        report = embedsearch.index(
            source, store=store, model="packaged", extractor_factory=extractor, sidecars=True
        ).metadata
        assert report is not None and (report.matched, report.unused) == (4, 3)
        assert report.unused_names == ["c.png.suppl.json", "metadata.json", "read me.txt"]
        titles = {"a.png": "a", "a(1).png": "a(1)", "a-edited.png": "a", "b.png": "b"}
        assert {key: said(store, key)["title"] for key in titles} == titles
    done = run_cli("index", photos, "--store", tmp_path / "photos.es", "--sidecars")
    assert "4 images have sidecars" in done.stdout
    assert (
        "3 .json and .txt files are beside no image: c.png.suppl.json, metadata.json, read me.txt"
        in done.stdout
    )
    (photos / "read me.txt").unlink()
    (photos / "c.png.suppl.json").unlink()
    done = run_cli("index", photos, "--store", tmp_path / "photos.es", "--sidecars")
    assert "1 .json file is beside no image: metadata.json" in done.stdout
