"""Links in a walk: what they lead to, and whether the walk comes there anyway.

In: names of links and the rules of the walk, out: what to take. A file or folder behind a link is
taken once, under the name of the first link to it, and not at all where the walk reaches it by
itself: so no link changes the key of an image, and no loop is walked.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.paths import is_inside, open_link, size_and_time
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.kinds import Kind, file_starts_an_image, kind_of


@dataclass(frozen=True)
class Link:
    """A link that leads to a file or a folder, and what that is."""

    name: bytes
    key: str
    inside: str  # the real path of the folder that the link is in
    real: str  # the real path of what it leads to
    facts: os.stat_result
    is_image: bool  # as a file

    @classmethod
    def at(cls, name: bytes, descriptor: int, folder: str, key: str) -> Link:
        """Follow a link in an open folder, whose path is `folder`. Raises OSError."""
        found = open_link(os.fsdecode(name), descriptor)
        try:
            facts, kind = os.fstat(found), kind_of(name)
            is_image = stat.S_ISREG(facts.st_mode) and (
                kind is Kind.IMAGE or (kind is Kind.UNKNOWN and file_starts_an_image(found))
            )
        finally:
            os.close(found)
        inside = os.path.realpath(folder)
        real = os.path.realpath(os.path.join(inside, os.fsdecode(name)))
        return cls(name, key, inside, real, facts, is_image)

    @property
    def is_folder(self) -> bool:
        """Return whether it leads to a folder."""
        return stat.S_ISDIR(self.facts.st_mode)


class Reach:
    """What one walk reaches: its root, and the folders and files behind links so far."""

    def __init__(self, root_path: str, rules: WalkRules) -> None:
        self._root = os.path.realpath(root_path)
        self._rules = rules
        # By real path: the keys of the folders that are walked, and of those behind links.
        self._keys = {**dict.fromkeys(rules.folders, ""), self._root: ""}
        self._linked: dict[str, str] = {}  # by key: the real paths of linked folders
        self._taken: set[tuple[int, int]] = set()  # device and inode of what links led to

    def taken(self, link: Link) -> tuple[int, int] | None:
        """Take what a link leads to, and return its size and time; None if that is done anyway."""
        identity = (link.facts.st_dev, link.facts.st_ino)
        if identity in self._taken or self._is_walked(link):
            return None
        self._taken.add(identity)
        if not link.is_folder:
            return size_and_time(link.facts)
        self._keys[link.real] = link.key
        self._linked[link.key] = link.real
        return 0, 0

    def is_link(self, key: str) -> bool:
        """Return whether a folder is one behind a link that was taken."""
        return key in self._linked

    def is_seen_before(self, key: str, descriptor: int) -> bool:
        """Return whether a folder below a link is the root or another linked folder."""
        if not self._linked or key in self._linked:
            return False
        if (real := self._real(key)) is None:
            return False
        facts = os.fstat(descriptor)
        return real in self._keys or (facts.st_dev, facts.st_ino) in self._taken

    def _real(self, key: str) -> str | None:
        """Return the real path of a folder below a linked one, None for one of the root itself."""
        above = key
        while above:
            if (real := self._linked.get(above)) is not None:
                return real + key[len(above) :]
            above = above.rpartition("/")[0]
        return None

    def _is_walked(self, link: Link) -> bool:
        """Return whether the walk comes to the end of a link without it, or from there."""
        if link.is_folder and any(is_inside(here, link.real) for here in (self._root, link.inside)):
            return True  # a folder above: a loop
        above, below = link.real, ""
        while above not in self._keys:
            parent, name = os.path.split(above)
            if parent == above:
                return False
            above, below = parent, f"{name}/{below}" if below else name
        if not below:
            return True
        key = f"{self._keys[above]}/{below}".lstrip("/")
        if self._rules.leaves_out(key):
            return False
        # A name that says nothing is as good as the content, and that is an image's: see Link.
        is_found = kind_of(os.fsencode(os.path.basename(below))) in {Kind.IMAGE, Kind.UNKNOWN}
        return link.is_folder or is_found


def takes(folder: str, key: str, rules: WalkRules) -> bool:
    """Return whether a walk through a folder takes the file `key`, which may be missing."""
    name, path = os.fsencode(os.path.basename(key)), os.path.join(folder, key)
    if rules.leaves_out_file(key):
        return False
    if Path(path).is_symlink() and (
        not rules.follow_links or is_inside(os.path.realpath(path), os.path.realpath(folder))
    ):
        return False
    if (kind := kind_of(name)) is Kind.UNKNOWN and os.path.isfile(path):
        try:
            with open(path, "rb") as file:
                return file_starts_an_image(file.fileno())
        except OSError:  # nothing says that it is one
            return False
    return kind is Kind.IMAGE


def is_behind_link(folder: Path, key: str) -> bool:
    """Return whether the way from a folder to a file below it leads through a link."""
    path = Path(key)
    return any((folder / part).is_symlink() for part in (path, *path.parents))


def is_truly_gone(path: str) -> bool:
    """Return whether a file is gone for good: its folder is there, and lists others but not it.

    A folder that is missing, or has nothing in it, may be the place of a disk that is not plugged
    in. Links are followed, as far as there is anything.
    """
    folder, name = os.path.split(os.path.realpath(path))
    try:
        names = os.listdir(folder)
    except NotADirectoryError:
        return True
    except OSError:
        return False
    return bool(names) and name not in names
