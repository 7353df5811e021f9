"""Walks through folders, archives and buckets: what they leave out, and what they passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True)
class Excludes:
    """What walks leave out: patterns as in .gitignore, below each root, after the usual ones."""

    patterns: tuple[str, ...] = ()
    defaults: bool = True  # folders that systems, NAS and catalogs fill by themselves


class Skip(StrEnum):
    """Why a walk passes over an entry; the values are shown to users."""

    HIDDEN = "hidden"
    LINK = "links"  # that were not to be followed
    SEEN = "links to files seen already"  # or to a folder that the walk is in
    EXCLUDED = "left out by patterns"  # files and folders
    SPECIAL = "special"  # FIFO, socket, device
    RAW = "RAW"
    VIDEO = "videos"
    SIDECAR = "sidecars"
    ARCHIVE = "archives"
    OTHER = "other files"  # that are no images by their name


OnSkip: TypeAlias = Callable[[Skip, str], None]


@dataclass(frozen=True)
class Ignored:
    """Counts of entries that a scan passed over, by kind; `found` does not include them."""

    hidden: int = 0
    links: int = 0  # that were not to be followed
    special: int = 0  # FIFO, socket, device
    other_suffix: int = 0  # files that are no images by their name; the next four are parts of it
    raw: int = 0
    videos: int = 0
    sidecars: int = 0
    archives: int = 0
    seen: int = 0  # links to what the walk reaches anyway, or is in
    excluded: int = 0  # files and folders that patterns leave out
    archive: str = ""  # the path of one of the archives
    suffixes: Mapping[str, int] = field(default_factory=dict)  # of the other files, the first ones

    def __add__(self, other: Ignored) -> Ignored:
        """Return the counts of both."""
        counts = [f.name for f in fields(self) if f.name not in {"archive", "suffixes"}]
        return Ignored(
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            archive=self.archive or other.archive,
            suffixes=dict(Counter(self.suffixes) + Counter(other.suffixes)),
        )

    @property
    def total(self) -> int:
        """Return the number of ignored entries."""
        files = self.hidden + self.links + self.special + self.other_suffix
        return files + self.seen + self.excluded

    def kinds(self) -> dict[str, int]:
        """Return the counts above 0 by what they count, in words."""
        known = self.raw + self.videos + self.sidecars + self.archives
        named = {
            Skip.HIDDEN: self.hidden,
            Skip.LINK: self.links,
            Skip.SEEN: self.seen,
            Skip.EXCLUDED: self.excluded,
            Skip.SPECIAL: self.special,
            Skip.RAW: self.raw,
            Skip.VIDEO: self.videos,
            Skip.SIDECAR: self.sidecars,
            Skip.ARCHIVE: self.archives,
            Skip.OTHER: self.other_suffix - known,
        }
        return {str(kind): count for kind, count in named.items() if count}
