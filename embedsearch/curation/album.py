"""The looks of images; in: pictures of a store, out: looks, read from the files of today."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UnreadableImage
from embedsearch.core.lru import LRU
from embedsearch.core.records import ImageFacts
from embedsearch.core.session import Session
from embedsearch.curation.collection import Picture
from embedsearch.images.close_look import FINE_SIDE, SIDE, FineLook, Look
from embedsearch.images.decode.shared import Decoded, ImageFile, SharedDecoder
from embedsearch.images.originals import Originals

T = TypeVar("T")
_MakeLook = Callable[[npt.NDArray[np.uint8], ImageFacts], T]


class Album:
    """Reads images in worker processes; the looks of the last ones are kept. Close it."""

    def __init__(self, session: Session) -> None:
        limits = DecodeLimits()
        self._originals = Originals(limits.max_bytes)
        # Looks are of 70 kB and of 1 MB.
        self._looks = _Shelf(SIDE, _look, 32, 2048, self._originals, session)
        self._fine = _Shelf(FINE_SIDE, _fine_look, 4, 64, self._originals, session)

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self._looks.close()
        self._fine.close()
        self._originals.close()

    def looks(self, pictures: Iterable[Picture]) -> Iterator[Look | None]:
        """Yield the look of each picture, None for one that cannot be read."""
        return self._looks.of(pictures)

    def fine_looks(self, pictures: Iterable[Picture]) -> Iterator[FineLook | None]:
        """Yield the fine look of each picture, None for one that cannot be read."""
        return self._fine.of(pictures)


class _Shelf(Generic[T]):
    """Looks of one kind, `at_once` read together, and the last `kept` of them."""

    def __init__(
        self,
        side: int,
        make: _MakeLook[T],
        at_once: int,
        kept: int,
        originals: Originals,
        session: Session,
    ) -> None:
        self._decoder = SharedDecoder(side, DecodeLimits(), max_files=at_once)
        self._make, self._at_once = make, at_once
        self._originals = originals
        self._session = session
        self._looks: LRU[int, tuple[T | None]] = LRU(kept)  # by row; None if it has none

    def close(self) -> None:
        """End the workers."""
        self._decoder.close()

    def of(self, pictures: Iterable[Picture]) -> Iterator[T | None]:
        """Yield the look of each picture, None for one that cannot be read."""
        rest = iter(pictures)
        while some := list(islice(rest, self._at_once)):
            self._session.check()
            rows = [picture.row for picture in some]
            found = {row: kept[0] for row in rows if (kept := self._looks.find(row))}
            found |= self._read([picture for picture in some if picture.row not in found])
            yield from (found[row] for row in rows)

    def _read(self, pictures: Sequence[Picture]) -> dict[int, T | None]:
        files: dict[int, ImageFile] = {}
        found: dict[int, T | None] = {}
        for picture in pictures:
            try:
                place = self._originals.inside(picture.root, picture.key, picture.digest)
                files[picture.row] = ImageFile(place, picture.key)
            except UnreadableImage:
                found[picture.row] = None
        outcomes = self._decoder(list(files.values()))
        found |= {row: self._look(outcome) for row, outcome in zip(files, outcomes, strict=True)}
        for row, look in found.items():
            self._looks.keep(row, (look,))
        return found

    def _look(self, outcome: Decoded | UnreadableImage) -> T | None:
        if isinstance(outcome, UnreadableImage):
            return None
        return self._make(outcome.pixels, outcome.facts)


def _look(pixels: npt.NDArray[np.uint8], facts: ImageFacts) -> Look:
    return Look.of(pixels, (facts.width, facts.height), has_more=facts.has_more)


def _fine_look(pixels: npt.NDArray[np.uint8], facts: ImageFacts) -> FineLook:
    return FineLook.of(pixels, (facts.width, facts.height))
