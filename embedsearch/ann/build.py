"""Vectors to the bytes of a flat fp16 FAISS file; in: float16 rows, out: a file for `search`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_PIECE_BYTES = 1 << 20


def build_flat(dim: int, vectors: Iterable[npt.NDArray[np.float16]]) -> list[bytes]:
    """Return, in pieces, a serialised inner-product index whose position i is row i of `vectors`.

    Codes are fp16, so the rows are kept bit for bit. FAISS does not write the file itself: on a
    full disk it can return normally with a file of 0 bytes.
    """
    import faiss  # not before there is something to build: a run without changes does without

    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for rows in vectors:
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
    # In pieces: `serialize_index` would hold the whole three times over while it grows.
    pieces: list[bytes] = []
    library: Any = faiss  # its stubs leave this writer out
    faiss.write_index(index, library.PyCallbackIOWriter(pieces.append, _PIECE_BYTES))
    return pieces
