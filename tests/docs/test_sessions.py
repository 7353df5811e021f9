"""Every session and snippet of every page runs, word for word, and prints what the page shows."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from docs.support.pages import DOCS, blocks, pages
from docs.support.sessions import Outcome, refreshed, run
from tests.support.library import SAMPLES, run_cli
from tests.support.sessions import assert_same, masked

RUNNING = [
    path
    for path in pages()
    if any(b.runs and b.language in {"console", "python"} for b in blocks(path.read_text()))
]
# Libraries that a page needs beside those of the package.
NEEDED = {
    "guides/retrieval.md": ["langchain_core", "llama_index", "haystack"],
    "guides/deploy.md": ["fastapi"],
}


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("path", RUNNING, ids=name)
def test_the_page_shows_what_happens(path: Path) -> None:
    for library in NEEDED.get(name(path), []):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")
    if "curl" in path.read_text() and shutil.which("curl") is None:
        pytest.skip("needs curl")
    compared = 0
    for outcome in run(path.read_text()):
        if outcome.shown:
            compared += 1
            assert_shown(outcome)
    assert compared > 0


def assert_shown(outcome: Outcome) -> None:
    """Compare what was printed with what the page shows."""
    if not outcome.block.figures_vary:
        assert_same(outcome.printed, outcome.shown)
        return
    shown, wanted = masked(outcome.printed), masked(outcome.shown)
    if outcome.command.startswith("embedsearch bench"):  # its advice is about this machine
        told = r"(es)?[,;→].*|(?<=in )(automatic|#) streams?"
        shown, wanted = ([re.sub(told, "", x) for x in y] for y in (shown, wanted))
    if outcome.command.startswith("embedsearch clusters"):  # sizes decide the order
        shown, wanted = shown[:1], wanted[:1]
    assert shown == wanted


def test_what_a_page_shows_is_written_again() -> None:
    page = "# A\n\n```console\n$ echo one; echo two\none\n$ true\n```\n\n"
    page += '```python\nprint("x")\n```\n\n```text\ny\n```\n'
    wanted = page.replace("\none\n", "\none\ntwo\n").replace("\ny\n", "\nx\n")
    assert refreshed(page) == wanted
    with pytest.raises(AssertionError, match="exit 3"):
        refreshed("```console\n$ exit 3\n```\n")


async def test_the_settings_for_agents_start_a_server(samples_store: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    page = (DOCS / "guides" / "retrieval.md").read_text()
    (text,) = [block.text for block in blocks(page) if block.language == "json"]
    (server,) = json.loads(text)["mcpServers"].values()
    assert server["command"] == "embedsearch"
    arguments = [w.replace("/home/ada/photos.es", str(samples_store)) for w in server["args"]]
    parameters = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "embedsearch", *arguments]
    )
    async with Client(parameters) as client:
        found = await client.call_tool("search_similar_images", {"key": "clocks/clocks_1.jpg"})
    assert found.structured_content is not None
    assert len(found.structured_content["hits"]) == 5


def test_what_the_skill_tells_an_agent_to_type_exists(tmp_path: Path) -> None:
    page = (DOCS / "SKILL.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^    (embedsearch .*)$", page, re.M)]
    assert [command[1] for command in commands] == ["index", *["query"] * 3, "duplicates"]
    shutil.copytree(SAMPLES, tmp_path / "PHOTOS")
    shutil.copy(SAMPLES / "clocks" / "clocks_1.jpg", tmp_path / "picture.jpg")
    (tmp_path / "captions.csv").write_text("path,caption\nclocks/clocks_1.jpg,red shoes\n")
    for words in commands:
        extra = ["--model", "packaged"] if words[1] == "index" else []
        done = run_cli(*words[1:], *extra, cwd=tmp_path, check=True)
        assert done.stdout or words[1] == "duplicates"  # there are none
