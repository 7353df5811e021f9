"""A file is written under a temporary name, then renamed in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedsearch.core.errors import StorageError
from embedsearch.core.paths import local_path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path`; readers see the old or the new bytes. Raises OSError."""
    temporary = path.with_name(f"tmp-{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def in_place(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths; on success they are renamed to `files`, else they are removed.

    Raises StorageError if that fails.
    """
    files = [Path(local_path(file)) for file in files]
    temporary = [file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in files]
    try:
        yield temporary
        for written, file in zip(temporary, files, strict=True):
            written.replace(file)
    except OSError as error:
        raise StorageError(f"{files[0]}: {error.strerror or error}") from error
    finally:
        for written in temporary:
            written.unlink(missing_ok=True)
