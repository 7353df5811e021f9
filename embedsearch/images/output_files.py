"""Files that users name for an output; in: their paths, out: temporary files that become them.

None replaces a picture: a name that was completed wrongly must not cost a photo.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedsearch.core.atomic import in_place
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path, printable
from embedsearch.images.sources.kinds import HEAD_BYTES, has_image_name, starts_an_image

SHEET_TAG = ("Software", "embedsearch")  # of PNG; a contact sheet may be drawn again
_TAGGED = b"tEXt" + "\0".join(SHEET_TAG).encode()
_TAG_BYTES = 64  # of a PNG, in which the tag lies


@contextlib.contextmanager
def output_files(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths; on success they become `files`, else they are removed.

    Raises UsageError for a picture that is not one of our contact sheets, and StorageError.
    """
    for file in files:
        if _is_picture(local_path(file)):
            raise UsageError(
                f"{printable(os.fspath(file))} is a picture, which is not replaced: name another "
                "file to write"
            )
    with in_place(files) as temporary:
        yield temporary


def _is_picture(path: str) -> bool:
    """Return whether a picture is there, by its content or by its name. An empty file is none."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return False
        with open(path, "rb") as file:
            head = file.read(_TAG_BYTES)
    except OSError:  # nothing is there, or writing will say what is wrong
        return False
    is_one = starts_an_image(head[:HEAD_BYTES]) or has_image_name(
        os.path.basename(os.fsencode(path))
    )
    return is_one and _TAGGED not in head
