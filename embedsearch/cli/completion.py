"""What a shell offers after <TAB>: models, devices, columns and other names of options.

Called in a process of its own, before any command runs: nothing is printed, nothing is written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from embedsearch.core.config import CENTERS, DEVICES, FREEZABLE, LOSSES, PRECISIONS
from embedsearch.core.scores import RANKINGS


def models(incomplete: str) -> list[str]:
    """Return the models of the catalog, or the files and folders that begin like this."""
    from embedsearch.network.catalog import AUTO, CATALOG

    named = [name for name in (AUTO, *CATALOG) if name.startswith(incomplete)]
    return named or _files(incomplete)


def _offering(names: Iterable[str]) -> Callable[[], list[str]]:
    """Return what offers some names, whatever has been typed."""
    offered = list(names)
    return lambda: offered


devices = _offering((*DEVICES, "cuda:0"))
precisions, centers, rankings = map(_offering, (PRECISIONS, CENTERS, RANKINGS))
losses, stages = map(_offering, (LOSSES, FREEZABLE))


def column_names(context: typer.Context) -> list[str]:
    """Return the columns of the store that the command line names, or of the nearest one."""
    from embedsearch.core.errors import EmbedSearchError
    from embedsearch.searching.columns import FILTERED
    from embedsearch.store.info import info

    own: list[str] = []
    with contextlib.suppress(EmbedSearchError, OSError):  # without a store: those of all stores
        own = list(info(context.params.get("store")).columns)
    return [*FILTERED, *own]


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """Return the condition so far, with each column that its last word may become."""
    start, word = re.fullmatch(r"(.*?)(\w*)", incomplete, re.DOTALL).groups()  # type: ignore[union-attr]
    return [start + name for name in column_names(context) if name.startswith(word)]


def weights(context: typer.Context) -> list[str]:
    """Return the names that `--weight` takes, each with its equals sign."""
    return [f"{name}=" for name in ("picture", "words", *column_names(context))]


def _files(incomplete: str) -> list[str]:
    """Return files of weights and folders whose path begins with `incomplete`."""
    folder, _, start = incomplete.rpartition("/")
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted(Path(folder + "/" if folder or "/" in incomplete else ".").iterdir()):
            if entry.name.startswith(start):
                if entry.is_dir():
                    found.append(f"{incomplete.removesuffix(start)}{entry.name}/")
                elif entry.suffix in (".safetensors", ".pth", ".pt"):
                    found.append(f"{incomplete.removesuffix(start)}{entry.name}")
    return found
