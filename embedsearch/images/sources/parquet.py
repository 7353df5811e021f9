"""Image files in a column of a Parquet file; in: its path, out: refs, and temporary files.

The column is a struct with a field `bytes`, as Hugging Face datasets write it, or binary. An image
is identified by the number of its row and the name that its field `path` ends with.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedsearch.core.records import Failure, ImageRef, Reason, Stage
from embedsearch.images.sources.source import Beside, Container, Placed, lost
from embedsearch.images.sources.table import holds_bytes

_AT_ONCE = 64  # rows that are read together
_BROKEN = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


@dataclass
class ParquetImages(Container):
    """The images of one Parquet file."""

    _refs: list[tuple[str, int]] | None = None  # of each image: key and row
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
            self._digests = {
                ref.key: hashlib.sha256(content).digest()
                for ref, content in self._contents(refs)
                if isinstance(content, bytes)
            }
        return self._digests.get(ref.key)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a temporary file for each ref."""
        for ref, content in self._contents(refs):
            yield ref, content if isinstance(content, Failure) else self.temporary.keep(content)

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the other columns of images."""
        wanted = set(keys)
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for (key, _), fields in zip(self._known(), _others(file), strict=True):
                    if key in wanted:
                        yield Beside(key, {n: v for n, v in fields.items() if v is not None})
        except _BROKEN as error:
            yield Beside("", {}, (f"{self.path} ({_message_of(error)})",))

    def _known(self) -> list[tuple[str, int]]:
        if self._refs is None:
            self._refs = []
            try:
                self._seen = self._state()
                with pq.ParquetFile(self.path) as file:
                    self._refs = [(_key(n, name), n) for n, name in enumerate(_names(file))]
            except _BROKEN as error:
                message = _message_of(error)
                failure = Failure(self.root, "", Stage.SCAN, Reason.BROKEN_ARCHIVE, message)
                self.failures.append(failure)
        return self._refs

    def _contents(self, refs: Iterable[ImageRef]) -> Iterator[tuple[ImageRef, bytes | Failure]]:
        """Yield the bytes of each ref, reading only the row groups that hold any."""
        rows = dict(self._known())
        wanted: dict[int, ImageRef] = {}
        for ref in refs:
            if ref.key in rows:
                wanted[rows[ref.key]] = ref
            else:
                yield ref, lost(ref, Reason.VANISHED, "the file holds it no more")
        message = "the file has changed"
        try:
            if wanted and self._state() == self._seen:
                with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                    for row, content in _read(file, wanted.keys()):
                        ref = wanted.pop(row)
                        yield ref, self._checked(ref, content)
        except _BROKEN as error:
            message = _message_of(error)
        for ref in wanted.values():
            yield ref, lost(ref, Reason.IO_ERROR, message)

    def _checked(self, ref: ImageRef, content: bytes | Exception | None) -> bytes | Failure:
        if isinstance(content, Exception):
            return lost(ref, Reason.IO_ERROR, _message_of(content))
        if content is None:
            return lost(ref, Reason.EMPTY, "the row holds no bytes")
        if len(content) > self.max_bytes:
            return lost(ref, Reason.TOO_BIG, f"{len(content)} bytes")
        return content


def image_column(schema: pa.Schema) -> str:
    """Return the name of the first column that can hold image files. Raises ValueError."""
    for column in schema:
        if _holds_files(column.type):
            name: str = column.name
            return name
    raise ValueError(f"no column holds image files: there are {', '.join(schema.names)[:120]}")


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        kind = kind.field(index).type if index >= 0 else pa.null()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _names(file: pq.ParquetFile) -> Iterator[str]:
    """Yield the name of each row's image, "" where there is none."""
    schema = file.schema_arrow
    column = image_column(schema)
    kind = schema.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        yield from [""] * file.metadata.num_rows
        return
    for batch in file.iter_batches(columns=[f"{column}.path"]):
        for value in batch.column(0).to_pylist():
            path = (value or {}).get("path")
            yield os.fsdecode(path) if isinstance(path, str | bytes) else ""


def _others(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    """Yield what each row holds in columns that are not of bytes."""
    schema = file.schema_arrow
    names = [field.name for field in schema if not holds_bytes(field.type)]
    if not names:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(columns=names):
        yield from batch.to_pylist()


def _key(row: int, name: str) -> str:
    """Return the key of a row; those of a file are in order."""
    last = posixpath.basename(name).replace("\0", "")
    return f"{row:08d}/{last}" if last not in {"", ".", ".."} else f"{row:08d}"


def _read(
    file: pq.ParquetFile, rows: Iterable[int]
) -> Iterator[tuple[int, bytes | Exception | None]]:
    """Yield what each of these rows holds, in order; a broken page costs those of its group."""
    column = image_column(file.schema_arrow)
    left = sorted(rows, reverse=True)
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        try:
            batches: Iterator[pa.RecordBatch] = iter(())
            if left and left[-1] < end:
                batches = file.iter_batches(_AT_ONCE, row_groups=[group], columns=[column])
            start = first
            for batch in batches:
                while left and left[-1] < start + len(batch):
                    value = batch.column(0)[left[-1] - start].as_py()
                    yield left.pop(), value["bytes"] if isinstance(value, dict) else value
                start += len(batch)
        except _BROKEN as error:
            while left and left[-1] < end:
                yield left.pop(), error
        first = end


def _message_of(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
