"""The queries of `embedsearch query`; in: its arguments, out: queries with their names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from embedsearch.searching.queries import Query, Single

MAX_STDIN_BYTES = 512 << 20
STDIN = "-"
_ROWS = 4096


@dataclass(frozen=True)
class QueryArguments:
    """Images, keys of the store, a file of queries, like and unlike images, and words."""

    images: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    crop: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        # Before NumPy is loaded: a single answer is too small to share among threads.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if self.crop is not None and not (self.images or self.source or self.key):
            raise UsageError("--crop needs an image")
        if not (self.images or self.key or self.like or self.source or self.text):
            raise UsageError("name an image to look for, or --text, --key, --like or --from")
        if self.text and not "".join(self.text).strip():
            raise UsageError("--text is empty")
        if self.unlike and not (self.images or self.key or self.like or self.source):
            raise UsageError("--unlike needs an image to look for: words leave out with -word")
        if self._box and self._is_vectors:
            raise UsageError("a vector cannot be cropped")
        if [*self.images, *self.like, *self.unlike, self.source].count(STDIN) > 1:
            raise UsageError("stdin can be read only once")
        _ = self._listed  # report an unreadable list before a store is opened

    def __len__(self) -> int:
        """Return the number of queries."""
        alone = min(1, len(self.like) + len(self.text))
        return len(self.images) + len(self.key) + len(self._listed) or alone

    def queries(self, dim: int) -> Iterator[tuple[str, Query]]:
        """Yield the queries; `dim` is the length of the store's vectors. Raises UsageError."""
        from embedsearch.searching.queries import query_of

        words = " ".join(self.text) if self.text else None
        more = [_image_of(name) for name in self.like]
        less = [_image_of(name) for name in self.unlike]
        mixed = "".join(f" + {name}" for name in self.like)
        mixed += "".join(f" - {name}" for name in self.unlike)
        mixed += "".join(f" + {text}" for text in self.text)
        is_alone = True
        for name, query in self._single(dim):
            is_alone = False
            yield name + mixed, query_of(query, like=more, unlike=less, text=words)
        if is_alone and (more or words is not None):
            yield mixed.removeprefix(" + "), query_of(None, like=more, unlike=less, text=words)

    def _single(self, dim: int) -> Iterator[tuple[str, Single]]:
        """Yield the single images and vectors."""
        from embedsearch.searching.queries import Crop, Key

        listed: Iterable[str] = () if self._is_vectors else self._listed
        for name in (*self.images, *listed):
            if self._box is None:
                yield name, _image_of(name)
            else:
                yield f"{name} {self.crop}", Crop(_image_of(name), *self._box)
        for name in self.key:
            if self._box is None:
                yield name, Key(name)
            else:
                yield f"{name} {self.crop}", Crop(Key(name), *self._box)
        if self._is_vectors:
            yield from self._units(dim)

    def _units(self, dim: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Yield the vectors of the file, float32 (dim,), scaled to length 1."""
        import numpy as np

        if (rows := self._listed).dim != dim:
            raise UsageError(
                f"{self.source} has {rows.dim} components per row, but the store has {dim}"
            )
        for start in range(0, len(rows), _ROWS):
            chunk = np.asarray(rows[start : start + _ROWS], np.float32)
            lengths = np.linalg.norm(chunk, axis=1, keepdims=True)
            if len(bad := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))):
                raise UsageError(f"row {start + bad[0]} of {self.source} is zero or not finite")
            for number, unit in enumerate(chunk / lengths, start=start):
                yield f"{self.source}:{number}", unit

    @property
    def has_images(self) -> bool:
        """Return whether an image must be decoded."""
        listed = self.source is not None and not self._is_vectors
        return bool(self.images or self.like or self.unlike or listed)

    @property
    def _is_vectors(self) -> bool:
        return self.source is not None and self.source.endswith(".npy")

    @cached_property
    def _box(self) -> tuple[int, int, int, int] | None:
        if self.crop is None:
            return None
        try:
            x, y, width, height = (int(part) for part in self.crop.split(","))
        except ValueError as error:
            raise UsageError(f"--crop is four whole numbers X,Y,W,H, not {self.crop!r}") from error
        return x, y, width, height

    @cached_property
    def _listed(self) -> Any:
        """Return the lines of the file, or its vectors, which stay on the disk."""
        if self.source is None:
            return []
        try:
            if self._is_vectors:
                from embedsearch.images.sources.vectors import open_vectors

                return open_vectors(Path(local_path(self.source)))
            from embedsearch.images.sources.listing import read_paths

            if self.source == STDIN:
                return list(read_paths(sys.stdin.buffer))
            with open(local_path(self.source), "rb") as file:
                return list(read_paths(file))
        except OSError as error:
            raise UsageError(f"--from {self.source}: {error.strerror or error}") from error


def _image_of(name: str) -> str | bytes:
    if name != STDIN:
        return name
    if len(data := sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin holds more than {MAX_STDIN_BYTES >> 20} MB")
    return data
