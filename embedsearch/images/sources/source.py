"""What planning and indexing ask of any place of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from embedsearch.core.records import Failure, Ignored, ImageRef, Place


@dataclass(frozen=True)
class Beside:
    """What a source says of one image besides its bytes; a file that says nothing is named."""

    key: str
    fields: Mapping[str, Any]
    unreadable: tuple[str, ...] = ()


class Source(Protocol):
    """The images of one root. Iterate over it for its refs, in the byte order of their keys.

    `failures` and `ignored` are complete afterwards. What cannot be reached at all, such as a
    server, raises StorageError.
    """

    failures: list[Failure]
    held_bytes: int  # on the disk, until it is closed

    @property
    def ignored(self) -> Ignored:
        """Return how many entries were passed over, by kind."""

    def is_there(self) -> bool:
        """Return whether the root is there; its images may be gone."""

    def version(self) -> str:
        """Return what changes whenever any image does, "" where nothing short of a scan tells."""

    def __iter__(self) -> Iterator[ImageRef]: ...

    def places(self, refs: Iterable[ImageRef]) -> Iterator[tuple[ImageRef, Place | Failure]]:
        """Yield where the bytes of each ref lie, or why they cannot be had, in any order."""

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of an image, None where it cannot be read or only at a high cost."""

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield what the source says of images besides their bytes, keys folder by folder."""

    def close(self) -> None:
        """Release what is open."""
