"""The help of the command line, what -v adds, and what a shell completes."""

from __future__ import annotations

import os
import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer

from embedsearch.cli.app import app
from embedsearch.cli.entry import run
from embedsearch.cli.examples import EXAMPLES
from embedsearch.cli.help import GENERAL, GROUPS
from tests.support.library import run_cli

assert callable(run)  # its module registers the commands
ALL: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = ALL.commands
WIDTHS = (80, 100, 120)
GROUP_NAMES = ["Search", "Collection", "Clean up", "Learn", "Share", "Serve"]


def help_of(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    command = COMMANDS[name] if name else ALL
    info_name = f"embedsearch {name}".strip()
    return str(command.get_help(typer.Context(command, info_name=info_name, max_content_width=120)))


def completed(words: str, cwd: Path | None = None) -> list[str]:
    """Return what bash is offered at the end of `words`."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    asking = {**os.environ, **asked, "_EMBEDSEARCH_COMPLETE": "complete_bash"}
    done = run_cli(env=asking, cwd=cwd)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_no_arguments_show_the_help() -> None:
    done = run_cli()
    assert done.returncode == 2 and "Usage: embedsearch" in done.stderr


def test_the_help_follows_the_width_of_the_terminal() -> None:
    texts = []
    for width in (80, 200):
        done = run_cli("query", "-h", env={**os.environ, "COLUMNS": str(width)})
        assert done.returncode == 0
        texts.append(done.stdout.partition("Examples:")[0])
    narrow, wide = (max(map(len, text.splitlines())) for text in texts)
    assert 70 < narrow <= 80 < wide <= 120


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_of_commands_cuts_no_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_of("", width, monkeypatch)
    assert [line[:-1] for line in text.splitlines() if re.fullmatch(r"\w[\w ]*:", line)] == [
        *GROUP_NAMES,
        "General",
        "Examples",
    ]
    for name, command in COMMANDS.items():
        first_line = command.help.partition("\n")[0].removesuffix(".")
        assert f"\n  {name:10}  {first_line}\n" in text  # whole, on one line
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option stands once, in a group, with its whole text, whatever the width."""
    command = COMMANDS[name]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    for width in WIDTHS:
        text = help_of(name, width, monkeypatch)
        assert text.startswith(f"Usage: embedsearch {name} ")
        body, _, examples = text.partition("\nExamples:\n")
        assert max(map(len, text.splitlines())) <= width
        assert "..." not in re.sub(r"(\]|FOLDER|IMAGE|MODEL)\.\.\.", "", body)
        assert "<" not in body  # types in the words of Python
        flat = " ".join(body.split())
        for option in options:
            assert option.help and " ".join(option.help.split("  [")[0].split()) in flat, option
            assert len(re.findall(rf"^  .*{re.escape(option.opts[0])}\b", body, re.M)) >= 1
            assert option.rich_help_panel in {*GROUPS, None}
        assert [line.strip() for line in examples.splitlines()] == list(EXAMPLES[name])
        assert f"\n{GENERAL}:\n" in body


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_accepted(name: str) -> None:
    """The command line takes each example, option by option; nothing runs."""
    for example in EXAMPLES[name]:
        words = list(takewhile(lambda word: word not in "|>", shlex.split(example, comments=True)))
        if words[1] != name:  # one that prepares, as index --unit before commit
            assert name == "commit" and words[1] == "index"
        context = COMMANDS[words[1]].make_context(words[1], words[2:])
        assert context.args == []


def test_defaults_stand_in_the_help() -> None:
    text = run_cli("query", "--help").stdout + run_cli("index", "--help").stdout
    for default in ("[default: 10;", "[default: auto]", "[default: 100000000]", "[default: cpu]"):
        assert default in " ".join(text.split())


@pytest.mark.parametrize(
    ("wrong", "ours"), [("-n", "-k"), ("--top", "-k"), ("--threshold", "--min-score")]
)
def test_options_of_other_programs_lead_to_ours(wrong: str, ours: str) -> None:
    done = run_cli("query", "photo.jpg", wrong, "5")
    assert done.returncode == 2
    assert f"No such option: {wrong}. Here it is called {ours}" in done.stderr


def test_verbose_shows_the_traceback() -> None:
    done = run_cli("info", "--store", "/nowhere", "-v")
    assert "Traceback" in done.stderr and "StoreNotFound" in done.stderr


def test_a_shell_completes_commands() -> None:
    """`--install-completion` makes it ask."""
    assert completed("embedsearch que") == ["query"]
    assert "--install-completion" in run_cli("--help").stdout


def test_a_shell_completes_models_and_devices(tmp_path: Path) -> None:
    assert completed("embedsearch index --model resnet1") == [
        name for name in completed("embedsearch index --model resnet") if name[:7] == "resnet1"
    ]
    assert completed("embedsearch train --model pack") == ["packaged"]
    assert completed("embedsearch query --device cu") == ["cuda", "cuda:0"]
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "minutes.txt").touch()
    (tmp_path / "miners").mkdir()
    found = completed("embedsearch index --model min", cwd=tmp_path)
    assert found == ["mine.safetensors", "miners/"]


def test_a_shell_completes_the_columns_of_the_store(tmp_path: Path) -> None:
    """Without a store, those of all stores."""
    assert completed("embedsearch query --where wid", cwd=tmp_path) == ["width"]
    samples = Path(__file__).parents[2] / "sample_images" / "clocks"
    table = tmp_path / "captions.csv"
    table.write_text("path,caption\nclocks_1.jpg,a clock\n")
    done = run_cli("index", samples, "--model", "packaged", "--metadata", table, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert completed("embedsearch query --where cap", cwd=tmp_path) == ["caption"]
    assert completed("embedsearch query --weight cap", cwd=tmp_path) == ["caption="]
    store = tmp_path / ".embedsearch"
    assert completed(f"embedsearch clusters --store {store} --where cap") == ["caption"]
