"""Which store a command means: the one named, or the nearest upwards, as git finds its own."""

from __future__ import annotations

import os
from pathlib import Path

from embedsearch.config import STORE_NAME
from embedsearch.errors import StoreNotFound
from embedsearch.store.files import FORMAT_NAME


def locate_store(store: str | os.PathLike[str] | None, *, create: bool = False) -> Path:
    """Return the store to use: `store`, else EMBEDSEARCH_STORE, else the nearest one upwards.

    With `create`, the current folder's `.embedsearch` where there is none yet; without, raises
    StoreNotFound.
    """
    named = store or os.environ.get("EMBEDSEARCH_STORE")
    if named:
        return Path(os.path.abspath(named))
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / STORE_NAME / FORMAT_NAME).is_file():
            return folder / STORE_NAME
    if create:
        return here / STORE_NAME
    raise StoreNotFound(
        f"no {STORE_NAME} in {here} or above: make one with embedsearch index FOLDER, "
        "or name it with --store"
    )
