"""What was meant by a mistyped command line; in: typer's message, out: one in our words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from embedsearch.cli.app import app

# What other programs call an option or a command of ours.
_OPTIONS = {
    **dict.fromkeys(("-n", "-m", "-t", "--top", "--limit", "--count", "--num"), "-k"),
    "--threshold": "--min-score",
    "--filter": "--where",
    **dict.fromkeys(("-o", "--output"), "--out"),
}
_COMMANDS = {
    **dict.fromkeys(("search", "find", "similar"), "query"),
    **dict.fromkeys(("add", "update", "sync", "build"), "index"),
    **dict.fromkeys(("ls", "list", "status", "show"), "info"),
    **dict.fromkeys(("remove", "rm", "delete"), "forget"),
    **dict.fromkeys(("dedupe", "dups"), "duplicates"),
    **{name: f"--{name}" for name in ("help", "version")},
}
_VALUES = (
    (r"Input should be a valid integer\b.*", "it must be a whole number"),
    (r"Input should be a valid number\b.*", "it must be a number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"it must be at most \1"),
    (r"Value error, ", ""),
)


def in_our_words(message: str, arguments: list[str]) -> str:
    """Return the message with what was meant, where that can be told."""
    for pattern, words in _VALUES:
        message = re.sub(pattern, words, message)
    if (found := re.match(r"No such option: (\S+)", message)) is not None:
        return _option(message, found[1], arguments)
    if (found := re.match(r"No such command '(.*?)'", message)) is not None:
        return _command(message, found[1])
    return message


def _option(message: str, wrong: str, arguments: list[str]) -> str:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    command, ours = commands.get(arguments[0]), _OPTIONS.get(wrong)
    if command is None:
        return f"{message}. Options come after the command"
    if any(ours in parameter.opts for parameter in command.params):
        return f"No such option: {wrong}. Here it is called {ours}"
    return message


def _command(message: str, wrong: str) -> str:
    if ours := _COMMANDS.get(wrong):
        return f"No such command {wrong!r}. Here it is called {ours}"
    path = Path(wrong).expanduser()
    if path.exists():
        does = "index" if path.is_dir() else "query"
        return f"No such command {wrong!r}. Did you mean embedsearch {does} {shlex.quote(wrong)}?"
    return message
