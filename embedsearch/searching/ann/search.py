"""Search in FAISS files and in arrays: exact, or candidates of an ANN index.

In: queries float32 (Q, D), unit rows; out: candidates by inner product. The final score is always
`cosines`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.searching.ann.kernels import faiss

# FAISS's stubs lack some classes and members, and the keywords of its Python layer.
_faiss: Any = faiss
_WRAPPERS = (faiss.IndexIDMap, faiss.IndexIDMap2, faiss.IndexRefine)
_STEPS = sorted({round(2 ** (step / 2)) for step in range(40)})  # each about 1.4 times the last
_MANY_QUERIES = 128  # from here on, matrix products are faster than one pass per query
_BLOCK_ROWS = 8192
_FEW_SHARE = 0.35  # of the rows; up to here they are gathered first
_SCRATCH_BYTES = 2 << 20  # of a thread; a processor's caches hold it
Queries = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float16]
Mask = npt.NDArray[np.bool_]
Content: TypeAlias = "int | npt.NDArray[np.uint8]"  # of a file: a descriptor, or its bytes


@dataclass(frozen=True)
class Candidates:
    """For one query: positions int64 (c,) and inner products float32 (c,), descending."""

    positions: npt.NDArray[np.int64]
    products: npt.NDArray[np.float32]

    @property
    def best(self) -> float:
        """Return the largest product, -inf without candidates."""
        return float(self.products[0]) if len(self.products) else -np.inf


class FlatFile:
    """A flat fp16 FAISS file, searched where its bytes lie: opening it reads only its header."""

    def __init__(self, content: Content, dim: int, rows: int) -> None:
        """Open a verified file. Raises ValueError if it is not the index it should be."""
        index = _opened(content)
        flat = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == (
            faiss.ScalarQuantizer.QT_fp16
        )
        if not flat or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("it is not a flat fp16 inner-product index")
        if (index.d, index.ntotal) != (dim, rows):
            raise ValueError(f"it holds {index.ntotal} x {index.d}, not {rows} x {dim}")
        self._index = index
        self._content = content  # the index points into it
        codes = faiss.rev_swig_ptr(index.codes.data(), rows * dim * 2)
        self.vectors: Vectors = codes.view(np.float16).reshape(rows, dim)

    def search(
        self, queries: Queries, k: int, mask: Mask | None, start: int, stop: int
    ) -> list[Candidates]:
        """Return up to k candidates per query from positions start to stop that `mask` allows.

        Several threads may each search a part of the file.
        """
        if len(queries) >= _MANY_QUERIES:
            return self._search_by_blocks(queries, k, mask, start, stop)
        if mask is not None:
            rows = start + np.flatnonzero(mask[start:stop])
            if len(rows) <= _FEW_SHARE * (stop - start):
                return self._search_gathered(queries, k, rows)
        parameters, _bits = self._part(mask, start, stop)
        products, positions = self._index.search(queries, min(k, stop - start), params=parameters)
        return [
            Candidates(row[row >= 0], product[row >= 0])  # FAISS pads with -1
            for row, product in zip(positions, products, strict=True)
        ]

    def _search_gathered(
        self, queries: Queries, k: int, rows: npt.NDArray[np.int64]
    ) -> list[Candidates]:
        """Do the same among `rows`, which are brought together first.

        One by one, each would be waited for: of rows far apart the processor foresees none.
        """
        near = _scratch.of(self._index.d)
        codes = self.vectors.view(np.uint8)
        found = _Best(len(queries), k)
        for first in range(0, len(rows), len(near.codes)):
            some = rows[first : first + len(near.codes)]
            np.take(codes, some, axis=0, out=near.codes[: len(some)], mode="clip")
            near.index.ntotal = len(some)
            products, places = near.index.search(queries, min(k, len(some)))
            found.add(products, some[places])
        return found.candidates()

    def reaching(
        self, query: Queries, least: float, mask: Mask | None, start: int, stop: int
    ) -> Candidates:
        """Return all from start to stop, in any order, whose product with (D,) is above `least`."""
        parameters, _bits = self._part(mask, start, stop)
        _, products, positions = self._index.range_search(query[None], least, params=parameters)
        return Candidates(positions, products)

    def _part(self, mask: Mask | None, start: int, stop: int) -> tuple[Any, Any]:
        """Return parameters to search positions start to stop, and what must outlive them."""
        if mask is None and stop - start == len(self.vectors):
            return None, None
        if mask is None:
            return _faiss.SearchParameters(sel=faiss.IDSelectorRange(start, stop)), None
        bits = np.packbits(mask[:stop], bitorder="little")
        bits[: start // 8] = 0
        if start % 8:
            bits[start // 8] &= 0xFF << start % 8 & 0xFF
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        return _faiss.SearchParameters(sel=selector), bits

    def _search_by_blocks(
        self, queries: Queries, k: int, mask: Mask | None, start: int, stop: int
    ) -> list[Candidates]:
        """Do the same by matrix products, which decode each row once for all queries."""
        codes = self.vectors.view(np.uint8)
        best = _Best(len(queries), k)
        for first in range(start, stop, _BLOCK_ROWS):
            rows = np.arange(first, min(first + _BLOCK_ROWS, stop))
            if mask is not None:
                rows = rows[mask[rows]]
            if not len(rows):
                continue
            vectors = self._index.sq.decode(codes[rows])
            found = faiss.knn(queries, vectors, min(k, len(rows)), faiss.METRIC_INNER_PRODUCT)
            best.add(found[0], rows[found[1]])
        return best.candidates()


class _Best:
    """The best k rows of each query so far."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._positions = np.empty((queries, 0), np.int64)
        self._products = np.empty((queries, 0), np.float32)

    def add(self, products: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]) -> None:
        """Take what more rows have, (Q, n)."""
        products = np.concatenate([self._products, products], axis=1)
        positions = np.concatenate([self._positions, positions], axis=1)
        order = np.argsort(-products, axis=1, kind="stable")[:, : self._k]
        self._products = np.take_along_axis(products, order, axis=1)
        self._positions = np.take_along_axis(positions, order, axis=1)

    def candidates(self) -> list[Candidates]:
        """Return them, best first."""
        pairs = zip(self._positions, self._products, strict=True)
        return [Candidates(positions, products) for positions, products in pairs]


