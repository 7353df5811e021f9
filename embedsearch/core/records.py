"""The records that rooms exchange.

Letters in shapes: B images in a batch, D embedding dim, S input side in pixels, Q queries, k hits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.paths import is_url

UNIT_NORM_TOLERANCE = 1e-4


class JsonRecord:
    """A dataclass whose fields can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        values: dict[str, Any] = _json_ready(vars(self))
        return values


class Stage(StrEnum):
    """Where in the flow a file was given up."""

    SCAN = "scan"
    READ = "read"
    DECODE = "decode"
    EMBED = "embed"


class Reason(StrEnum):
    """Why a file could not be indexed: the closed set that `failures` reports."""

    PERMISSION = "permission"
    VANISHED = "vanished"
    CHANGED = "changed"
    IO_ERROR = "io_error"
    NAME_TOO_LONG = "name_too_long"
    NOT_REGULAR = "not_regular"
    EMPTY = "empty"
    TOO_BIG = "too_big"  # more bytes than max_bytes
    TOO_LARGE = "too_large"  # more pixels than max_pixels
    ZERO_SIZE = "zero_size"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_MODE = "unsupported_mode"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    METADATA_BOMB = "metadata_bomb"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    DECODER_CRASH = "decoder_crash"
    NOT_FINITE = "not_finite"  # the network gave NaN or infinity
    BROKEN_ARCHIVE = "broken_archive"  # cut, or no archive at all
    DUPLICATE_NAME = "duplicate_name"  # an archive holds another member of this name
    UNSAFE_NAME = "unsafe_name"  # a member's name leads out of its archive
    ENCRYPTED = "encrypted"

    @property
    def is_passing(self) -> bool:
        """True where the same bytes may well be readable on the next run, which then retries."""
        return self in _PASSING


_PASSING = frozenset({Reason.PERMISSION, Reason.VANISHED, Reason.CHANGED, Reason.IO_ERROR})


class RootKind(StrEnum):
    """What a root is."""

    FOLDER = "folder"
    LIST = "list"  # files that were named one by one, with keys from `/` on
    TAR = "tar"
    ZIP = "zip"
    PARQUET = "parquet"  # a column of image files


@dataclass(frozen=True)
class Root:
    """A place of images: `path` is absolute, as `os.fsdecode` gives it, or a URL."""

    id: int
    path: str
    kind: RootKind = RootKind.FOLDER
    synced: str = ""  # the version of a file that holds images which a run went through to its end

    @property
    def is_remote(self) -> bool:
        """Return whether it is a URL."""
        return is_url(self.path)

    @property
    def is_local_folder(self) -> bool:
        """Return whether its images are files of their own on this machine."""
        return self.kind in {RootKind.FOLDER, RootKind.LIST} and not self.is_remote


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One file of a root. `key` is its path inside the root, as `os.fsdecode` gives it."""

    root: int
    key: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file: `length` bytes from `start` on, `size` of them once they are unpacked."""

    start: int
    length: int
    size: int
    crc: int | None = None  # CRC-32 of what was unpacked; None where the file does not say it
    is_deflated: bool = False


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where the bytes of an image lie: the file `key` below `folder`, or a part of it.

    Size and time are those that the file had when it was listed; a size of -1 accepts any. A file
    that `is_ours` was made for this image alone, and is removed once that is decoded.
    """

    folder: str
    key: str
    size: int = -1
    mtime_ns: int = -1
    part: ByteRange | None = None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an upright picture, in its pixels; x and y are those of its top left."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"the crop {self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A file (or, at stage `scan`, a folder, an archive or a name in it) that was given up."""

    root: int
    key: str
    stage: Stage
    reason: Reason
    detail: str
    size: int = -1
    mtime_ns: int = -1


SIDECARS = "sidecars"  # the source of user columns that are in no table
SIGNATURE_SIDE = 16


