"""Write a page for each command from its help: `python -m docs.support.commands`."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from docs.support.pages import COMMANDS, REPOSITORY

# Where a guide explains a command: title, and path from the folder of the pages.
PHOTOS = ("Photo collections and duplicates", "../../guides/photos.md")
SEARCH = ("Searching", "../../guides/search.md")
TRAINING = ("Training and evaluating", "../../guides/training.md")
VECTORS = ("Vectors from and to elsewhere", "../../guides/vectors.md")
SCALE = ("Clusters and large collections", "../../guides/scale.md")
STORE = ("The store's format", "../store.md")
GUIDES = {
    "index": PHOTOS,
    "commit": SCALE,
    "query": SEARCH,
    "info": STORE,
    "check": STORE,
    "repair": STORE,
    "failures": ("What can be indexed", "../sources.md"),
    "relocate": PHOTOS,
    "forget": PHOTOS,
    "models": ("Which network", "../../guides/models.md"),
    "bench": SCALE,
    "evaluate": TRAINING,
    "train": TRAINING,
    "export": VECTORS,
    "import": VECTORS,
    "pull": VECTORS,
    "duplicates": PHOTOS,
    "clusters": PHOTOS,
    "outliers": PHOTOS,
    "map": PHOTOS,
    "prepare": ("Install", "../../install.md"),
    "serve": ("Deploying the server", "../../guides/deploy.md"),
    "mcp": ("Retrieval for language models and agents", "../../guides/retrieval.md"),
}


def command_line() -> dict[str, Any]:
    """Return every command by its name, in the order of the help."""
    import typer

    from embedsearch.cli import app, entry

    assert callable(entry.run)  # importing it registers the commands
    commands = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
    return {name: command for name, command in commands.items() if not command.hidden}


def _help(*command: str) -> str:
    """Return what --help prints on a terminal of 80 columns."""
    environment = {
        **os.environ,
        **{"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(REPOSITORY)},
    }
    words = [sys.executable, "-P", "-m", "embedsearch", *command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def _page(name: str) -> str:
    title, guide = GUIDES[name]
    return f"# embedsearch {name}\n\n```text\n{_help(name)}\n```\n\nMore: [{title}]({guide}).\n"


def _file(name: str) -> str:
    """Return the name of the page of a command; `index.md` is the list of all."""
    return "index_command.md" if name == "index" else f"{name}.md"


def generated() -> dict[str, str]:
    """Return the text of each page by its name."""
    commands = command_line()
    groups: dict[str, list[str]] = {}
    for name, command in commands.items():
        groups.setdefault(command.rich_help_panel, []).append(f"[{name}]({_file(name)})")
    lines = [f"* {group}: {' · '.join(links)}" for group, links in groups.items()]
    first = (
        "# Commands\n\nEach page is the help of a command, as `embedsearch COMMAND --help` prints"
        " it.\n\n" + "\n".join(lines) + "\n\n```text\n" + _help() + "\n```\n\n"
        "More: [exit codes](../exit_codes.md), [configuration](../configuration.md).\n"
    )
    with ThreadPoolExecutor(2) as threads:
        texts = list(threads.map(_page, commands))
    return {"index.md": first, **dict(zip(map(_file, commands), texts, strict=True))}


def write() -> None:
    """Write the pages, and remove those of commands that are gone."""
    COMMANDS.mkdir(parents=True, exist_ok=True)
    texts = generated()
    for path in COMMANDS.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (COMMANDS / name).write_text(text)


if __name__ == "__main__":
    write()