class _Scratch(threading.local):
    """A small flat index of each thread, whose rows are written over."""

    def __init__(self) -> None:
        self.index: Any = None

    def of(self, dim: int) -> _Scratch:
        """Make it one of vectors (D,)."""
        if self.index is None or self.index.d != dim:
            kind = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            self.index = faiss.IndexScalarQuantizer(dim, *kind)
            rows = max(1, _SCRATCH_BYTES // (2 * dim))
            self.index.add(np.zeros((rows, dim), np.float32))
            codes = faiss.rev_swig_ptr(self.index.codes.data(), 2 * rows * dim)
            self.codes = codes.reshape(rows, 2 * dim)
        return self


_scratch = _Scratch()


class CandidateIndex:
    """An ANN index whose position i is row i of what it was built from.

    `setting` trades speed for recall: the number of lists that IVF probes, or efSearch of HNSW;
    other kinds have none.
    """

    def __init__(self, index: Any) -> None:
        """Wrap an index, which may begin with a transformation. Raises ValueError."""
        self._owner = index  # the downcast index does not keep it alive
        self._content: Content | None = None  # that the index points into
        self._index = _faiss.downcast_index(index)
        self._is_transformed = isinstance(self._index, faiss.IndexPreTransform)
        inner = _faiss.downcast_index(self._index.index) if self._is_transformed else self._index
        self._is_ivf = isinstance(inner, faiss.IndexIVF)
        self._is_hnsw = isinstance(inner, faiss.IndexHNSW)
        if isinstance(inner, _WRAPPERS):
            raise ValueError(
                f"{type(inner).__name__} is not needed: rows are identified by position, and "
                "hits are scored by their stored vectors"
            )
        if not (self._is_ivf or self._is_hnsw or isinstance(inner, faiss.IndexFlatCodes)):
            raise ValueError(f"{type(inner).__name__} is not supported")
        if self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("it does not rank by inner product")
        self._lists = int(inner.nlist) if self._is_ivf else 0
        if self._is_ivf and self._lists < 1:
            raise ValueError("IVF needs at least one list")

    @classmethod
    def open(cls, content: Content, dim: int, rows: int) -> CandidateIndex:
        """Open a verified file. Raises ValueError if it is not the index it should be."""
        index = cls(_opened(content))
        index._content = content
        if (index._index.d, len(index)) != (dim, rows):
            raise ValueError(f"it holds {len(index)} x {index._index.d}, not {rows} x {dim}")
        return index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def settings(self) -> list[int]:
        """Return the settings worth trying, from fast to thorough."""
        if self._is_ivf:
            return [n for n in _STEPS if n < self._lists] + [self._lists]
        return [n for n in _STEPS if 16 <= n <= 1024] if self._is_hnsw else [1]

    def search(self, queries: Queries, k: int, setting: int, mask: Mask | None) -> list[Candidates]:
        """Return up to k candidates per query among positions that `mask` allows.

        Their products are those of the index's own codes.
        """
        chosen = {}
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")  # must outlive the selector
            chosen["sel"] = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        if self._is_ivf:
            parameters = _faiss.SearchParametersIVF(nprobe=min(setting, self._lists), **chosen)
        elif self._is_hnsw:
            parameters = _faiss.SearchParametersHNSW(efSearch=max(setting, k), **chosen)
        else:
            parameters = _faiss.SearchParameters(**chosen)
        if self._is_transformed:
            parameters = _faiss.SearchParametersPreTransform(index_params=parameters)
        products, positions = self._index.search(queries, min(k, len(self)), params=parameters)
        return [
            Candidates(row[row >= 0], product[row >= 0])
            for row, product in zip(positions, products, strict=True)
        ]


def _opened(content: Content) -> Any:
    """Return the index in a file. Raises ValueError.

    Nothing is copied: it points into the bytes, or into the file, which is mapped into memory.
    """
    if not isinstance(content, int):
        try:
            return _faiss.read_index(_faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.size))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
    path = f"/dev/fd/{os.dup(content)}"
    try:
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read it: {error}") from error
    finally:
        os.close(int(path.rpartition("/")[2]))


