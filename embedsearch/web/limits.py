"""What a server allows, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of a server; what is beyond them is refused, and others go on being served."""

    body_bytes: int = 20 << 20
    json_bytes: int = 1 << 20
    bodies_bytes: int = 200 << 20  # of all requests together, while they are read and answered
    headers_bytes: int = 64 << 10  # the request line and all headers
    header_bytes: int = 16 << 10  # a single one
    headers_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 30.0  # for a client to take more of its answer
    idle_s: float = 5.0  # between two requests of a connection
    connections: int = 512
    running: int = 8  # requests that are worked on
    waiting: int = 32  # requests that wait for that
