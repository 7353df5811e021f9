"""The machine: processors, the cache folder, and child processes of embedsearch."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path
from embedsearch.core.quantity import size_of

DEFAULT_STORE_CACHE_BYTES = 20 << 30  # of all stores at URLs together
MAX_WORKERS = 64


def python_command(module: str) -> list[str]:
    """Return the command that runs a module of embedsearch in a child.

    -P keeps the current folder off the import path: it may be a stranger's folder of photos
    with a numpy.py in it.
    """
    return [sys.executable, "-P", "-W", "ignore", "-m", module]


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, changed so that this embedsearch can be imported."""
    package_parent = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, **changes}


def available_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_workers() -> int:
    """Return the useful number of decoding processes: one per processor, at most MAX_WORKERS."""
    return min(available_processors(), MAX_WORKERS)


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for weights and converted networks; EMBEDSEARCH_CACHE overrides it."""
    if environ.get("EMBEDSEARCH_CACHE"):
        return Path(local_path(environ["EMBEDSEARCH_CACHE"]))
    try:
        home = Path.home()
    except RuntimeError:  # no HOME and no passwd entry: a container's arbitrary user
        return Path(tempfile.gettempdir()) / f"embedsearch-{os.getuid()}"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "embedsearch"
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "embedsearch"


def store_cache_folder() -> Path:
    """Return the folder for copies of stores that are at URLs."""
    return cache_folder() / "stores"


def store_cache_bytes(environ: Mapping[str, str] = os.environ) -> int:
    """Return the maximum size of those copies; EMBEDSEARCH_STORE_CACHE_BYTES, e.g. 50G, sets it."""
    text = environ.get("EMBEDSEARCH_STORE_CACHE_BYTES")
    try:
        return DEFAULT_STORE_CACHE_BYTES if not text else size_of(text)
    except ValueError as error:
        raise UsageError(f"EMBEDSEARCH_STORE_CACHE_BYTES: {error}") from error
