"""The store of a command: the given one, or the nearest in a parent folder, as git does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from embedsearch.core.config import STORE_NAME
from embedsearch.core.errors import StoreNotFound, UsageError
from embedsearch.core.paths import is_url, local_path
from embedsearch.core.session import Session
from embedsearch.store.files import FORMAT_NAME

StorePath: TypeAlias = str | os.PathLike[str] | None  # None: EMBEDSEARCH_STORE or the nearest


def locate_store(store: StorePath, *, create: bool = False) -> Path:
    """Return the store to use: `store`, else EMBEDSEARCH_STORE, else the nearest one upward.

    If there is none, return the current folder's `.embedsearch` with `create`, else raise
    StoreNotFound. Raises UsageError for a URL, which is read-only.
    """
    if url := url_of(store):
        raise UsageError(f"{url} is only read: embedsearch pull {url} makes a store to write to")
    if named := store or os.environ.get("EMBEDSEARCH_STORE"):
        return Path(os.path.abspath(local_path(named)))
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / STORE_NAME / FORMAT_NAME).is_file():
            return folder / STORE_NAME
    if create:
        return here / STORE_NAME
    raise StoreNotFound(
        f"no {STORE_NAME} in {here} or above: make one with embedsearch index FOLDER, "
        "or name it with store",
        "store",
    )


def url_of(store: StorePath) -> str | None:
    """Return the URL of a store, None for a store on the disk."""
    named = local_path(store or os.environ.get("EMBEDSEARCH_STORE") or "")
    return named if is_url(named) else None


@contextmanager
def readable_store(store: StorePath, session: Session | None = None) -> Iterator[Path]:
    """Yield the folder of a store for reading; a store at a URL is fetched and kept in the cache.

    Raises what `locate_store` and `Mirror.open` raise.
    """
    if (url := url_of(store)) is None:
        yield locate_store(store)
        return
    from embedsearch.store.mirror import Mirror  # a store on the disk needs no library for buckets

    with Mirror(url, session or Session()) as mirror:
        mirror.open()
        yield mirror.folder
