"""Which images the names of a user's table mean; in: names, and images by root, out: their rows."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from embedsearch.core.errors import UsageError
from embedsearch.core.names import comparable, unicode_text
from embedsearch.core.paths import is_url, is_web, local_path, printable, whole_path
from embedsearch.images.tables.column_names import NAME
from embedsearch.images.tables.table import UserTable
from embedsearch.indexing.scope import Scope

# What a name is taken for, the likeliest first: Hugging Face names images from the table's folder.
_WHOLE, _AS_WRITTEN, _PLAIN = range(3)


@dataclass(frozen=True)
class NamedImages:
    """The rows of each position of a table that names images, and the names that mean none."""

    rows: dict[int, list[int]]
    unmatched: list[str]  # with the reason, where images look so


@dataclass
class _Found:
    """The images that a name may mean, all equally likely: row to root and whole path."""

    rank: tuple[int, bool, int]
    images: dict[int, tuple[int, str]]


def named_images(
    user: UserTable,
    roots: Mapping[int, str],
    images: Iterable[tuple[int, int, str]],
    scope: Scope | None = None,
) -> NamedImages:
    """Return which of the images, each a row, a root and a key, a table names.

    Paths are first those of the folders that are indexed, the `scope`. A path that still means
    images of several folders means none. Raises UsageError for an image that is named twice.
    """
    forms: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for position, name in enumerate(user.names):
        for kind, form in dict.fromkeys(_forms(name, user)):
            forms[unicode_text(comparable(form))].append((position, kind, form))
    found: dict[int, _Found] = {}
    for row, root, key in images:
        whole = roots[root].rstrip("/") + "/" + key
        folder = "" if scope is None or user.by == NAME else scope.folder_of(root, key)
        for spelled, name in _spelled(key, whole, user.by, folder):
            for position, kind, form in forms.get(unicode_text(comparable(name)), ()):
                if name != form and not user.folder:  # made here: exact
                    continue
                rank = (kind, folder is None, spelled if name == form else 2)
                best = found.get(position)
                if best is None or rank < best.rank:
                    found[position] = _Found(rank, {row: (root, whole)})
                elif rank == best.rank:
                    best.images[row] = root, whole
    reasons = {} if user.by == NAME else {p: _ambiguous(found[p]) for p in sorted(found)}
    rows = {p: sorted(found[p].images) for p in sorted(found) if not reasons.get(p)}
    unmatched = [
        f"{name} ({reasons[position]})" if reasons.get(position) else name
        for position, name in enumerate(user.names)
        if position not in rows
    ]
    return NamedImages(_each_once(user, rows, found), unmatched)


def _forms(name: str, user: UserTable) -> Iterator[tuple[int, str]]:
    """Yield what a name may be: a path on this machine, itself, or with `/` and without `./`."""
    yield _AS_WRITTEN, name
    if not user.folder:
        return
    is_path = user.by != NAME
    if is_path and (name.startswith("~/") or name[:7].lower() == "file://"):
        try:
            yield _WHOLE, os.path.normpath(local_path(name))
        except UsageError:  # of another machine: nobody's name here
            return
    if is_url(name):
        return
    plain = os.path.normpath(name if "\\x" in name else name.replace("\\", "/"))
    for form in (name, plain) if is_path else ():
        yield _WHOLE, os.path.normpath(os.path.join(user.folder, form))
    yield _PLAIN, plain


def _spelled(key: str, whole: str, by: str, folder: str | None) -> Iterator[tuple[int, str]]:
    """Yield the names of an image, below its root and below the indexed `folder`.

    That on a web server, percent-encoded, comes second.
    """
    if by == NAME:
        yield 0, key.rpartition("/")[2]
        return
    yield 0, key
    if folder:
        yield 0, key.removeprefix(folder + "/")
    yield 0, whole
    if is_web(whole):
        yield 1, whole_path(whole.removesuffix("/" + key), key)


def _ambiguous(found: _Found) -> str:
    """Return why a name means no single image, "" where it does."""
    if len({whole for _, whole in found.images.values()}) == 1:
        return ""
    if (folders := len({root for root, _ in found.images.values()})) > 1:
        return f"names images of {folders} folders: write the whole path"
    return f"names {len(found.images)} images that look the same: write the exact path"


def _each_once(
    user: UserTable, rows: dict[int, list[int]], found: Mapping[int, _Found]
) -> dict[int, list[int]]:
    """Return the rows of each position. Raises UsageError for a row of two."""
    first: dict[int, int] = {}
    for position, named in rows.items():
        for row in named:
            if (other := first.setdefault(row, position)) != position and user.folder:
                one, two = (user.names[number] for number in (other, position))
                raise UsageError(
                    f"metadata {user.source}: rows {other + 1} and {position + 1}, {one!r} and "
                    f"{two!r}, both name {printable(found[position].images[row][1])}: leave one",
                    "metadata",
                )
    return {p: own for p, named in rows.items() if (own := [r for r in named if first[r] == p])}
