"""The README tells the truth: its sessions run, its commands and options exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.library import REPOSITORY, SAMPLES
from tests.support.sessions import assert_same, masked

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES, tmp_path / "sample_images")
    return tmp_path


def test_the_session_is_true(home: Path) -> None:
    (session,) = [block for block in blocks("console") if "-k 4" in block]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(steps) == 7
    for command, wanted in steps:
        words = shlex.split(command)
        if words[0] == "embedsearch":
            words = [sys.executable, "-P", "-m", "embedsearch", *words[1:]]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
        shown = done.stdout.replace(str(home), "/home/ada")
        assert_same(shown, wanted)


def test_the_session_with_words_is_true(home: Path) -> None:
    shutil.copytree(REPOSITORY / "examples", home / "examples")
    (session,) = [block for block in blocks("console") if "--text" in block]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert [shlex.split(command)[1] for command, _ in steps] == ["index", "query", "query"]
    for command, wanted in steps:
        words = [sys.executable, "-P", "-m", "embedsearch", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
        assert_same(done.stdout, wanted)


def test_the_training_session_is_true(home: Path) -> None:
    (session,) = [block for block in blocks("console") if "embedsearch train" in block]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert [shlex.split(command)[1] for command, _ in steps] == ["train", "index", "evaluate"]
    shown = []
    for command, wanted in steps:
        words = [sys.executable, "-P", "-m", "embedsearch", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
        shown.append(done.stdout.replace(str(home), "/home/ada"))
        assert masked(shown[-1]) == masked(wanted)
    before, after = (float(found) for found in re.findall(r"mAP ([\d.]+)", shown[0]))
    assert after > before


def test_the_cleaning_session_is_true(home: Path) -> None:
    (session,) = [block for block in blocks("console") if "embedsearch duplicates" in block]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert [shlex.split(command)[:2][-1] for command, _ in steps][1:] == ["index", "duplicates"]
    for command, wanted in steps:
        words = shlex.split(command)
        if words[0] == "embedsearch":
            words = [sys.executable, "-P", "-m", "embedsearch", *words[1:]]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
        if "index" in words:
            assert masked(done.stdout) == masked(wanted)
        else:
            assert done.stdout == wanted
    (home / "sample_images" / "clocks" / "clocks_1.jpg").rename(home / "elsewhere.jpg")
    subprocess.run(["sh", home / "delete.sh"], check=True, capture_output=True)
    assert (home / "sample_images" / "clock.jpg").exists()
    (home / "elsewhere.jpg").rename(home / "sample_images" / "clocks" / "clocks_1.jpg")
    subprocess.run(["sh", home / "delete.sh"], check=True)
    assert not (home / "sample_images" / "clock.jpg").exists()


def test_the_bench_session_has_the_shape_that_is_shown(home: Path) -> None:
    """Every figure in it is the machine's; words and columns are ours."""
    (session,) = [block for block in blocks("console") if "embedsearch bench" in block]
    command, wanted = session.removeprefix("$ ").split("\n", 1)
    words = [sys.executable, "-P", "-m", "embedsearch", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
    shown, told = (
        masked(re.sub(r" process(es)?", " process", text)) for text in (done.stdout, wanted)
    )
    assert shown[0] == told[0] and shown[1].startswith("the network runs in ")
    assert shown[2:7] == told[2:7]
    assert shown[7].split(" ")[:5] == told[7].split(" ")[:5]
    assert shown[8].startswith("# of at most # images/s; the network takes # % of the processors")


def test_the_python_lines_run(home: Path) -> None:
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line]) == 6
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=home, capture_output=True, text=True, check=True
    )
    assert next(line.split()[2] for line in done.stdout.splitlines()) == "boats/boats_1.jpg"
    assert len(done.stdout.splitlines()) == 3


def test_the_recipes_for_frameworks_run(home: Path) -> None:
    """One after another, word for word."""
    shutil.copytree(REPOSITORY / "examples", home / "examples")
    first, captions, *recipes = blocks("python")
    named = [re.findall(r"integrations\.(\w+)", recipe)[0] for recipe in recipes]
    assert named == ["langchain", "llama_index", "haystack"]
    run_python(home, first)
    run_python(home, captions)
    for name, recipe in zip(named, recipes, strict=True):
        pytest.importorskip({"langchain": "langchain_core"}.get(name, name))
        shown = run_python(home, recipe).splitlines()
        assert len(shown) == 4
        assert shown[0].startswith("A round wall clock")
        assert sum("clock" in line or "watch" in line for line in shown) >= 3


def run_python(home: Path, code: str) -> str:
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout


async def test_the_recipe_for_agents_runs(home: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    run_python(home, blocks("python")[0])
    (text,) = blocks("json")
    (server,) = json.loads(text.replace("/home/ada", str(home)))["mcpServers"].values()
    assert server["command"] == "embedsearch"
    parameters = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "embedsearch", *server["args"]]
    )
    async with Client(parameters) as client:
        found = await client.call_tool("search_similar_images", {"key": "clocks/clocks_1.jpg"})
    assert found.structured_content is not None
    assert len(found.structured_content["hits"]) == 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_recipe_for_http_runs(home: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from tests.support.serving import served

    run_python(home, blocks("python")[0])
    (session,) = [block for block in blocks("console") if "curl" in block]
    start, *asks = [line.removeprefix("$ ") for line in session.splitlines()]
    assert start == "embedsearch serve --store photos.es &"
    with served(home / "photos.es") as server:
        answers = []
        for ask in asks:
            words = shlex.split(ask.replace("localhost:8000", f"localhost:{server.port}"))
            done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True)
            answers.append([hit["key"] for hit in json.loads(done.stdout)["hits"]])
    assert [(len(keys), keys[0]) for keys in answers] == [
        (5, "boats/boats_1.jpg"),
        (10, "clocks/clocks_1.jpg"),
    ]


def test_every_command_stands_in_the_readme() -> None:
    import typer

    from embedsearch.cli.app import app
    from embedsearch.cli.entry import run  # which registers the commands

    assert callable(run)
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^\| `embedsearch (\w+)", README, re.MULTILINE))
    assert named == commands


def test_options_named_in_the_readme_exist() -> None:
    known = ""
    for command in (
        "index",
        "commit",
        "query",
        "check",
        "repair",
        "bench",
        "evaluate",
        "train",
        "export",
        "duplicates",
        "map",
        "serve",
        "mcp",
    ):
        arguments = [sys.executable, "-m", "embedsearch", command, "--help"]
        known += subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    others = {"--index-url", "--json", "--data-binary"}  # of pip and curl
    others |= {"--exclude", "--delete"}  # of aws
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - others:
        assert option in known, option


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (REPOSITORY / target).exists(), target


def test_documented_columns_are_the_schemas() -> None:
    from embedsearch.store.shards import row_schema

    section = README.split("| column | type | |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)))
    assert named == row_schema(4).names


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"@[A-Z0-9_]+@", README)
