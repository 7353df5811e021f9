"""The store's own center; in: unit vectors of a network, out: unit vectors measured from it.

Images of one collection have much in common, and so have their vectors. Measured from their mean,
they rank better (benchmarks/QUALITY.md). Shards keep the vectors of the network, which go with
those of other stores; whatever is compared is measured here, by `Center`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import CENTERS, MODEL_CENTER, NO_CENTER
from embedsearch.core.unknown_fields import replaced

STORE_SHARE = 0.8  # of the mean of the store's images, be they few or many
MODEL_SHARE = 0.6  # of the mean as estimated from the model's weights
_GROWN = 2.0  # times as many images: the center may be recomputed
_MOVED = 0.02  # and is, if it would move by as much
_DRIFTED = 0.05  # however many images came
_LONGEST = 0.95  # a center: what is measured from it must keep a length

Unit = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class CenterRecord:
    """What a manifest knows of the center.

    Vectors are float32 (D,), little-endian, in Base64. `vector` is what is subtracted, none if it
    is empty; it was made of the mean of `images` images. `mean` is that of all `seen` images that
    were ever added, from which the center can be recomputed.
    """

    kind: str
    images: int = 0
    vector: str = ""
    seen: int = 0
    mean: str = ""

    def check(self, dim: int) -> None:
        """Raise ValueError for what cannot be a center of vectors of `dim` components."""
        if self.kind not in CENTERS:
            raise ValueError(f"no center is of the kind {self.kind!r}")
        for text in (self.vector, self.mean):
            length = float(np.linalg.norm(_unpacked(text, dim)))
            if not length <= 1.0 + 1e-3:
                raise ValueError("a center is no mean of unit vectors")
        Center.of(self, dim)

    def added(self, total: npt.NDArray[np.float64], count: int) -> CenterRecord:
        """Return the record after `count` images were added, whose vectors sum to `total`, (D,)."""
        if not count:
            return self
        before = self.seen * _unpacked(self.mean, len(total)).astype(np.float64)
        seen = self.seen + count
        return replaced(self, seen=seen, mean=_packed((before + total) / seen))

    def taken(self, expected: Unit) -> CenterRecord:
        """Return the record with its center made of the images seen, or of what is expected."""
        if self.kind == NO_CENTER:
            return replaced(self, images=0, vector="")
        if self.kind == MODEL_CENTER:
            return replaced(self, images=0, vector=_packed(MODEL_SHARE * expected))
        mean = _unpacked(self.mean, len(expected))
        return replaced(self, images=self.seen, vector=_packed(STORE_SHARE * mean))

    def is_out_of_date(self, newer: CenterRecord, dim: int) -> bool:
        """Return whether the center should be that of the newer record."""
        if (self.kind, bool(self.vector)) != (newer.kind, bool(newer.vector)):
            return True
        ours, theirs = (_unpacked(record.vector, dim) for record in (self, newer))
        moved = float(np.linalg.norm(ours - theirs))
        has_grown = max(newer.images, 1) >= _GROWN * max(self.images, 1)
        return moved > (_MOVED if has_grown else _DRIFTED)


class Center:
    """A center that vectors are measured from."""

    def __init__(self, vector: Unit) -> None:
        self._vector = vector  # float32 (D,)

    @classmethod
    def of(cls, record: CenterRecord | None, dim: int) -> Center | None:
        """Return the center of a record, None where vectors are compared as they are.

        Raises ValueError.
        """
        if record is None or not record.vector:
            return None
        vector = _unpacked(record.vector, dim)
        if not float(np.linalg.norm(vector)) <= _LONGEST:
            raise ValueError("the center is too far out")
        return cls(vector)

    def measured(self, vectors: Unit) -> Unit:
        """Return unit vectors (…, D), measured from the center, of unit vectors (…, D)."""
        return _units(vectors.astype(np.float32) - self._vector)

    def rows(self, vectors: Half) -> Half:
        """Return what search compares, float16 (n, D), of stored vectors, float16 (n, D)."""
        return self.measured(vectors.astype(np.float32)).astype(np.float16)

    def plain(self, measured: Unit) -> Unit:
        """Return the unit vectors (…, D) that `measured` makes these of."""
        units = _units(measured.astype(np.float32))
        along = (units @ self._vector)[..., None]
        rest = 1.0 - float(self._vector @ self._vector)
        return _units((np.sqrt(along**2 + rest) - along) * units + self._vector)


def mean_sum(parts: Iterable[Half], dim: int) -> tuple[npt.NDArray[np.float64], int]:
    """Return the sum of vectors, float64 (D,), and how many they are."""
    total, count = np.zeros(dim), 0
    for part in parts:
        total += part.astype(np.float32).sum(axis=0, dtype=np.float64)
        count += len(part)
    return total, count


def _units(vectors: Unit) -> Unit:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Unit = vectors / lengths
    return units


def _packed(vector: npt.NDArray[np.floating]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _unpacked(text: str, dim: int) -> Unit:
    """Return float32 (D,), zeros for an empty text. Raises ValueError."""
    if not text:
        return np.zeros(dim, np.float32)
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise ValueError(f"a center has {dim} finite components")
    return vector.astype(np.float32)
