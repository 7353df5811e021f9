"""FAISS, with the fastest products that its own OpenBLAS has for this processor; out: `faiss`.

The wheel's OpenBLAS is of 2021 and takes a newer processor for one of 2004 to 2008, which makes
products four times slower. It is told the kind of core by the processor's flags before it is
loaded, unless the user told it (OPENBLAS_CORETYPE). benchmarks/RESULTS.md has the figures.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_VARIABLE = "OPENBLAS_CORETYPE"
# OpenBLAS's names of kinds of cores, best first, and the flags of Linux that their kernels need.
_CORES = (
    ("SKYLAKEX", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("HASWELL", {"avx2", "fma"}),
)
_CHECKED = (40, 70, 130)  # rows, queries, dims of the first products
_CLOSE = 1e-4  # of sums of products of lengths of 1
_NEVER = 2**31 - 1


def core_type(flags: Set[str]) -> str | None:
    """Return OpenBLAS's name of the kind of core with these flags, None for one it knows itself."""
    return next((name for name, needed in _CORES if needed <= flags), None)


def processor_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """Return the flags of the processor; none on another system."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def kernels() -> str:
    """Return the name of the kind of core whose products FAISS uses, "" if that is not known."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split()[-1] for line in maps if "openblas" in line and "faiss" in line)
        name: Any = ctypes.CDLL(path).openblas_get_corename
    except (OSError, StopIteration, AttributeError):
        return ""
    name.restype = ctypes.c_char_p
    return str(name().decode())


@contextmanager
def _told(core: str | None) -> Iterator[None]:
    """Tell OpenBLAS the kind of core while it is loaded; child processes do not inherit it."""
    if core is None or _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = core
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def products_are_right(library: Any) -> bool:
    """Return whether FAISS's products by OpenBLAS are NumPy's."""
    rows, queries, dim = _CHECKED
    # Numbers without a pattern; loading NumPy's own of chance takes longer than the products.
    numbers = np.sin(np.arange(1, (rows + queries) * dim + 1, dtype=np.float64) ** 2)
    numbers = numbers.astype(np.float32).reshape(-1, dim) / np.float32(dim**0.5)
    a, b = numbers[:rows], numbers[rows:]
    usual = library.cvar.distance_compute_blas_threshold  # of sizes below it OpenBLAS is spared
    library.cvar.distance_compute_blas_threshold = 0
    threads = library.omp_get_max_threads()
    library.omp_set_num_threads(1)  # OpenMP's threads do not outlive a fork, and it waits for them
    index = library.IndexFlatIP(dim)
    index.add(a)
    scores, ids = index.search(b, rows)
    library.omp_set_num_threads(threads)
    library.cvar.distance_compute_blas_threshold = usual
    found = np.take_along_axis(scores, np.argsort(ids, axis=1), axis=1)
    return bool(np.abs(found - b @ a.T).max() < _CLOSE)


_is_new = "faiss" not in sys.modules
with _told(core_type(processor_flags())):
    import faiss as faiss

if _is_new and not products_are_right(faiss):  # then without OpenBLAS: slower, and right
    faiss.cvar.distance_compute_blas_threshold = _NEVER
