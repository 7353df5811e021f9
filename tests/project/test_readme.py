"""The README tells the truth: its session runs, its links lead somewhere, and it reads easily."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.support.pages import prose
from tests.support.library import REPOSITORY, SAMPLES
from tests.support.sessions import assert_same

README = (REPOSITORY / "README.md").read_text()
MAX_LINES, SESSION_LINES, MIN_READING_EASE = 150, 15, 55


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES, tmp_path / "sample_images")
    return tmp_path


def test_the_session_is_short_and_true(home: Path) -> None:
    (session,) = [block for block in blocks("console") if "-k 3" in block]
    assert session.count("\n") <= SESSION_LINES
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(steps) == 3
    for command, wanted in steps:
        words = [sys.executable, "-P", "-m", "embedsearch", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
        assert_same(done.stdout.replace(str(home), "/home/ada"), wanted)


def test_the_python_lines_run(home: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) == 6
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=home, capture_output=True, text=True, check=True
    )
    assert next(line.split()[2] for line in done.stdout.splitlines()) == "boats/boats_1.jpg"
    assert len(done.stdout.splitlines()) == 3


def test_the_first_commands_are_those_of_the_makefile() -> None:
    named = re.findall(r"^\$ make (\w+)", blocks("console")[0], re.MULTILINE)
    assert named == ["demo", "test"]
    targets = re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", README)) | set(named) <= set(targets)


def test_links_lead_to_files_and_headings() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", README)
    assert len(links) > 15
    for target, anchor in links:
        page = REPOSITORY / target
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_options_that_it_names_exist() -> None:
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"}
    pages = (REPOSITORY / "docs" / "reference" / "commands").glob("*.md")
    known = "".join(page.read_text() for page in pages)
    assert options and all(f" {option}" in known for option in options), options


def test_it_is_short_and_reads_easily() -> None:
    textstat = pytest.importorskip("textstat", reason="needs the test extra")
    assert README.count("\n") <= MAX_LINES
    assert not re.search(r"@[A-Z0-9_]+@", README)
    sentences = prose(README)
    ease = textstat.flesch_reading_ease("\n".join(sentences))
    hardest = sorted(sentences, key=textstat.flesch_reading_ease)[:8]
    assert ease >= MIN_READING_EASE, f"{ease:.0f}\n" + "\n".join(hardest)
