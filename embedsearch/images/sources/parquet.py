"""Image files in a column of a Parquet file; in: its path, out: refs, and temporary files.

An image is identified by the number of its row, its number in the row where that is a list, and the
name that its field `path` ends with. Where a row has a path and no bytes, the file is read if it
lies below the folder of the Parquet file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from embedsearch.core import bounds
from embedsearch.core.errors import OverBound, UsageError
from embedsearch.core.names import existing, unicode_text
from embedsearch.core.paths import is_url, local_path, open_regular
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.images.sources.image_column import Cell, ImageColumn
from embedsearch.images.sources.source import Beside, Container, Placed, lost
from embedsearch.images.tables.held_values import Unheld, held_column
from embedsearch.images.tables.parquet_bounds import Parquet, open_parquet
from embedsearch.images.tables.table import holds_bytes
from embedsearch.images.tables.unpacked import unpacked_bytes

_Place: TypeAlias = tuple[int, int]  # of an image: its row, and its number there
_Content: TypeAlias = "bytes | ImageLocation | Failure"
_AT_ONCE, _ROWS = 64, 65_536  # rows that are read together: images, other columns
_MAX_NAME = 255  # bytes
_BROKEN = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


@dataclass
class ParquetImages(Container):
    """The images of one Parquet file."""

    _refs: list[tuple[str, _Place]] | None = None  # of each image: key and place
    _digests: dict[str, bytes] | None = None

    def version(self) -> str:
        """Return the size and the time of the file, as of its listing if it was listed."""
        return "{}:{}".format(*(self._state() if self._refs is None else self._seen))

    def close(self) -> None:
        """Forget the rows."""
        self._refs = self._digests = None

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield a ref for each row; how many bytes it has is not known before it is read."""
        for key, _ in self._known():
            yield ImageRef(self.root, key, -1, self._seen[1])

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of an image, or None where it cannot be read.

        The first call takes those of all rows: one by one, each would read its group again.
        """
        if self._digests is None:
            refs = (ImageRef(self.root, key, -1, -1) for key, _ in self._known())
            self._digests = {}
            for each, content in self._contents(refs):
                with contextlib.suppress(OSError):
                    if isinstance(content, bytes):
                        self._digests[each.key] = hashlib.sha256(content).digest()
                    elif isinstance(content, ImageLocation):
                        with open(open_regular(content.folder, content.key), "rb") as file:
                            self._digests[each.key] = hashlib.file_digest(file, "sha256").digest()
        return self._digests.get(ref.key)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a temporary file for each ref."""
        for ref, content in self._contents(refs):
            yield ref, self.temporary.keep(content) if isinstance(content, bytes) else content

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the other columns of images."""
        wanted = set(keys)
        of_row: dict[int, list[str]] = {}
        for key, (row, _) in self._known():
            if key in wanted:
                of_row.setdefault(row, []).append(key)
        odd: dict[str, str] = {}
        try:
            parquet = open_parquet(self.path, checksums=True)
            with parquet.file:
                for row, fields in enumerate(_others(parquet, odd)):
                    for key in of_row.get(row, ()):
                        yield Beside(key, {n: v for n, v in fields.items() if v is not None})
        except (OverBound, *_BROKEN) as error:
            yield Beside("", {}, (f"{self.path} ({_message_of(error)})",))
        if odd:
            yield Beside("", {}, tuple(f"{self.path} ({why})" for why in odd.values()))

    def _known(self) -> list[tuple[str, _Place]]:
        if self._refs is None:
            self._refs = []
            try:
                self._seen = self._state()
                self._refs = list(_images(open_parquet(self.path)))
            except (OverBound, *_BROKEN) as error:
                is_over = isinstance(error, OverBound)
                reason = Reason.OVER_BOUND if is_over else Reason.BROKEN_ARCHIVE
                failure = Failure(self.root, "", Stage.SCAN, reason, _message_of(error))
                self.failures.append(failure)
        return self._refs

    def _contents(self, refs: Iterable[ImageRef]) -> Iterator[tuple[ImageRef, _Content]]:
        """Yield the bytes of each ref, reading only the row groups that hold any."""
        known = dict(self._known())
        wanted: dict[_Place, ImageRef] = {}
        for ref in refs:
            if ref.key in known:
                wanted[known[ref.key]] = ref
            else:
                yield ref, lost(ref, Reason.VANISHED, "it is no longer in the file")
        message = "the file has changed"
        try:
            if wanted and self._state() == self._seen:
                parquet = open_parquet(self.path, checksums=True)
                with parquet.file:
                    for place, cell in _read(parquet, wanted.keys()):
                        ref = wanted.pop(place)
                        yield ref, self._checked(ref, cell)
        except (OverBound, *_BROKEN) as error:
            message = _message_of(error)
        for ref in wanted.values():
            yield ref, lost(ref, Reason.IO_ERROR, message)

    def _checked(self, ref: ImageRef, cell: Cell | Exception) -> _Content:
        if isinstance(cell, Exception):
            return lost(ref, Reason.IO_ERROR, _message_of(cell))
        if cell.content is None:
            return self._beside(ref, cell.path)
        if len(cell.content) > self.max_bytes:
            return lost(ref, Reason.TOO_BIG, f"{len(cell.content)} bytes")
        return cell.content

    def _beside(self, ref: ImageRef, path: str) -> ImageLocation | Failure:
        """Return the file that a row names instead of bytes, below the Parquet file's folder."""
        if not path:
            return lost(ref, Reason.EMPTY, "the row holds no bytes")
        folder = os.path.dirname(self.path)
        key = _key_below(folder, path)
        if key is None:
            message = f"the row holds no bytes, but a path that is not below {folder}: {path}"
            return lost(ref, Reason.EMPTY, message)
        steps = accumulate(key.split("/"), "{}/{}".format)
        link = next((step for step in steps if Path(folder, step).is_symlink()), None)
        if link is not None:
            message = f"the row has no bytes, but a path over a link, which is not followed: {link}"
            return lost(ref, Reason.EMPTY, message)
        if not os.path.lexists(os.path.join(folder, key)):
            return lost(ref, Reason.VANISHED, f"the row holds no bytes; {path} is not there")
        return ImageLocation(folder, key)


