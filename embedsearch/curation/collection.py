"""The columns of all live rows; in: an open store, out: arrays by position."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.errors import UsageError
from embedsearch.core.names import HasKey
from embedsearch.core.paths import named_forms, whole_path
from embedsearch.core.records import NO_DIGEST, SIGNATURE_SIDE
from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.store.shards import numbers, vector_array
from embedsearch.store.snapshot import Snapshot

_AS_STORED = ("row", "width", "height", "format", "taken_at", "mtime_ns")


@dataclass(frozen=True)
class Picture(HasKey):
    """An image of the store, with the facts that decide which copy to keep."""

    row: int
    root: str
    key: str
    width: int
    height: int
    size_bytes: int
    format: str
    taken_at: datetime | None
    mtime_ns: int
    sha256: str | None = None  # of the file, in hexadecimal; None for an imported vector
    is_file: bool = True  # of this machine, not in an archive and not at a URL

    @property
    def full_path(self) -> str:
        """Return the whole path."""
        return whole_path(self.root, self.key)

    @property
    def digest(self) -> bytes | None:
        """Return the sha256 of the file as bytes."""
        return None if self.sha256 is None else bytes.fromhex(self.sha256)

    @cached_property
    def file_id(self) -> tuple[int, int] | str:
        """Return what all names of one file have in common, as far as it can be known."""
        if self.is_file:
            with contextlib.suppress(OSError):
                status = os.stat(self.full_path)
                return status.st_dev, status.st_ino
        return self.full_path


@dataclass
class Collection:
    """The live rows of a snapshot that meet a condition, by position."""

    snapshot: Snapshot
    session: Session
    where: str | None = None
    ordinals: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        mask = self.snapshot.live_mask()
        if self.where is not None:
            with RowColumns(self.snapshot, self.session) as columns:
                mask &= columns.where(self.where)
        self.ordinals = np.flatnonzero(mask)

    def __len__(self) -> int:
        return len(self.ordinals)

    def pictures(self, positions: npt.NDArray[np.int64]) -> list[Picture]:
        """Return the images at some positions, in that order."""
        if not len(positions):
            return []
        roots = {root.id: root for root in self.snapshot.manifest.roots}
        names = [*_AS_STORED, "root", "key", "size", "digest"]
        table = self.snapshot.take(self.ordinals[positions], names)
        return [
            Picture(
                root=roots[row["root"]].path,
                key=os.fsdecode(row["key"]),
                size_bytes=max(0, row["size"]),
                sha256=None if row["digest"] == NO_DIGEST else row["digest"].hex(),
                is_file=roots[row["root"]].has_files_here,
                **{name: row[name] for name in _AS_STORED},
            )
            for row in table.to_pylist()
        ]

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the row numbers, int64 (n,), in the order of positions."""
        rows = np.empty(len(self), np.int64)
        for position, table in self._parts(["row"]):
            rows[position : position + len(table)] = numbers(table.column("row"))
        return rows

    def vectors(self) -> npt.NDArray[np.float16]:
        """Return what search compares, float16 (n, D), in the order of positions."""
        dim, center = self.snapshot.manifest.model.dim, self.snapshot.center
        vectors = np.empty((len(self), dim), np.float16)
        for position, table in self._parts(["vector"]):
            stored = vector_array(table.column("vector"))
            vectors[position : position + len(table)] = (
                stored if center is None else center.rows(stored)
            )
        return vectors

    def signatures(self) -> npt.NDArray[np.uint8]:
        """Return the signatures, uint8 (n, 256); zeros where there is none."""
        signatures = np.zeros((len(self), SIGNATURE_SIDE**2), np.uint8)
        for position, table in self._parts(["signature"]):
            chosen = table.column("signature")
            known = chosen.is_valid().to_numpy()
            data = b"".join(value for value in chosen.to_pylist() if value is not None)
            found = np.frombuffer(data, np.uint8).reshape(-1, SIGNATURE_SIDE**2)
            signatures[position : position + len(chosen)][known] = found
        return signatures

    def digests(self) -> npt.NDArray[np.void]:
        """Return the sha256 of each file, 32 bytes (n,); its row where that is unknown."""
        digests = np.empty(len(self), "V32")
        for position, table in self._parts(["digest", "row"]):
            known: list[Any] = table.column("digest").to_pylist()
            rows: list[Any] = table.column("row").to_pylist()
            some = [
                row.to_bytes(32, "big") if digest == NO_DIGEST else digest
                for digest, row in zip(known, rows, strict=True)
            ]
            digests[position : position + len(some)] = np.frombuffer(b"".join(some), "V32")
        return digests

    def formats(self) -> set[str]:
        """Return the formats of the images."""
        found: set[Any] = set()
        for _, table in self._parts(["format"]):
            found.update(table.column(0).unique().to_pylist())
        return found

    def inside(self, folder: str) -> npt.NDArray[np.bool_]:
        """Return bool (n,): which images lie below a folder. Raises UsageError where none does."""
        wanted = tuple(os.fsencode(form).rstrip(b"/") + b"/" for form in named_forms(folder))
        all_roots = self.snapshot.manifest.roots
        roots = {root.id: os.fsencode(root.path).rstrip(b"/") + b"/" for root in all_roots}
        found = np.zeros(len(self), np.bool_)
        for position, table in self._parts(["root", "key"]):
            homes: list[Any] = table.column("root").to_pylist()
            keys: list[Any] = table.column("key").to_pylist()
            names = zip(homes, keys, strict=True)
            some = [(roots[root] + key).startswith(wanted) for root, key in names]
            found[position : position + len(some)] = some
        if not found.any():
            raise UsageError(f"no image of the store lies in {folder}: embedsearch index it first")
        return found

    def _parts(self, names: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first position, its rows that count) of each row group that has some."""
        position = 0
        mask = np.zeros(int(self.snapshot.starts[-1]), np.bool_)
        mask[self.ordinals] = True
        for start, table in self.snapshot.tables(names):
            self.session.at("reading the store", position, len(self))
            here = mask[start : start + len(table)]
            if here.any():
                yield position, table if here.all() else table.filter(pa.array(here))
                position += int(here.sum())
