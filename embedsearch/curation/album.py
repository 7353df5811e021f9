"""The looks of images; in: pictures of a store, out: a Look each, read from the files of today."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UnreadableImage
from embedsearch.core.session import Session
from embedsearch.curation.collection import Picture
from embedsearch.images.close_look import SIDE, Look
from embedsearch.images.decode.shared import Decoded, ImageFile, SharedDecoder
from embedsearch.images.originals import Originals

_AT_ONCE = 32
_KEPT = 2048  # looks, of 70 kB


class Album:
    """Reads images in worker processes; the looks of the last ones are kept. Close it."""

    def __init__(self, session: Session) -> None:
        limits = DecodeLimits()
        self._session = session
        self._decoder = SharedDecoder(SIDE, limits, max_files=_AT_ONCE)
        self._originals = Originals(limits.max_bytes)
        self._looks: dict[int, Look | None] = {}  # by row; the oldest is first

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()
        self._originals.close()

    def looks(self, pictures: Iterable[Picture]) -> Iterator[Look | None]:
        """Yield the look of each picture, None for one that cannot be read."""
        rest = iter(pictures)
        while some := list(islice(rest, _AT_ONCE)):
            self._session.check()
            rows = [picture.row for picture in some]
            found = {row: self._looks[row] for row in rows if row in self._looks}
            found |= self._read([picture for picture in some if picture.row not in found])
            yield from (found[row] for row in rows)

    def _read(self, pictures: Sequence[Picture]) -> dict[int, Look | None]:
        files: dict[int, ImageFile] = {}
        found: dict[int, Look | None] = {}
        for picture in pictures:
            try:
                place = self._originals.inside(picture.root, picture.key, picture.digest)
                files[picture.row] = ImageFile(place, picture.key)
            except UnreadableImage:
                found[picture.row] = None
        outcomes = self._decoder(list(files.values()))
        found |= {row: _look(outcome) for row, outcome in zip(files, outcomes, strict=True)}
        self._looks |= found
        for row in list(self._looks)[: max(0, len(self._looks) - _KEPT)]:
            del self._looks[row]
        return found


def _look(outcome: Decoded | UnreadableImage) -> Look | None:
    if isinstance(outcome, UnreadableImage):
        return None
    return Look.of(outcome.pixels, (outcome.facts.width, outcome.facts.height))
