"""The records that the packages exchange.

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

from embedsearch.core.names import FULL_PATH, PATHS, path_fields, unicode_text
from embedsearch.core.paths import is_url
from embedsearch.core.scores import PICTURE

UNIT_NORM_TOLERANCE = 1e-4


class JsonRecord:
    """A dataclass whose fields can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return _fields(self)


class Stage(StrEnum):
    """The stage at which a file failed."""

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
    NOT_FINITE = "not_finite"  # the network returned NaN or infinity
    BROKEN_ARCHIVE = "broken_archive"  # truncated, or not an archive
    DUPLICATE_NAME = "duplicate_name"  # the archive has another member of this name
    UNSAFE_NAME = "unsafe_name"  # a member's name points outside the archive
    ENCRYPTED = "encrypted"
    OVER_BOUND = "over_bound"  # an archive or a server goes beyond one of core/bounds.py

    @property
    def is_passing(self) -> bool:
        """Return whether the same bytes may be readable on the next run, which then retries."""
        return self in _PASSING


_PASSING = frozenset({Reason.PERMISSION, Reason.VANISHED, Reason.CHANGED, Reason.IO_ERROR})


class RootKind(StrEnum):
    """The kind of a root."""

    FOLDER = "folder"
    LIST = "list"  # files named one by one; their keys are paths below `/`
    TAR = "tar"
    ZIP = "zip"
    PARQUET = "parquet"  # a column of image files


