"""The images of an open store, by key, path or row; in: one of them, out: what the store knows.

Lists, values of columns, thumbnails: all that needs no query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedsearch.core.arguments import checked
from embedsearch.core.config import DEFAULT_K
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import is_url
from embedsearch.core.records import ImageRecord
from embedsearch.searching.browsing.folders import FolderList
from embedsearch.searching.browsing.order import check_order
from embedsearch.searching.browsing.records import ImageList
from embedsearch.searching.browsing.values import ColumnValues
from embedsearch.searching.following import OpenGeneration, OpenGenerations

if TYPE_CHECKING:
    from embedsearch.images.original_file import OriginalFile


class StoredImages:
    """What a Searcher says of images; each call sees one generation."""

    @property
    def _generations(self) -> OpenGenerations:
        raise NotImplementedError

    @checked
    def get(self, image: str | int) -> ImageRecord:
        """Return what the store knows of an image, by its key, full path or row.

        Raises ImageNotFound, also if several folders have that key.
        """
        with self._generations.using() as opened:
            return opened.generation.record(image)

    @checked
    def images(
        self,
        k: int = DEFAULT_K,
        *,
        where: str | None = None,
        offset: int = 0,
        order: str | None = None,
    ) -> ImageList:
        """Return images of the store that meet a condition, in the store's order or in another.

        `order` is `taken_at`, `path`, `size`, `modified` or `row`, with a `-` before it descending;
        images without a value come last. Raises UsageError.
        """
        if k < 1 or offset < 0:
            raise UsageError("k must be at least 1 and offset at least 0")
        check_order(order)
        with self._generations.using() as opened:
            return opened.generation.browser.listed(where, k, offset, order)

    @checked
    def values(self, column: str, *, where: str | None = None) -> ColumnValues:
        """Return which values a column has in the images that meet a condition, and how often.

        The columns are those of `columns`. Raises UsageError.
        """
        with self._generations.using() as opened:
            return opened.generation.browser.values(column, where)

    @checked
    def folders(self, *, where: str | None = None) -> FolderList:
        """Return the folders with images that meet a condition, at most 20,000.

        Raises UsageError.
        """
        with self._generations.using() as opened:
            return opened.generation.browser.folders(where)

    def frequent_values(self) -> dict[str, list[str]]:
        """Return the most frequent values of columns, as texts, among a sample of images."""
        with self._generations.using() as opened:
            return opened.generation.browser.frequent_values()

    @checked
    def thumbnail(self, image: str | int, side: int = 256, *, fill: int | None = None) -> bytes:
        """Return an image of the store, upright, as JPEG, its longer side at most `side` pixels.

        With `fill` its shorter side is that long instead, as far as the image has as many pixels
        and the longer side stays within 1024. The file is decoded in a worker process, and the
        thumbnail is cached in the user's cache folder. Nothing is shown but the bytes that were
        indexed, whatever the file is now. Raises ImageNotFound, UnreadableImage, and UsageError for
        a side above 1024.
        """
        with self._generations.using() as opened:
            return opened.decoders.thumbnailer.jpeg(*_wanted(opened, image, side, fill))

    @checked
    def thumbnail_version(
        self, image: str | int, side: int = 256, *, fill: int | None = None
    ) -> str | None:
        """Return a name for that thumbnail, the same until the file changes; None for no file here.

        Nothing is decoded for it. Raises ImageNotFound, UsageError.
        """
        with self._generations.using() as opened:
            return opened.decoders.thumbnailer.version(*_wanted(opened, image, side, fill))

    @checked
    def original(self, image: str | int) -> OriginalFile:
        """Open the file of an image of the store: the bytes that were indexed, and nothing else.

        Close it, or use it with `with`. Raises ImageNotFound, and UnreadableImage for a file that
        is another one by now and for a vector that was imported.
        """
        with self._generations.using() as opened:
            place = opened.generation.place(image)
            return opened.decoders.originals.open(place.root, place.key, place.digest)

    @checked
    def records(self, rows: Sequence[int]) -> list[ImageRecord]:
        """Return what `get` returns for each row, without the rows that the store does not have."""
        with self._generations.using() as opened:
            return opened.generation.records(rows)

    def is_remote(self, image: str | int) -> bool:
        """Return whether an image of the store lies on another server. Raises ImageNotFound."""
        with self._generations.using() as opened:
            return is_url(opened.generation.place(image).root)


def _wanted(
    opened: OpenGeneration, image: str | int, side: int, fill: int | None
) -> tuple[str, str, int, bytes | None]:
    """Return the root, the key, the side and the digest of a thumbnail."""
    from embedsearch.images.thumbnails import filling  # a search needs none

    place = opened.generation.place(image)
    if fill is not None:
        side = filling(fill, place.width, place.height)
    return place.root, place.key, side, place.digest
