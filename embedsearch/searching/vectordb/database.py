"""The interface of vector databases; in: a URL, out: a VectorDatabase.

A database holds rows of a store by their numbers and supplies candidates. The store remains the
source of truth: the content and score of a row are read from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import IncompatibleStore, StorageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.retry import retried
from embedsearch.searching.vectordb.conditions import Condition
from embedsearch.searching.vectordb.fields import Field, Value

T = TypeVar("T")
Rows: TypeAlias = npt.NDArray[np.int64]

NAME = "embedsearch"  # of a collection or table, and of its record
ASK_S = 10.0  # limit for a search, all tries together
SEND_S = 30.0  # limit for a message of an upload
WORK_S = 120.0  # limit for one long operation of a server, like sealing rows
_TRIES = 3
_PAUSE_S = 1.5  # after the first try, twice that after the second: gRPC backs off too
_MASK = "***"


@dataclass(frozen=True)
class DatabaseRecord:
    """The record that a database keeps of its rows; `generation` is 0 until all rows are there."""

    model: str
    fingerprint: str
    dim: int
    generation: int
    next_row: int  # of the store: above all its row numbers
    tool: str
    fields: tuple[Field, ...]
    store_id: str = ""  # of the store whose rows these are; older records have none

    def to_json(self) -> str:
        """Return it as text."""
        fields = [field.to_list() for field in self.fields]
        return json.dumps({NAME: 1, **vars(self), "fields": fields}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None, place: DatabaseUrl) -> DatabaseRecord:
        """Read it. Raises IncompatibleStore for text that embedsearch did not write."""
        try:
            if (values := json.loads(text or "")).pop(NAME) != 1:
                raise ValueError("a newer version")
            fields = tuple(map(Field.from_list, values.pop("fields")))
            return cls(**values, fields=fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IncompatibleStore(
                f"{place}: {place.table} was not made by this version of embedsearch export: "
                "use another name, or remove it"
            ) from error

    def check_model(self, model: ModelSpec, place: DatabaseUrl) -> None:
        """Raise IncompatibleStore unless the vectors are of this model."""
        if (self.fingerprint, self.dim) != (model.fingerprint, model.dim):
            raise IncompatibleStore(
                f"{place} holds vectors of {self.model} ({self.dim} components), but the store "
                f"those of {model.name} ({model.dim}): export with replace=True creates it again",
                "replace",
            )

    def is_of(self, store_id: str) -> bool:
        """Return whether the rows may be those of the store with this id."""
        return store_id == self.store_id or "" in {store_id, self.store_id}

    def finished(self, generation: int) -> DatabaseRecord:
        """Return the record of a database that holds all rows of a generation."""
        return replace(self, generation=generation)


@dataclass(frozen=True)
class RowBatch:
    """Rows to upload: `rows` and `marks` int64 (n,), `vectors` float16 (n, D), unit rows.

    `values` holds a list of n values per field of the record.
    """

    rows: Rows
    marks: Rows
    vectors: npt.NDArray[np.float16]
    roots: Sequence[int]
    keys: Sequence[bytes]
    values: Sequence[Sequence[Value | None]]


class VectorDatabase(Protocol):
    """One collection or table, open. All methods raise StorageError for errors of the server."""

    place: DatabaseUrl
    most: int  # candidates per search

    def record(self) -> DatabaseRecord | None:
        """Return its record, None if there is no such collection or table."""

    def create(self, record: DatabaseRecord) -> None:
        """Create it empty; it replaces an existing one."""

    def marks(self, rows: Rows | None, record: DatabaseRecord) -> tuple[Rows, Rows]:
        """Return (rows, their marks) of the given rows that it holds; without rows, of all."""

    def upsert(self, batch: RowBatch, record: DatabaseRecord) -> None:
        """Write rows; they replace rows of the same numbers."""

    def delete(self, rows: Rows) -> None:
        """Remove rows."""

    def finish(self, record: DatabaseRecord) -> None:
        """Make all changes searchable and durable; then write the record."""

    def search(
        self, queries: npt.NDArray[np.float32], count: int, condition: Condition
    ) -> list[Rows]:
        """Return up to `count` nearest rows of each query, float32 (Q, D)."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class DatabaseUrl:
    """A database's URL. Its text form hides user, password and options."""

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
        return f"DatabaseUrl({self})"

    def said(self, error: object) -> str:
        """Return an error's message on one line, without the password."""
        message = " ".join(str(error).split())
        for secret in {self.password, urlsplit(self.url).password} - {None, ""}:
            message = message.replace(str(secret), _MASK)
        return message[:500]


def patiently(work: Callable[[float], T], is_passing: Callable[[Exception], bool]) -> T:
    """Return the result of `work(time limit in seconds)`; retry after temporary errors.

    There are three tries within ASK_S in total; then the error is raised.
    """
    return retried(
        work, is_passing, tries=_TRIES, pause_s=lambda number: _PAUSE_S * number, limit_s=ASK_S
    )


def vanished(place: DatabaseUrl) -> StorageError:
    """Return the error for a missing collection or table."""
    return StorageError(f"{place} holds no {place.table}: embedsearch export --to makes it")
