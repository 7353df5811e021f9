"""Patterns of what is left out: below each root, also where a whole path is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.images.sources.exclusion import below_roots
from embedsearch.store.current import read_current
from tests.support.library import Library, paint


@pytest.mark.parametrize(
    "form", ["{root}/skip", "{root}/skip/", "{link}/skip", "~/p/skip", "file://{root}/skip/"]
)
def test_a_whole_path_is_left_out(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, name in enumerate(["a.png", "skip/b.png", "in/skip/c.png"]):
        paint(tmp_path / "p" / name, number)
    (tmp_path / "link").symlink_to(tmp_path / "p")
    pattern = form.format(root=tmp_path / "p", link=tmp_path / "link")
    folder = tmp_path / ("link" if "{link}" in form else "p")
    report = library.index(folder, exclude=(pattern,))
    assert (report.added, report.ignored.excluded) == (2, 1), "only that one"
    kept = read_current(library.store).excludes.patterns
    assert kept == ("/skip/" if pattern.endswith("/") else "/skip",)
    assert library.index().unchanged == 2
    report = library.index(exclude=(f"{tmp_path}/p/*/skip/",))
    assert (report.added, report.deleted) == (1, 1), "a root that the store knows"


def test_a_whole_path_that_would_hold_elsewhere_is_refused(
    library: Library, tmp_path: Path
) -> None:
    for number, name in enumerate(["p", "q"]):
        paint(tmp_path / name / "skip" / "a.png", number)
    folders = [tmp_path / "p", tmp_path / "q"]
    with pytest.raises(UsageError, match=r"below each of the folders: write it as /skip"):
        library.index(*folders, exclude=(f"{tmp_path}/p/skip",))
    with pytest.raises(UsageError, match="is a folder to index: leave it out"):
        library.index(tmp_path / "p", exclude=(f"{tmp_path}/p/",))
    assert not library.store.exists()


def test_other_patterns_stay() -> None:
    patterns = ("skip/", "/skip", "!keep", "/photos2/x", "*.jpg", "~x", "")
    assert below_roots(patterns, ["/photos", "/photos/in"]) == patterns
    assert below_roots(["!/photos/in/x/"], ["/photos", "/photos/in"]) == ("!/in/x/",)
    assert below_roots(["s3://b/p/x/"], ["s3://b/p"]) == ("/x/",)
    assert below_roots(["/tmp/"], ["/"]) == ("/tmp/",)
