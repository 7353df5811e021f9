"""What `index` passes over; in: a store, out: the entries of its folders that are no images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from embedsearch.core.config import DEFAULT_MAX_BYTES
from embedsearch.core.names import HasKey, path_fields
from embedsearch.core.paths import whole_path
from embedsearch.core.session import Session
from embedsearch.core.walks import Skip
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.indexing.scope import Sources, resolve_scope
from embedsearch.store.current import check_format, read_current
from embedsearch.store.locate import StorePath, locate_store


@dataclass(frozen=True)
class IgnoredEntry(HasKey):
    """A file or folder that `index` passes over, and why."""

    kind: Skip
    key: str
    full_path: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {"kind": str(self.kind), **path_fields(self.key, self.full_path)}


def ignored_entries(
    store: StorePath = None, *, session: Session | None = None
) -> Iterator[IgnoredEntry]:
    """Yield what `index` would pass over now in the folders and archives of a store.

    They are looked through again, by the rules that the store keeps; no image is read. Raises the
    store's errors, and StorageError for a server that cannot be reached.
    """
    session = session or Session()
    path = locate_store(store)
    check_format(path)
    manifest = read_current(path)
    rules = WalkRules(manifest.follow_links, excludes=manifest.excludes)
    scope = resolve_scope([], manifest.roots, None, rules)
    walked = tuple(root.path for root in scope.roots if root.is_folder_here)
    found: list[tuple[Skip, str]] = []
    with Sources(DEFAULT_MAX_BYTES) as sources:
        sources.rules = replace(rules, folders=walked)
        for target in scope.targets:
            source = sources.open(target)
            if not source.is_there():
                continue
            source.on_skip = lambda kind, key: found.append((kind, key))
            for _ in source:
                session.check()
                yield from _entries(target.root.path, found)
            yield from _entries(target.root.path, found)


def _entries(root: str, found: list[tuple[Skip, str]]) -> Iterator[IgnoredEntry]:
    """Yield and forget what was found below a root."""
    for kind, key in found:
        yield IgnoredEntry(kind, key, whole_path(root, key))
    found.clear()
