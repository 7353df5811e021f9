"""A file written aside, then put in place in one step."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: whoever opens it finds the old bytes or the new. Raises OSError."""
    temporary = path.with_name(f"tmp-{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