def _key_below(folder: str, path: str) -> str | None:
    """Return a path, relative or whole, as one below a folder; None where it is elsewhere."""
    try:
        whole = os.path.join(folder, local_path(path) if path[:7].lower() == "file://" else path)
    except UsageError:  # of another machine
        return None
    if is_url(whole) or "\0" in whole or ".." in whole.split("/"):
        return None
    whole = os.path.normpath(whole)
    inside = (above.rstrip("/") + "/" for above in (folder, os.path.realpath(folder)))
    start = next((above for above in inside if whole.startswith(above)), None)
    return None if start is None else existing(whole).removeprefix(start)


def _images(parquet: Parquet) -> Iterator[tuple[str, _Place]]:
    """Yield key and place of each image. Raises OverBound for more than the bytes can hold."""
    most = bounds.ROWS_FLOOR + parquet.bytes // bounds.ROW_BYTES
    with parquet.file as file:
        count = file.metadata.num_rows
        if count > most:
            raise OverBound(f"{count} rows are stated in {parquet.bytes} bytes; {most} can be")
        column = ImageColumn.of(parquet)
        number = 0
        for row, names in enumerate(column.names(parquet)):
            for index, name in enumerate(names):
                number += 1
                if number > most:
                    message = f"more than {most} images are stated in {parquet.bytes} bytes"
                    raise OverBound(message)
                yield _key(row, index if column.is_list else None, name), (row, index)


def _others(parquet: Parquet, odd: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what each row holds in columns that are not of bytes.

    Columns with a value that is not held are left out of that batch, and noted in `odd`.
    """
    file = parquet.file
    images = ImageColumn.of(parquet).name
    names = [f.name for f in file.schema_arrow if f.name != images and not holds_bytes(f.type)]
    if not names:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    first = whole = 0
    for batch in file.iter_batches(parquet.rows_at_once(names, _ROWS), columns=names):
        whole += unpacked_bytes(batch)
        parquet.check_held(whole)
        held: dict[str, pa.ChunkedArray[Any]] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                held[name] = held_column(pa.chunked_array([column]))
            except Unheld as error:
                row = "" if error.at is None else f"row {first + error.at + 1}, "
                odd.setdefault(name, f"{row}column {unicode_text(name)}: {error}")
        yield from pa.table(held).to_pylist() if held else ({} for _ in range(len(batch)))
        first += len(batch)


def _key(row: int, index: int | None, name: str) -> str:
    """Return the key of an image; those of a file are in order."""
    last = posixpath.basename(name).replace("\0", "")
    if len(os.fsencode(last)) > _MAX_NAME:
        last = ""
    place = f"{row:08d}" if index is None else f"{row:08d}/{index:05d}"
    return f"{place}/{last}" if last not in {"", ".", ".."} else place


def _read(parquet: Parquet, places: Iterable[_Place]) -> Iterator[tuple[_Place, Cell | Exception]]:
    """Yield what each of these cells holds, in order; a broken page costs those of its group."""
    file, column = parquet.file, ImageColumn.of(parquet)
    rows = parquet.rows_at_once([column.name], _AT_ONCE)
    left = sorted(places, reverse=True)
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        try:
            batches: Iterator[pa.RecordBatch] = iter(())
            if left and left[-1][0] < end:
                batches = file.iter_batches(rows, row_groups=[group], columns=[column.name])
            start = first
            for batch in batches:
                while left and (row := left[-1][0]) < start + len(batch):
                    cells = column.cells(batch.column(0)[row - start].as_py())
                    while left and left[-1][0] == row:
                        place = left.pop()
                        yield place, cells[place[1]]
                start += len(batch)
        except _BROKEN as error:
            while left and left[-1][0] < end:
                yield left.pop(), error
        first = end


def _message_of(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
