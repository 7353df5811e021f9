"""The interface of every source of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from embedsearch.core.paths import printable, size_and_time
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.core.walks import Ignored, OnSkip, Skip
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.kinds import Kind, kind_of, shown_suffix
from embedsearch.images.temporary import TemporaryImages

_MAX_SUFFIXES = 256  # that are counted one by one
_FILES = {
    Kind.RAW: Skip.RAW,
    Kind.VIDEO: Skip.VIDEO,
    Kind.SIDECAR: Skip.SIDECAR,
    Kind.ARCHIVE: Skip.ARCHIVE,
}

# A ref, and where its bytes are or why they cannot be read.
Placed: TypeAlias = tuple[ImageRef, ImageLocation | Failure]


@dataclass(frozen=True)
class Beside:
    """The sidecar fields of one image, and the sidecars that cannot be read.

    For a folder, as `key`: the files that could be sidecars and are beside no image.
    """

    key: str
    fields: Mapping[str, Any]
    unreadable: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Scanned:
    """What a scan counts beside its images: failures, and entries that are skipped."""

    failures: list[Failure] = field(default_factory=list)
    on_skip: OnSkip | None = None
    held_bytes: int = 0
    unreachable: set[str] = field(default_factory=set)
    hollow: dict[str, Failure] = field(default_factory=dict)
    _skipped: Counter[Skip] = field(default_factory=Counter)
    _suffixes: Counter[str] = field(default_factory=Counter)
    _archive: str = ""

    def skip(self, kind: Skip, key: str) -> None:
        """Count an entry that is passed over."""
        self._skipped[kind] += 1
        if self.on_skip is not None:
            self.on_skip(kind, key)

    def pass_over(self, key: str, above: str) -> None:
        """Count a file that is no image, with the path of what its key is below."""
        name = os.fsencode(key.rpartition("/")[2])
        kind = kind_of(name)
        self.skip(_FILES.get(kind, Skip.OTHER), key)
        if kind is Kind.ARCHIVE:
            self._archive = self._archive or os.path.join(above, key)
        elif kind is Kind.RAW:
            self.unreachable.add(key)  # until the library that read it is back
        elif kind in {Kind.OTHER, Kind.UNKNOWN}:
            suffix = printable(os.fsdecode(shown_suffix(name)))
            if suffix in self._suffixes or len(self._suffixes) < _MAX_SUFFIXES:
                self._suffixes[suffix] += 1

    @property
    def ignored(self) -> Ignored:
        """Return how many entries were skipped, by kind."""
        count = self._skipped
        return Ignored(
            hidden=count[Skip.HIDDEN],
            links=count[Skip.LINK],
            special=count[Skip.SPECIAL],
            other_suffix=sum(count[kind] for kind in (*_FILES.values(), Skip.OTHER)),
            raw=count[Skip.RAW],
            videos=count[Skip.VIDEO],
            sidecars=count[Skip.SIDECAR],
            archives=count[Skip.ARCHIVE],
            seen=count[Skip.SEEN],
            excluded=count[Skip.EXCLUDED],
            archive=self._archive,
            suffixes=dict(self._suffixes),
        )

    def version(self) -> str:
        """Return "": only a scan tells whether a folder has changed."""
        return ""

    def close(self) -> None:
        """Do nothing: of a folder nothing stays open."""


@dataclass
class Container(Scanned):
    """A file that holds images."""

    root: int
    path: str
    temporary: TemporaryImages
    max_bytes: int  # of an image that is read here
    rules: WalkRules = field(default_factory=WalkRules, kw_only=True)
    # Size and time of the file when it was listed.
    _seen: tuple[int, int] = field(default=(-1, -1), kw_only=True)

    def is_there(self) -> bool:
        """Return whether it is a file."""
        return os.path.isfile(self.path)

    def _state(self) -> tuple[int, int]:
        return size_and_time(os.stat(self.path))


def lost(ref: ImageRef, reason: Reason, detail: str) -> Failure:
    """Return the failure of an image that was listed and cannot be read."""
    return Failure(ref.root, ref.key, Stage.READ, reason, detail, ref.size, ref.mtime_ns)


class Source(Protocol):
    """The images of one root. Iterate over it for its refs, in the byte order of their keys.

    `failures` and `ignored` are complete afterwards. A server that cannot be reached
    raises StorageError.
    """

    failures: list[Failure]
    # Keys whose file may come back: with its folder or disk, or with the library that reads it.
    unreachable: set[str]
    hollow: dict[str, Failure]  # links that lead to nothing: failures if images were behind them
    held_bytes: int  # on the disk, until it is closed
    on_skip: OnSkip | None  # called with the kind and the key of each entry that is passed over

    @property
    def ignored(self) -> Ignored:
        """Return how many entries were passed over, by kind."""

    def is_there(self) -> bool:
        """Return whether the root is there; its images may be gone."""

    def version(self) -> str:
        """Return a string that changes with the images, "" where only a scan can tell."""

    def __iter__(self) -> Iterator[ImageRef]: ...

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield where the bytes of each ref are, or why they cannot be read, in any order."""

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of an image, None where it cannot be read or only at a high cost."""

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecar fields of images, keys folder by folder."""

    def close(self) -> None:
        """Release what is open."""