@dataclass(frozen=True)
class Root:
    """A source of images: `path` is absolute, as returned by `os.fsdecode`, or a URL."""

    id: int
    path: str
    kind: RootKind = RootKind.FOLDER
    synced: str = ""  # for archives: the version that a run last scanned completely

    @property
    def is_remote(self) -> bool:
        """Return whether it is a URL."""
        return is_url(self.path)

    @property
    def is_folder_here(self) -> bool:
        """Return whether it is a folder of this machine, whose images are files."""
        return self.kind is RootKind.FOLDER and not self.is_remote

    @property
    def has_files_here(self) -> bool:
        """Return whether its images are files of this machine, in a folder or named one by one."""
        return self.is_folder_here or self.kind is RootKind.LIST


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One file of a root. `key` is its path inside the root, as returned by `os.fsdecode`."""

    root: int
    key: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file: `length` bytes from `start` on, `size` bytes when unpacked."""

    start: int
    length: int
    size: int
    crc: int | None = None  # CRC-32 of the unpacked bytes; None if unknown
    is_deflated: bool = False


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """The location of an image's bytes: the file `key` below `folder`, or a part of it.

    Size and time are those of the file when it was listed; a size of -1 accepts any. A file that
    `is_ours` is temporary, only for this image; it is removed once the image is decoded. With a
    `digest` nothing is decoded but bytes of this sha256, so nothing is shown but what was indexed,
    whatever lies there by now. Links below `folder` are followed with a `digest`, or where a scan
    has just done so (`follows`).
    """

    folder: str
    key: str
    size: int = -1
    mtime_ns: int = -1
    part: ByteRange | None = None
    is_ours: bool = False
    follows: bool = False
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an upright picture, in pixels; x and y are its top left corner."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"the crop {self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A file (or, at stage `scan`, a folder, an archive or a name in it) that failed."""

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
    """What is measured of a picture without a network, in its luma, 0 to 255, squashed.

    `signature` is uint8 (16, 16), row by row, upright. Copies of a picture, even gray, smaller or
    more compressed, have nearly the same signature.
    """

    brightness: float  # the mean, 0 to 1
    sharpness: float  # the variance of the Laplacian at 128 × 128
    signature: bytes


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The facts of an image file. Width and height are those of the upright picture."""

    width: int
    height: int
    format: str
    digest: bytes  # sha256 of the file, 32 bytes
    taken_at: datetime | None = None  # local time of the camera, EXIF knows no zone
    camera: str | None = None
    gps: tuple[float, float] | None = None  # degrees: latitude, longitude
    truncated: bool = False
    has_more: bool = False  # pages or frames behind the first
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
    off = np.flatnonzero(~(np.abs(norms - 1.0) <= UNIT_NORM_TOLERANCE))  # NaN is off too
    if off.size:
        raise ValueError(f"row {off[0]} is not a unit vector: its norm is {norms[off[0]]:.6g}")


@dataclass(frozen=True)
class StoredImage:
    """The stored facts of the image in one row; `key` is the exact bytes of its path."""

    row: int
    root: int
    key: bytes
    width: int
    height: int


NO_DIGEST = bytes(32)  # of a vector that was imported: its file was not read


@dataclass(frozen=True)
class StoredPlace:
    """Where the image of a row was when it was indexed: a key below the path of its root.

    Width and height are those of the upright picture, 0 if they are unknown.
    """

    root: str
    key: str
    digest: bytes | None  # sha256 of the file, None of an imported vector
    width: int
    height: int


@dataclass(frozen=True)
class ImageRecord(JsonRecord):
    """An image of the store. Its `row` stays the same until the file changes.

    `path` is the path inside its folder, archive or bucket, as filters compare it, and `full_path`
    the whole path or URL. `key` is the exact form of `path`. Width and height are those of the
    upright picture; unknown values are 0, "" or None.
    """

    row: int
    path: str
    full_path: str
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
    """The k nearest rows of one query, and all that tie with the kth, unordered.

    `ordinals` int64 (c,) are row numbers in the concatenated shards; `scores` float32 (c,) are
    cosines.
    """

    ordinals: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit(JsonRecord):
    """One image found. `rank` counts from 1; higher scores are better.

    `score` is the cosine with an image that was searched for, in [-1, 1], and `words_score` BM25 of
    a text, at least 0; each is None where that did not find the image. `matched` names what did:
    `picture`, or the columns with words of the text. `rank_score` orders hits that were re-ranked,
    in [-1, 1], or found by an image and a text, by reciprocal ranks; others have None.

    `row` is the image's number in the store, the same until the file changes. `path` is the path
    inside its folder, archive or bucket, as filters compare it, and `full_path` the whole path or
    URL. `key` is the exact form of `path`. `percentile` is the
    percentage of random pairs of the store's images that have a lower cosine; None if the store
    has too few images.
    """

    rank: int
    score: float | None
    percentile: float | None
    row: int
    path: str
    full_path: str
    key: str
    width: int
    height: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rank_score: float | None = None
    words_score: float | None = None
    matched: tuple[str, ...] = (PICTURE,)

    @property
    def ranked_by(self) -> float:
        """Return the score that the hits of a query are ordered by."""
        scores = (self.rank_score, self.score, self.words_score)
        return next(score for score in scores if score is not None)


@dataclass(frozen=True)
class Progress:
    """The progress of a run: images done, including failed ones, of all to be embedded."""

    done: int
    total: int
    failed: int
    elapsed_s: float
    note: str = ""  # an additional remark

    @property
    def rate(self) -> float:
        """Return images/s since the run began."""
        return self.done / self.elapsed_s if self.elapsed_s else 0.0


def _fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, JSON-ready; beside `full_path`, `path` and exact bytes."""
    values: dict[str, Any] = {}
    for item in fields(record):
        if item.name not in PATHS or not hasattr(record, FULL_PATH):
            values[item.name] = json_ready(getattr(record, item.name))
        elif FULL_PATH not in values:  # all four where the first of them stands
            values |= path_fields(record.key, record.full_path)
    return values


def json_ready(value: Any) -> Any:
    """Return a value that JSON can hold: valid Unicode, times in ISO 8601, null for NaN."""
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, Mapping):
        return {unicode_text(str(name)): json_ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if is_dataclass(value):
        return _fields(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)
