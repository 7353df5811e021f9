"""The bounds of a server; in: how many requests run at once and how many wait, out: all bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from types import MappingProxyType

from embedsearch.core.errors import UsageError

CONCURRENCY, QUEUE = 8, 32
_MAX_CONCURRENCY = 256  # each is a thread
_MAX_QUEUE = 10_000


class Kind(StrEnum):
    """What a request works with. Each kind has turns of its own: none holds up another."""

    RECORDS = auto()  # searches by row or vector, records, lists
    PICTURES = auto()  # searches by a picture that is decoded and embedded
    FILTERS = auto()  # whatever has a condition or words
    THUMBNAILS = auto()
    REMOTE = auto()  # what is fetched from another server
    ORIGINALS = auto()  # the files themselves, read in pieces
    VIEWS = auto()  # copies, groups and maps of the whole store, which take seconds


@dataclass(frozen=True)
class Share:
    """How many requests of a kind are worked on, and how many wait for that."""

    running: int
    waiting: int


# Of the concurrency and of the queue. Conditions, and what another server answers, are slower; a
# page asks for many thumbnails at once; a view takes all processors as it is.
_WEIGHTS: Mapping[Kind, tuple[float, float]] = MappingProxyType(
    {
        Kind.RECORDS: (1, 1),
        Kind.PICTURES: (1, 1),
        Kind.FILTERS: (1 / 2, 1),
        Kind.THUMBNAILS: (1, 2),
        Kind.REMOTE: (1 / 2, 1),
        Kind.ORIGINALS: (1, 2),
        Kind.VIEWS: (0, 1 / 2),
    }
)


def shares(concurrency: int = CONCURRENCY, queue: int = QUEUE) -> Mapping[Kind, Share]:
    """Return how many requests of each kind run and wait. Raises UsageError."""
    for value, name, least, most in (
        (concurrency, "concurrency", 1, _MAX_CONCURRENCY),
        (queue, "queue", 0, _MAX_QUEUE),
    ):
        if not least <= value <= most:
            raise UsageError(f"{name}={value}: a number from {least} to {most:,} is needed", name)
    return MappingProxyType(
        {
            kind: Share(max(1, math.ceil(concurrency * running)), math.ceil(queue * waiting))
            for kind, (running, waiting) in _WEIGHTS.items()
        }
    )


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of a server. A request beyond them is refused; others are still served."""

    body_bytes: int = 20 << 20
    json_bytes: int = 1 << 20
    json_values: int = 100_000  # numbers, texts, lists and objects of a body
    bodies_bytes: int = 200 << 20  # of all requests together, while they are read and answered
    small_bodies_bytes: int = 64 << 20  # of those up to `json_bytes`
    headers_bytes: int = 64 << 10  # the request line and all headers
    header_bytes: int = 16 << 10  # a single one
    headers_s: float = 10.0
    body_s: float = 30.0
    export_bytes: int = 4 << 30  # of the files in one archive
    answer_s: float = 30.0  # for a client to read more of its answer
    idle_s: float = 5.0  # between two requests of a connection
    connections: int = 512
    shares: Mapping[Kind, Share] = field(default_factory=shares)
