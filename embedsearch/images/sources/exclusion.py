"""What walks leave out; in: patterns as in .gitignore, out: whether they match a key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from embedsearch.core.errors import UsageError
from embedsearch.core.names import comparable
from embedsearch.core.paths import local_path
from embedsearch.core.walks import Excludes
from embedsearch.images.sources.kinds import is_hidden

# Folders of copies and of deleted pictures, which NAS, systems and catalogs make by themselves.
# Each ends with a slash: so files cost nothing, and folders one look.
DEFAULT_EXCLUDES = (
    *("@eaDir/", r"\#recycle/", r"\#snapshot/", "@Recycle/", "@Recently-Snapshot/"),
    *("@tmp/", "@__thumb/", ".@__thumb/", ".@__qini/", "__MACOSX/", "lost+found/"),
    *("$RECYCLE.BIN/", "$Recycle.Bin/", "RECYCLER/", "System Volume Information/"),
    *(".Trash*/", ".trash*/", "Network Trash Folder/", "Temporary Items/", ".thumbnails/"),
    *("**/*.photoslibrary/resources/derivatives/", "**/*.photoslibrary/resources/proxies/"),
    *("**/*.photolibrary/Thumbnails/", "**/*.photolibrary/Previews/"),
    *("**/*.aplibrary/Thumbnails/", "**/*.aplibrary/Previews/", "*.lrdata/", "*.lrprev/"),
)


class Exclusion:
    """Matches keys against patterns; of several that match, the last one decides."""

    def __init__(self, excludes: Excludes) -> None:
        """Raise UsageError for a pattern that is none."""
        import pathspec  # 10 ms, which a query need not spend

        own = [_line(pattern) for pattern in excludes.patterns]
        for given, line in zip(excludes.patterns, own, strict=True):
            try:
                pathspec.GitIgnoreSpec.from_lines([line])
            except ValueError as error:
                raise UsageError(
                    f"exclude {given!r} is not a pattern as in .gitignore: {error}", "exclude"
                ) from error
        lines = [*(DEFAULT_EXCLUDES if excludes.defaults else ()), *own]
        self._spec = pathspec.GitIgnoreSpec.from_lines(lines)
        self._has_files = any(not line.endswith("/") for line in own)
        # The members of an archive come one by one, thousands of each folder.
        self._folder = lru_cache(maxsize=4096)(lambda key: self._spec.match_file(key + "/"))

    def folder(self, key: str) -> bool:
        """Return whether a folder is left out, with all that is in it."""
        return self._folder(comparable(key))

    def file(self, key: str) -> bool:
        """Return whether a file is left out by a pattern of its own, not by that of a folder."""
        return self._has_files and self._spec.match_file(comparable(key))

    def covers(self, key: str) -> bool:
        """Return whether a file is left out, or a folder that it is in."""
        return self.file(key) or any(map(self.folder, _above(key)))


@lru_cache(maxsize=8)
def exclusion_of(excludes: Excludes) -> Exclusion:
    """Return the exclusion by these patterns. Raises UsageError."""
    return Exclusion(excludes)


def below_roots(patterns: Iterable[str], places: Iterable[str]) -> tuple[str, ...]:
    """Return patterns, those that are a path of this machine as one below the root at its place.

    A pattern holds below each root: with several, a path in one of them is a UsageError.
    """
    whole = {name: os.path.realpath(name) if name[:1] == "/" else name for name in places}
    roots = {root for root in whole.values() if not any(_inside(o, root) for o in whole.values())}
    return tuple(_below(pattern, sorted(whole, key=len), len(roots)) for pattern in patterns)


def _below(pattern: str, places: Iterable[str], roots: int) -> str:
    sign = pattern[: pattern.startswith("!")]
    path = pattern.removeprefix(sign)
    if path.startswith("~/") or path[:7].lower() == "file://":
        path = local_path(path) + "/" * path.endswith("/")
    path = comparable(path)
    place = next((p for p in places if _inside(comparable(p), path.rstrip("/") + "/")), None)
    if place is None:
        return pattern
    inner = path.removeprefix(comparable(place).rstrip("/")).rstrip("/")
    if not inner or roots > 1:
        why = "it is a folder to index" if not inner else "patterns hold below each of the folders"
        example = f": write it as {sign}{inner}" if inner else ": leave it out"
        raise UsageError(f"exclude {pattern!r} is a whole path, and {why}{example}", "exclude")
    return sign + inner + "/" * path.endswith("/")


def _inside(place: str, path: str) -> bool:
    return path != place and place != "/" and path.startswith(place.rstrip("/") + "/")


@dataclass(frozen=True)
class WalkRules:
    """What a walk through a folder, an archive or a bucket takes, and what it leaves out.

    `folders` are the real paths of all that is walked: a link to one of them leads nowhere new.
    """

    follow_links: bool = True
    folders: tuple[str, ...] = ()
    excludes: Excludes = field(default_factory=Excludes)

    @property
    def exclusion(self) -> Exclusion:
        """Return what is left out."""
        return exclusion_of(self.excludes)

    def leaves_out(self, key: str) -> bool:
        """Return whether a walk passes over a file or a folder because of its key."""
        return bool(key) and (self.leaves_out_file(key) or self.exclusion.folder(key))

    def leaves_out_file(self, key: str) -> bool:
        """Return whether a walk passes over a file because of its key."""
        parts = map(os.fsencode, key.split("/"))
        return any(map(is_hidden, parts)) or self.exclusion.covers(key)


# For images that are looked up by name.
EVERYTHING = WalkRules(excludes=Excludes(defaults=False))


def _line(pattern: str) -> str:
    """Return a pattern as a line of .gitignore: what was given is never a comment."""
    line = comparable(pattern).removeprefix("./")
    return "\\" + line if line.startswith("#") else line


def _above(key: str) -> Iterator[str]:
    end = key.find("/")
    while end >= 0:
        yield key[:end]
        end = key.find("/", end + 1)
