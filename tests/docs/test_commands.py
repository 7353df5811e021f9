"""The pages of commands are their help, and what pages tell to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from docs.support.commands import command_line, generated
from docs.support.pages import COMMANDS, DOCS, blocks, pages

# Options that pages name, of other programs.
OTHERS = {
    *(
        "--index-url",
        "--pip-args",
        "--force",
        "--extra-index-url",
        "--torch-backend",
    ),  # pip, pipx, uv
    *("--data-binary", "--retry", "--retry-connrefused", "--delete", "--exclude"),  # curl, aws
}


def parsed(words: list[str], commands: dict[str, Any]) -> dict[str, Any]:
    """Return the options and arguments of a command line. Raises Exception where one is wrong."""
    command = commands[words[0]]
    context = command.context_class(command, info_name=words[0])
    parser = command.make_parser(context)
    values, left, _ = parser.parse_args(args=list(words[1:]))
    assert left == [], left
    return dict(values)


def lines(path: Path) -> list[str]:
    """Return every command line of embedsearch on a page, in sessions and in the text."""
    page = path.read_text()
    found = [step for b in blocks(page) if b.language == "console" for step, _ in b.steps()]
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    found += re.findall(r"`([^`]*\bembedsearch\s[^`]+)`", text)
    return [line for line in found if re.search(r"(?:^|[|&;] *)embedsearch ", line)]


def words_of(line: str) -> list[list[str]]:
    """Return the words of each command of ours in a line of a shell."""
    split = shlex.shlex(line.replace("…", "X"), posix=True, punctuation_chars=True)
    split.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in split:
        if set(word) <= set("|&;<>()"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [part[1:] for part in parts if part[:1] == ["embedsearch"]]


def test_the_pages_are_the_help() -> None:
    """`make docs` writes them again."""
    there = {path.name: path.read_text() for path in COMMANDS.glob("*.md")}
    wanted = generated()
    assert set(there) == set(wanted)
    assert {name for name in wanted if there[name] != wanted[name]} == set()
    assert len(there) == 1 + len(command_line()), "the list of all, and one for each"
    assert there["index.md"].startswith("# Commands\n")


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_every_command_line_is_one(path: Path) -> None:
    commands = command_line()
    for line in lines(path):
        for words in words_of(line):
            if words[-1] not in {"--help", "--version"}:
                assert words[0] in commands, line
                parsed(words, commands)


def test_the_check_sees_what_it_is_for() -> None:
    commands = command_line()
    assert parsed(["query", "a.jpg", "-k", "4"], commands)["k"] == "4"
    for wrong in (["query", "--nothing", "1"], ["query", "--wheer", "x"], ["info", "-k", "1"]):
        with pytest.raises(Exception, match="No such option"):
            parsed(wrong, commands)
    assert len(lines(DOCS / "guides" / "search.md")) > 5
    line = "find . | embedsearch index --files - && embedsearch query a --where 'x > 1' > y &"
    ours = [["index", "--files", "-"], ["query", "a", "--where", "x > 1"]]
    assert words_of(line) == ours


def test_every_option_in_the_text_exists() -> None:
    known = {
        option
        for command in command_line().values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "--version"}
    found = set()
    for path in pages():
        if path.name != "architecture.md":
            found |= set(re.findall(r"(?<![\w`-])--[a-z][a-z-]+(?![\w-])", path.read_text()))
            found |= set(re.findall(r"`(--[a-z][a-z-]+)", path.read_text()))
    assert len(found) > 60
    assert found - OTHERS - known == set()


def test_every_command_is_named_by_a_guide() -> None:
    text = "".join(path.read_text() for path in pages())
    for name in command_line():
        assert re.search(rf"embedsearch\s+{name}\b|`{name}\b", text), name
