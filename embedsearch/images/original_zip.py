"""Original files in one ZIP, as it is sent; in: how to open each, out: its pieces."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from embedsearch.core.errors import EmbedSearchError, Interrupted, UnreadableImage
from embedsearch.core.paths import printable
from embedsearch.images.original_file import OriginalFile
from embedsearch.images.safe_name import UniqueNames

LEFT_OUT = "not_included.txt"
_YEARS = range(1980, 2108)  # that a ZIP can tell


@dataclass(frozen=True)
class Wanted:
    """A file for the archive: the key that it is named by, and how it is opened."""

    key: str
    open: Callable[[], OriginalFile]


def zip_pieces(
    files: Iterable[Wanted], max_bytes: int, missing: Sequence[str] = ()
) -> Iterator[bytes]:
    """Yield a ZIP of files as they are, uncompressed; none is held in memory.

    What cannot be opened, and what goes beyond `max_bytes`, is listed in a member of its own,
    after the lines `missing`. Raises UnreadableImage for a file that changes while it is read.
    """
    made, names, left = _Made(), UniqueNames(), max_bytes
    names.of(LEFT_OUT)
    lines = list(missing)
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for wanted in files:
            try:
                file = wanted.open()
            except Interrupted:
                raise
            except EmbedSearchError as error:
                why = error.reason if isinstance(error, UnreadableImage) else "it cannot be read"
                lines.append(f"{printable(wanted.key)}: {why}")
                continue
            with file:
                if file.size > left:
                    lines.append(f"{printable(wanted.key)}: the archive would be too large")
                    continue
                left -= file.size
                info = zipfile.ZipInfo(names.of(wanted.key), _date(file.modified_s))
                info.external_attr = 0o644 << 16
                info.file_size = file.size
                with archive.open(info, "w") as member:
                    for piece in file.pieces():
                        member.write(piece)
                        yield made.taken()
        if lines:
            text = "These files are not in the archive:\n\n" + "\n".join(lines) + "\n"
            archive.writestr(LEFT_OUT, text)
    yield made.taken()


class _Made:
    """A file that cannot be read or wound back: what was written to it is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: what was made is still taken away."""

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _date(seconds: float) -> tuple[int, int, int, int, int, int]:
    found = time.localtime(seconds)
    return found[:6] if found.tm_year in _YEARS else (1980, 1, 1, 0, 0, 0)
