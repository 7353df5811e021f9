"""How child processes of our own are started: this interpreter, our package, no surprises."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python_command(module: str) -> list[str]:
    """Return the command that runs a module of embedsearch in a child.

    -P keeps the current folder off the import path: it may be a stranger's folder of photos
    with a numpy.py in it.
    """
    return [sys.executable, "-P", "-W", "ignore", "-m", module]


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, in which the same embedsearch is importable."""
    package_parent = str(Path(__file__).parent.parent)
    search_path = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, [package_parent, search_path]))
    return {**os.environ, "PYTHONPATH": paths, **changes}
