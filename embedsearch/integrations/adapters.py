"""The common parts of the framework adapters: a store opened once, and hits as documents."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import EmbedSearchError, MissingLibrary, UsageError
from embedsearch.core.install import install_command
from embedsearch.core.names import FULL_PATH
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.searching.searcher import Searcher, open_store

Store: TypeAlias = "str | os.PathLike[str] | Searcher | None"


class OpenedStore:
    """A store that is opened on first use, and then follows new commits.

    An open Searcher is used as it is, and left open. A copy opens the store for itself.
    """

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self._store = store
        self._device = device
        self._opening = threading.Lock()
        self._searcher = store if isinstance(store, Searcher) else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy."""
        return OpenedStore, (self._store, self._device)

    @property
    def searcher(self) -> Searcher:
        """Return the open store. Raises StoreNotFound, DamagedStore, IncompatibleStore."""
        with self._opening:
            if self._searcher is None:
                assert not isinstance(self._store, Searcher), "it would be open"
                self._searcher = open_store(self._store, device=self._device, follow=True)
            return self._searcher

    def close(self) -> None:
        """Close what was opened here; the next use opens it again."""
        with self._opening:
            if self._searcher is not None and self._searcher is not self._store:
                self._searcher.close()
                self._searcher = None


def fields_of(found: Hit | ImageRecord, full_path: str = "source") -> dict[str, Any]:
    """Return the facts of an image as JSON-ready values; `full_path` is how a framework calls that.

    A user's column with the name of a built-in one becomes `user_…`.
    """
    values = found.to_dict()
    user = values.pop("metadata")
    values.pop("rank", None)
    built_in = {full_path: values[FULL_PATH], **values}
    return built_in | {(f"user_{name}" if name in built_in else name): user[name] for name in user}


def unit(vector: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return a vector as a query: float32 (D,), of length 1. Raises UsageError."""
    values = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(values))
    if not (np.isfinite(length) and length > 0):
        raise UsageError("the vector of the query is zero, NaN or infinite")
    return (values / length).astype(np.float32)


def text_of(metadata: Mapping[str, Any], column: str | None, otherwise: str) -> str:
    """Return the text of an image from the user's column, or `otherwise` if it has none."""
    value = None if column is None else metadata.get(column)
    return otherwise if value is None else str(value)


@contextmanager
def raised_as(kind: type[Exception]) -> Iterator[None]:
    """Convert our errors to the framework's kind of error, with the same message."""
    try:
        yield
    except EmbedSearchError as error:
        raise kind(str(error)) from error


def missing(error: ModuleNotFoundError, extra: str) -> MissingLibrary:
    """Return the error for a framework that is not installed."""
    return MissingLibrary(f"{error.name} is not installed: {install_command(extra)}")