def use_one_thread() -> None:
    """Make FAISS use a single thread when called from this thread."""
    faiss.omp_set_num_threads(1)


def search_rows(vectors: Vectors, queries: Queries, k: int, mask: Mask | None) -> list[Candidates]:
    """Return up to k candidates per query among float16 (n, D), without a FAISS file."""
    if not len(positions := np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)):
        return [Candidates(positions, np.empty(0, dtype=np.float32))] * len(queries)
    products = queries @ vectors[positions].astype(np.float32).T
    found = []
    for row in products:
        best = np.argpartition(-row, min(k, len(row)) - 1)[:k]
        best = best[np.argsort(-row[best], kind="stable")]
        found.append(Candidates(positions[best], row[best]))
    return found


def rows_reaching(vectors: Vectors, query: Queries, least: float, mask: Mask | None) -> Candidates:
    """Return all of float16 (n, D), in any order, whose product with (D,) is above `least`."""
    positions = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    products = vectors[positions].astype(np.float32) @ query
    return Candidates(positions[products > least], products[products > least])


def cosines(query: npt.NDArray[np.float32], vectors: Vectors) -> npt.NDArray[np.float32]:
    """Return q·v/|v| of float32 (D,) with float16 (n, D) as float32 (n,), within [-1, 1].

    Summed in double precision: equal rows get equal scores anywhere in a store.
    """
    rows = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    scores = rows @ query.astype(np.float64) / norms
    clipped: npt.NDArray[np.float32] = np.clip(scores, -1.0, 1.0).astype(np.float32)
    return clipped