@dataclass(frozen=True, slots=True)
class Appearance:
    """What can be seen of a picture without a network, in its luma, 0 to 255, squashed.

    `signature` is uint8 (16, 16), row by row, upright: copies of a picture, grey or smaller or
    compressed harder, have nearly the same.
    """

    brightness: float  # the mean, 0 to 1
    sharpness: float  # the variance of the Laplacian at 128 × 128
    signature: bytes


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a file says about its picture. Width and height are those of the upright picture."""

    width: int
    height: int
    format: str
    digest: bytes  # sha256 of the file, 32 bytes
    taken_at: datetime | None = None  # local time of the camera, EXIF knows no zone
    camera: str | None = None
    gps: tuple[float, float] | None = None  # degrees: latitude, longitude
    truncated: bool = False
    look: Appearance | None = None


@dataclass(frozen=True)
class ImageBatch:
    """Decoded images: refs and facts len B, pixels uint8 (B, S, S, 3) RGB upright."""

    refs: Sequence[ImageRef]
    facts: Sequence[ImageFacts]
    pixels: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not len(self.refs) == len(self.facts) == len(self.pixels):
            raise ValueError("refs, facts and pixels of an ImageBatch differ in length")
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[3] != 3:
            raise ValueError(f"pixels must be uint8 (B, S, S, 3), got {self.pixels.shape}")


@dataclass(frozen=True)
class EmbeddingBatch:
    """Embeddings: refs and facts len B, vectors float32 (B, D), finite, unit rows."""

    refs: Sequence[ImageRef]
    facts: Sequence[ImageFacts]
    vectors: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.dtype != np.float32 or self.vectors.ndim != 2:
            raise ValueError(f"vectors must be float32 (B, D), got {self.vectors.shape}")
        if not len(self.refs) == len(self.facts) == len(self.vectors):
            raise ValueError("refs, facts and vectors of an EmbeddingBatch differ in length")
        check_unit_rows(self.vectors)


def check_unit_rows(vectors: npt.NDArray[np.float32]) -> None:
    """Raise ValueError unless every row of float32 (B, D) is finite with norm 1 within 1e-4."""
    norms = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    off = np.flatnonzero(~(np.abs(norms - 1.0) <= UNIT_NORM_TOLERANCE))  # NaN is off, too
    if off.size:
        raise ValueError(f"row {off[0]} is no unit vector: its norm is {norms[off[0]]:.6g}")


@dataclass(frozen=True)
class StoredImage:
    """What a store knows of the image in one row; `key` is the exact bytes of its path."""

    row: int
    root: int
    key: bytes
    width: int
    height: int


@dataclass(frozen=True)
class ImageRecord(JsonRecord):
    """An image of the store. Its `row` stays the same until the file changes.

    Width and height are those of the upright picture; all that is not known is 0, "" or None.
    """

    row: int
    path: str
    key: str
    width: int
    height: int
    format: str
    size_bytes: int
    taken_at: datetime | None  # local time of the camera, EXIF knows no zone
    camera: str | None
    gps: tuple[float, float] | None  # degrees: latitude, longitude
    brightness: float | None  # mean luma, 0 to 1
    sharpness: float | None  # variance of the Laplacian of the luma at 128 × 128
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Neighbors:
    """Of one query the k nearest rows, and all that tie with the kth, in no order.

    `ordinals` int64 (c,) count the shard rows end to end; `scores` float32 (c,) are cosines.
    """

    ordinals: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit(JsonRecord):
    """One neighbor. `rank` counts from 1; `score` is the cosine in [-1, 1], higher is nearer.

    `row` is the image's number in the store, the same until the file changes. `percentile` says
    how many of 100 pairs of images of the store, drawn at random, have a lower cosine; None where
    the store has too few to tell.
    """

    rank: int
    score: float
    percentile: float | None
    row: int
    path: str
    key: str
    width: int
    height: int
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ignored:
    """Directory entries that are not images for us, by kind; they are no part of `found`."""

    hidden: int = 0
    links: int = 0
    special: int = 0  # FIFO, socket, device
    other_suffix: int = 0

    def __add__(self, other: Ignored) -> Ignored:
        """Return the counts of both."""
        return Ignored(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def total(self) -> int:
        """Return the number of ignored entries."""
        return self.hidden + self.links + self.special + self.other_suffix


@dataclass(frozen=True)
class Progress:
    """How far a run is: images done, failed ones among them, of all that need embedding."""

    done: int
    total: int
    failed: int
    elapsed_s: float
    note: str = ""  # what else there is to say

    @property
    def rate(self) -> float:
        """Return images/s since the run began."""
        return self.done / self.elapsed_s if self.elapsed_s else 0.0


def _json_ready(value: Any) -> Any:
    """Return what JSON can hold: times in ISO 8601, null for what is no number."""
    if isinstance(value, Mapping):
        return {str(name): _json_ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if is_dataclass(value):
        return {item.name: _json_ready(getattr(value, item.name)) for item in fields(value)}
    return value.isoformat() if isinstance(value, date | time) else str(value)
