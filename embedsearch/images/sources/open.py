"""The kind of a path, and the source for it."""

from __future__ import annotations

import os
from dataclasses import replace

from embedsearch.core.records import Root, RootKind
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.folder import FolderScan
from embedsearch.images.sources.source import Source
from embedsearch.images.temporary import TemporaryImages

SUFFIXES = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), RootKind.TAR),
    ".zip": RootKind.ZIP,
    ".parquet": RootKind.PARQUET,
}


def kind_of_file(path: str) -> RootKind | None:
    """Return the kind of the images in a file, by its name; None where it holds none."""
    name = os.path.basename(path).lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def open_source(
    root: Root,
    scope: str,
    temporary: TemporaryImages,
    max_bytes: int,
    rules: WalkRules | None = None,
) -> Source:
    """Return the source of the images in the folder `scope` below a root, or in all of it.

    Images that are no files, or parts of one, are put into `temporary`, up to `max_bytes` each.
    """
    rules = rules or WalkRules()
    if root.is_remote:
        # A query needs neither.
        from embedsearch.images.sources.remote import RemoteArchive, RemoteFolder

        if root.kind is RootKind.FOLDER:
            return RemoteFolder(root.id, root.path, scope, temporary, max_bytes, rules=rules)

        def opened(path: str) -> Source:
            return open_source(replace(root, path=path), "", temporary, max_bytes, rules)

        return RemoteArchive(root.path, temporary, opened)
    if root.kind is RootKind.FOLDER:
        return FolderScan(root.id, root.path, scope, rules)
    if root.kind is RootKind.PARQUET:
        from embedsearch.images.sources.parquet import ParquetImages

        return ParquetImages(root.id, root.path, temporary, max_bytes)
    if root.kind is RootKind.TAR:
        from embedsearch.images.archives.tar import TarArchive

        return TarArchive(root.id, root.path, temporary, max_bytes, rules=rules)
    from embedsearch.images.archives.zip import ZipArchive

    return ZipArchive(root.id, root.path, temporary, max_bytes, rules=rules)
