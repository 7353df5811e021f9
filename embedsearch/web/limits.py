"""The bounds of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from types import MappingProxyType


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


_SHARES: Mapping[Kind, Share] = MappingProxyType(
    {
        Kind.RECORDS: Share(8, 32),
        Kind.PICTURES: Share(8, 32),
        Kind.FILTERS: Share(4, 32),
        Kind.THUMBNAILS: Share(8, 64),
        Kind.REMOTE: Share(4, 32),
        Kind.ORIGINALS: Share(8, 64),
        Kind.VIEWS: Share(1, 16),
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
    shares: Mapping[Kind, Share] = field(default_factory=lambda: _SHARES)
