"""The folders of a store; in: parts of its rows, out: how many images lie directly in each."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import compress
from typing import Any

from embedsearch.core.names import unicode_text
from embedsearch.core.records import JsonRecord
from embedsearch.searching.filters.windows import Parts
from embedsearch.searching.row_sources import Mask
from embedsearch.store.manifest import Manifest

MAX_FOLDERS = 20_000
READ = ["root", "key"]


@dataclass(frozen=True)
class FolderCount(JsonRecord):
    """A folder, as a path below its root, and the images that lie in it, not those further below.

    The folder of the root itself is "". Both are text, with bytes that are not UTF-8 as in `path`.
    """

    root: str
    folder: str
    images: int


@dataclass(frozen=True)
class FolderList(JsonRecord):
    """The folders by root and path, and the number of all: a long list is `truncated`."""

    folders: tuple[FolderCount, ...]
    total: int
    truncated: bool


def count_folders(parts: Parts, mask: Mask | None, manifest: Manifest) -> FolderList:
    """Return the folders of the rows of a mask, None for all, by root and then path.

    Parts are of the columns that are READ.
    """
    found: Counter[tuple[int, bytes]] = Counter()
    for start, table in parts:
        columns: list[list[Any]] = [table.column(name).to_pylist() for name in READ]
        places = ((root, key.rpartition(b"/")[0]) for root, key in zip(*columns, strict=True))
        rows = slice(start, start + len(table))
        found.update(places if mask is None else compress(places, mask[rows].tolist()))
    paths = {root.id: unicode_text(root.path) for root in manifest.roots}
    folders = sorted((paths[root], folder, images) for (root, folder), images in found.items())
    return FolderList(
        tuple(
            FolderCount(root, unicode_text(os.fsdecode(folder)), images)
            for root, folder, images in folders[:MAX_FOLDERS]
        ),
        len(folders),
        len(folders) > MAX_FOLDERS,
    )
