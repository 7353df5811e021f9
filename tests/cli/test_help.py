"""The help of the command line, and what -v adds."""

from __future__ import annotations

import os

import pytest

from tests.support.library import run_cli


def test_no_arguments_show_the_help() -> None:
    done = run_cli()
    assert done.returncode == 2 and "Usage: embedsearch" in done.stderr


@pytest.mark.parametrize(
    "command", ["index", "query", "info", "check", "repair", "failures", "models"]
)
def test_every_command_has_a_help(command: str) -> None:
    help_text = run_cli(command, "-h")
    assert help_text.returncode == 0
    assert help_text.stdout.startswith(f"Usage: embedsearch {command}")


def test_defaults_stand_in_the_help() -> None:
    text = run_cli("query", "--help").stdout + run_cli("index", "--help").stdout
    for default in ("[default: 10;", "[default: auto]", "[default: 100000000]", "[default: cpu]"):
        assert default in " ".join(text.split())


def test_verbose_shows_the_traceback() -> None:
    done = run_cli("info", "--store", "/nowhere", "-v")
    assert "Traceback" in done.stderr and "StoreNotFound" in done.stderr


def test_completion() -> None:
    """What a shell asks after `embedsearch que<TAB>`; `--install-completion` makes it ask."""
    asked = {"COMP_WORDS": "embedsearch que", "COMP_CWORD": "1"}
    asking = {**os.environ, **asked, "_EMBEDSEARCH_COMPLETE": "complete_bash"}
    done = run_cli(env=asking)
    assert done.stdout.split() == ["query"], done.stderr
    assert "--install-completion" in run_cli("--help").stdout
