"""The pages of the documentation as text: their blocks of code, and the prose around them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
COMMANDS = DOCS / "reference" / "commands"
# A fence with this in its title shows figures of one machine; its words are compared.
FIGURES_VARY = "Figures differ"
# A fence whose title begins so cannot run in a test; its commands are parsed.
CANNOT_RUN = ("Needs ", "Runs until ")

_FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_STEP = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code, and where its text stands in the page."""

    language: str
    title: str
    text: str
    start: int
    end: int

    @property
    def runs(self) -> bool:
        """Return whether it can be run anywhere."""
        return not self.title.startswith(CANNOT_RUN)

    @property
    def figures_vary(self) -> bool:
        """Return whether numbers in its output are those of one machine."""
        return FIGURES_VARY in self.title

    def steps(self) -> list[tuple[str, str]]:
        """Return (command, what it prints) of each line that begins with a dollar."""
        return _STEP.findall(self.text)


def pages() -> list[Path]:
    """Return every page that is written by hand."""
    return sorted(p for p in DOCS.rglob("*.md") if COMMANDS not in p.parents)


def blocks(page: str) -> list[Block]:
    """Return the blocks of code of a page, in order."""
    return [
        Block(m["language"], m["title"] or "", m["text"], m.start("text"), m.end("text"))
        for m in _FENCE.finditer(page)
    ]


def prose(page: str) -> list[str]:
    """Return the sentences of a page, without code, tables, pictures, addresses and marks."""
    page = re.sub(r"\A---\n.*?\n---\n", "", page, flags=re.DOTALL)
    page = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"^ *(\||#|!\[|<|:::|!!!).*$", "", page, flags=re.MULTILINE)
    page = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", page)
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"`[^`]*`", "it", page)  # a name in code is one short word of its sentence
    page = re.sub(r"https?://\S+", "", page)
    page = re.sub(r"^ *([*-]|\d+\.) ", "\n", page, flags=re.MULTILINE)
    page = page.replace("**", "").replace("*", "")
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", page))
    sentences = (s for part in paragraphs for s in re.split(r"(?<=[.?!:])\s+(?=[A-Z\d\"(])", part))
    return [s if s[-1] in ".?!" else f"{s.rstrip(':;,')}." for s in sentences if len(s.split()) > 1]
