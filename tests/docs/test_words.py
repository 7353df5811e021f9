"""Pages are short, and read easily."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.support.pages import COMMANDS, DOCS, pages, prose

MAX_LINES, MIN_READING_EASE = 200, 55
GUIDES = [
    *(DOCS / name for name in ("index.md", "quick_start.md", "install.md")),
    *sorted((DOCS / "guides").glob("*.md")),
]


def test_pages_are_short() -> None:
    every = [*pages(), *COMMANDS.glob("*.md")]
    assert len(every) > 50
    for path in every:
        lines = path.read_text().count("\n")
        assert lines <= MAX_LINES, f"{path.name} has {lines} lines"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_the_page_reads_easily(path: Path) -> None:
    """Flesch's reading ease of its prose; 55 is what a grown-up reads without effort."""
    textstat = pytest.importorskip("textstat", reason="needs the test extra")
    sentences = prose(path.read_text())
    assert len(sentences) > 8
    ease = textstat.flesch_reading_ease("\n".join(sentences))
    hardest = sorted(sentences, key=textstat.flesch_reading_ease)[:8]
    assert ease >= MIN_READING_EASE, f"{path.name}: {ease:.0f}\n" + "\n".join(hardest)


def test_the_measure_tells_plain_from_dense() -> None:
    textstat = pytest.importorskip("textstat", reason="needs the test extra")
    dense = "Vectors are measured from a center that the weights themselves foretell, whereupon "
    dense += "heterogeneous collections necessitate recalibration of similarity distributions."
    assert textstat.flesch_reading_ease(dense) < MIN_READING_EASE
    page = (
        "---\nname: x\n---\n# Title\n\nOne `code` here. Two\nlines.\n\n| a | b |\n\n* point one\n"
    )
    page += "\n```python\ncode\n```\n\nSee [this page](there.md): it helps.\n"
    assert prose(page) == ["One it here.", "Two lines.", "point one.", "See this page: it helps."]


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_the_page_leads_on(path: Path) -> None:
    """The last lines of a page say where to go next."""
    if path.name == "SKILL.md":
        pytest.skip("an agent reads it alone")
    last = path.read_text().rstrip().rsplit("\n\n", 1)[-1]
    assert last.startswith("Next: ") and "](" in last
