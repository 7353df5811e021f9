"""Where the files of an import belong; in: keys below its root, out: the root and key of each.

A file that the store knows by another name is that row; a new one inside of a folder that the store
scans belongs to that folder.
"""

from __future__ import annotations

import os
from functools import lru_cache

from embedsearch.core.names import existing
from embedsearch.core.paths import is_url, part_below
from embedsearch.core.records import Root, RootKind
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.links import takes
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter


class Homes:
    """The roots and rows of a store, for files below one more root."""

    def __init__(self, writer: StoreWriter, root: str) -> None:
        before = writer.manifest
        self.roots = () if before is None else before.roots
        self._rules = WalkRules()
        self._rows: dict[tuple[int, str], int] = {}
        if before is not None:
            self._rules = WalkRules(before.follow_links, excludes=before.excludes)
            with Snapshot(writer.store, before) as snapshot:
                self._rows = {
                    (root, os.fsdecode(key)): row for row, root, key in snapshot.live_keys()
                }
        known = (home for home in self.roots if home.path == root)
        next_id = max((home.id for home in self.roots), default=-1) + 1
        self._own = next(known, None) or Root(next_id, root)
        self._real = lru_cache(1 << 10)(os.path.realpath)

    def row(self, home: Root, key: str) -> int | None:
        """Return the row that the store has of a file."""
        return self._rows.get((home.id, key))

    def of(self, key: str) -> tuple[Root, str]:
        """Return the root and the key of a file, given by its key below the import's root."""
        if not (is_url(key) or key.isascii()):
            key = self._as_on_disk(key)
        if (found := self._found(key)) is not None:
            return found
        if self._own not in self.roots:
            self.roots = (*self.roots, self._own)
        return self._own, key

    def _as_on_disk(self, key: str) -> str:
        """Return a key with the accents as the disk has them."""
        start = self._own.path.rstrip("/") + "/"
        is_there = os.path.isdir(self._real(os.path.dirname(start + key)))
        return existing(start + key).removeprefix(start) if is_there else key

    def _found(self, key: str) -> tuple[Root, str] | None:
        if is_url(key):
            return None
        whole = f"{self._own.path.rstrip('/')}/{key}"
        folder, name = os.path.split(whole)
        named = [(root, inner) for root in self.roots if (inner := _inside(root, whole))]
        real = f"{self._real(folder).rstrip('/')}/{name}"
        if real != whole:  # through a link to a folder
            named += [(root, inner) for root in self.roots if (inner := _inside(root, real))]
        for root, inner in named:
            if (root.id, inner) in self._rows:
                return root, inner
        for root, inner in named:
            if root.kind is RootKind.FOLDER and takes(root.path, inner, self._rules):
                return root, inner
        return None


def _inside(root: Root, path: str) -> str:
    """Return a path as a key of a root of files, "" if it is outside."""
    is_of_files = root.kind in {RootKind.FOLDER, RootKind.LIST}
    return (part_below(path, root.path) or "") if is_of_files else ""
