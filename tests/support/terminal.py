"""A terminal of some width, and what is shown on it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios


def open_terminal(columns: int) -> tuple[int, int]:
    """Return the descriptors of a terminal: the one that sees it, and the one for a program."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return master, slave


def all_shown(master: int) -> bytes:
    """Return what programs show until the last one has closed the terminal, and close it."""
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: the last one has closed it
            break
        if not data:
            break
        shown += data
    os.close(master)
    return shown
