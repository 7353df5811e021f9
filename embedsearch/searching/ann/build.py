"""Vectors to FAISS files for `search`; in: float16 rows, out: an index, and its bytes in pieces."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from embedsearch.searching.ann.search import CandidateIndex

_PIECE_BYTES = 1 << 20
_PIECES_AHEAD = 8
_SEED = 1234

Rows = npt.NDArray[np.float16]


def flat_bytes(dim: int, vectors: Iterable[Rows]) -> Iterator[bytes]:
    """Yield, in pieces, an inner-product index whose position i is row i of `vectors`.

    Codes are fp16, so the rows are kept bit for bit.
    """
    # Imported late: a run without changes does not need it.
    from embedsearch.searching.ann.kernels import faiss

    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for rows in vectors:
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
    yield from _serialized(index)


def untrained(factory: str, dim: int) -> Any:
    """Return the empty index of a FAISS factory string. Raises ValueError if it is unusable."""
    from embedsearch.searching.ann.kernels import faiss
    from embedsearch.searching.ann.search import CandidateIndex

    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(_error_message(error)) from error
    CandidateIndex(index)
    return index


def _error_message(error: RuntimeError) -> str:
    """Return the message of a FAISS error, without the location in its source."""
    return " ".join(re.sub(r"^Error in .*?\.(cpp|h):[0-9]+: (Error: )?", "", str(error)).split())


class CandidateBuilder:
    """An ANN index being filled, row after row."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def trained(cls, factory: str, dim: int, training: npt.NDArray[np.float32]) -> CandidateBuilder:
        """Return an empty index of a FAISS factory string, trained on float32 (n, D).

        Raises ValueError if FAISS has no such index, or there are too few rows to train it.
        """
        index = untrained(factory, dim)
        for clustering in _clusterings(index):
            clustering.seed = _SEED
            clustering.min_points_per_centroid = 1  # their number is already chosen
            clustering.max_points_per_centroid = len(training)
        try:
            index.train(training)
        except RuntimeError as error:
            raise ValueError(_error_message(error)) from error
        return cls(index)

    @classmethod
    def opened(cls, descriptor: int) -> CandidateBuilder:
        """Return the index in a verified file, read into memory, to add rows to."""
        from embedsearch.searching.ann.kernels import faiss

        library: Any = faiss  # its stubs lack this reader
        with open(f"/dev/fd/{descriptor}", "rb") as file:
            return cls(faiss.read_index(library.PyCallbackIOReader(file.read, _PIECE_BYTES)))

    def add(self, rows: Rows) -> None:
        """Add rows at the end."""
        self._index.add(np.ascontiguousarray(rows, dtype=np.float32))

    def index(self) -> CandidateIndex:
        """Return the index for search."""
        from embedsearch.searching.ann.search import CandidateIndex

        return CandidateIndex(self._index)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the index."""
        return _serialized(self._index)


def _clusterings(index: Any) -> Iterator[Any]:
    """Yield the k-means settings of an index, if it has any."""
    from embedsearch.searching.ann.kernels import faiss

    if isinstance((inner := faiss.downcast_index(index)), faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if isinstance(inner, faiss.IndexIVF):
        yield inner.cp


def _serialized(index: Any) -> Iterator[bytes]:
    """Yield the bytes of an index in pieces.

    FAISS must not write the file itself: on a full disk it can return normally with a file of
    0 bytes. Instead it calls back with pieces; a thread turns these calls into an iterator, so
    that the whole index is never held in memory twice.
    """
    from embedsearch.searching.ann.kernels import faiss

    pieces: queue.Queue[bytes | Exception | None] = queue.Queue(_PIECES_AHEAD)
    abandoned = threading.Event()

    def put(piece: bytes | Exception | None) -> None:
        while not abandoned.is_set():
            try:
                return pieces.put(piece, timeout=0.1)
            except queue.Full:
                continue
        raise RuntimeError("the reader stopped")

    def write() -> None:
        try:
            library: Any = faiss  # its stubs lack this writer
            faiss.write_index(index, library.PyCallbackIOWriter(put, _PIECE_BYTES))
            put(None)
        except Exception as error:
            if not abandoned.is_set():
                put(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        abandoned.set()
        thread.join()
