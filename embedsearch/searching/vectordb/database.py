"""What a vector database is here; in: a URL, out: a VectorDatabase.

It holds rows of a store under their numbers and names candidates. The store stays the truth: what
a row is, and what it scores, is read there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import IncompatibleStore, StorageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.searching.vectordb.conditions import Condition
from embedsearch.searching.vectordb.fields import Field, Value

T = TypeVar("T")
Rows: TypeAlias = npt.NDArray[np.int64]

NAME = "embedsearch"  # of a collection or table, and of the record of what it holds
ASK_S = 10.0  # how long a search may take, all its tries together
SEND_S = 30.0  # and a message of an upload
WORK_S = 120.0  # and what a server does at one go, as sealing rows
_TRIES = 3
_PAUSE_S = 1.5  # after the first try, twice that after the second: gRPC holds off, too
_MASK = "***"


@dataclass(frozen=True)
class DatabaseRecord:
    """What a database says of the rows in it; `generation` 0: they are not all there yet."""

    model: str
    fingerprint: str
    dim: int
    generation: int
    next_row: int  # of the store; no row of it has this number or a higher one
    tool: str
    fields: tuple[Field, ...]

    def to_json(self) -> str:
        """Return it as text."""
        fields = [field.to_list() for field in self.fields]
        return json.dumps({NAME: 1, **vars(self), "fields": fields}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None, place: DatabaseUrl) -> DatabaseRecord:
        """Read it. Raises IncompatibleStore for what embedsearch has not written."""
        try:
            values = json.loads(text or "")
            if values.pop(NAME) != 1:
                raise ValueError("a newer version")
            fields = tuple(map(Field.from_list, values.pop("fields")))
            return cls(**values, fields=fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IncompatibleStore(
                f"{place}: what is called {place.table} there was not made by this version of "
                "embedsearch export: name another, or remove it"
            ) from error

    def check_model(self, model: ModelSpec, place: DatabaseUrl) -> None:
        """Raise IncompatibleStore unless the vectors are of this model."""
        if (self.fingerprint, self.dim) != (model.fingerprint, model.dim):
            raise IncompatibleStore(
                f"{place} holds vectors of {self.model} ({self.dim} components), the store those "
                f"of {model.name} ({model.dim}): export with replace=True makes it again",
                "replace",
            )

    def finished(self, generation: int) -> DatabaseRecord:
        """Return the record of a database that holds all rows of a generation."""
        return replace(self, generation=generation)


@dataclass(frozen=True)
class RowBatch:
    """Rows on their way: `rows` and `marks` int64 (n,), `vectors` float16 (n, D), unit rows.

    `values` holds a list of n a field of the record.
    """

    rows: Rows
    marks: Rows
    vectors: npt.NDArray[np.float16]
    roots: Sequence[int]
    keys: Sequence[bytes]
    values: Sequence[Sequence[Value | None]]


class VectorDatabase(Protocol):
    """One collection or table, open. All methods raise StorageError for what the server says."""

    place: DatabaseUrl
    most: int  # candidates that one search can name

    def record(self) -> DatabaseRecord | None:
        """Return what it holds, None where there is nothing of that name."""

    def create(self, record: DatabaseRecord) -> None:
        """Make it, empty, in the place of what there is."""

    def marks(self, rows: Rows | None, record: DatabaseRecord) -> tuple[Rows, Rows]:
        """Return (rows, their marks) of those given that it holds; without, of all."""

    def upsert(self, batch: RowBatch, record: DatabaseRecord) -> None:
        """Put rows there, in the place of those of the same numbers."""

    def delete(self, rows: Rows) -> None:
        """Remove rows."""

    def finish(self, record: DatabaseRecord) -> None:
        """Make all that was done searchable and lasting; then write the record."""

    def search(
        self, queries: npt.NDArray[np.float32], count: int, condition: Condition
    ) -> list[Rows]:
        """Return the rows nearest to each query, float32 (Q, D), `count` unless there are fewer."""

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True)
class DatabaseUrl:
    """A database's URL. As text it shows neither user, password nor options."""

    url: str
    scheme: str
    host: str
    name: str  # what follows the host, without the slash
    table: str
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        masked = f"{_MASK}@" if self.user is not None or self.password is not None else ""
        name = self.name.lstrip("/")
        return f"{self.scheme}://{masked}{self.host}" + (f"/{name}" if name else "")

    def __repr__(self) -> str:
        return f"Place({self})"

    def said(self, error: object) -> str:
        """Return the words of an error on one line, without the password."""
        words = " ".join(str(error).split())
        for secret in {self.password, self._quoted_password()} - {None, ""}:
            words = words.replace(str(secret), _MASK)
        return words[:500]

    def _quoted_password(self) -> str | None:
        return urlsplit(self.url).password


def patiently(work: Callable[[float], T], is_passing: Callable[[Exception], bool]) -> T:
    """Return what `work(seconds it may take)` returns; try again where an error is a passing one.

    Three times, ASK_S in all; then the error is raised.
    """
    started = time.monotonic()
    for number in range(1, _TRIES + 1):
        left = ASK_S - (time.monotonic() - started)
        try:
            return work(max(1.0, left))
        except Exception as error:
            is_over = number == _TRIES or left - _PAUSE_S * number < 1.0
            if is_over or not is_passing(error):
                raise
            time.sleep(_PAUSE_S * number)
    raise AssertionError("the last try returns or raises")


def vanished(place: DatabaseUrl) -> StorageError:
    """Return the error of a collection or table that is not there."""
    return StorageError(
        f"{place} holds no {place.table}: embedsearch export --to makes it, from a store"
    )
