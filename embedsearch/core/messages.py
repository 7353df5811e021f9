"""Questions and answers between two processes; in: a record and a file, out: the same there.

Each is a length and JSON over a Unix socket, which can carry the descriptor of a file.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct("<Q")


def send(connection: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send a message, with a copy of a descriptor. Raises OSError if the other end is gone."""
    data = json.dumps(message).encode()
    data = _LENGTH.pack(len(data)) + data
    if descriptor is not None:
        sent = socket.send_fds(connection, [data], [descriptor])
        data = data[sent:]
    connection.sendall(data)


def receive(
    connection: socket.socket, waiting: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], int | None] | None:
    """Return the next message and its descriptor, which the caller closes; None at the end.

    `waiting` is called whenever the connection's time is over; what it raises ends the wait.
    """
    descriptors: list[int] = []
    try:
        head = _read(connection, _LENGTH.size, waiting, descriptors)
        size: int = _LENGTH.unpack(head)[0] if head else 0
        data = _read(connection, size, waiting, descriptors)
    except BaseException:
        for each in descriptors:
            os.close(each)
        raise
    if not data:
        return None
    return json.loads(data), descriptors[0] if descriptors else None


def _read(
    connection: socket.socket, size: int, waiting: Callable[[], None], descriptors: list[int]
) -> bytes:
    """Return so many bytes, or none if the other end is gone; collect descriptors."""
    data = bytearray()
    while len(data) < size:
        try:
            part, found, _, _ = socket.recv_fds(connection, min(size - len(data), 1 << 20), 1)
        except TimeoutError:
            waiting()
            continue
        except ConnectionResetError:
            part, found = b"", []
        descriptors += found
        if not part:
            return b""
        data += part
    return bytes(data)
