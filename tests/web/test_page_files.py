"""The files of the page: their size, where colors are, their types."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.library import REPOSITORY

STATIC = REPOSITORY / "embedsearch" / "web" / "static"
SCRIPTS = sorted(STATIC.rglob("*.js"))
STYLES = sorted(STATIC.rglob("*.css"))


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES], ids=lambda path: path.name)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_text_is_never_html(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// @ts-check\n// ")
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
    )
    assert found == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_colors_are_in_one_file() -> None:
    for path in STYLES:
        found = re.findall(r":[^;{]*(#[0-9a-f]{3,8}\b|rgb\()", path.read_text())
        assert bool(found) is (path.name == "tokens.css"), path


def test_a_file_is_kept_until_it_changes() -> None:
    from embedsearch.web import assets

    assert len(assets.assets()) == len(SCRIPTS) + len(STYLES) + 1  # and the icon
    for name in re.findall(r'(?:href|src)="\./(\S+)"', assets.script_links("./")):
        assert name.removeprefix(assets.folder()) in assets.assets()


def test_types() -> None:
    compiler = shutil.which("tsc")
    if compiler is None:
        pytest.skip("needs tsc, TypeScript's compiler: npm install typescript")
    project = REPOSITORY / "tests" / "web" / "jsconfig.json"
    done = subprocess.run([compiler, "-p", project], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
