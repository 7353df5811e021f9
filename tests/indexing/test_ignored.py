"""What `index` passes over can be listed by name."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import embedsearch
from embedsearch.core.walks import Skip
from embedsearch.indexing.ignored import ignored_entries
from tests.support.library import paint, run_cli


def test_every_entry_that_is_counted_can_be_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "Trash").mkdir(parents=True)
    paint(photos / "a.png", 1)
    paint(photos / "Trash" / "b.png", 2)
    for name in ("notes.txt", ".hidden", "film.mov", "program.exe", "more.tar"):
        (photos / name).write_text("x")
    os.mkfifo(photos / "pipe")
    (photos / "again.png").symlink_to("a.png")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photos / "a.png", "inside.png")
        archive.writestr("read.me", "x")
    store = tmp_path / "s.es"
    report = embedsearch.index(
        [photos, tmp_path / "more.zip"], store=store, model="packaged", exclude=("Trash/",)
    )
    found = list(ignored_entries(store))
    assert Counter(str(entry.kind) for entry in found) == report.ignored.kinds()
    assert report.ignored.total == len(found) == 9
    named = {entry.full_path.removeprefix(f"{photos}/"): entry.kind for entry in found}
    assert named == {
        "Trash": Skip.EXCLUDED,
        "notes.txt": Skip.SIDECAR,
        ".hidden": Skip.HIDDEN,
        "film.mov": Skip.VIDEO,
        "program.exe": Skip.OTHER,
        "more.tar": Skip.ARCHIVE,
        "pipe": Skip.SPECIAL,
        "again.png": Skip.SEEN,
        f"{tmp_path}/more.zip/read.me": Skip.OTHER,
    }
    done = run_cli("failures", "--ignored", "--json", "--store", store)
    assert [json.loads(line)["full_path"] for line in done.stdout.splitlines()] == [
        entry.full_path for entry in found
    ]
    shown = run_cli("failures", "--ignored", "--store", store, cwd=tmp_path).stdout
    assert "\nvideos                       photos/film.mov\n" in f"\n{shown}"


def test_a_folder_of_images_alone_has_nothing_to_list(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    paint(tmp_path / "photos" / "a.png", 1)
    embedsearch.index(tmp_path / "photos", store=tmp_path / "s.es", model="packaged")
    done = run_cli("failures", "--ignored", "--store", tmp_path / "s.es")
    assert done.stdout == "nothing is ignored\n"
