"""What could be deleted, as a shell script to read first; in: groups of copies, out: its bytes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from embedsearch.core.atomic import in_place
from embedsearch.curation.duplicates import DuplicateGroup

_HEAD = """#!/bin/sh
# Copies that embedsearch found. Nothing has been deleted. Read this, take out the lines of pictures
# that are to stay, then run it:  sh {name}
# A copy goes only while the picture that is kept is there.
remove() {{
    if [ -f "$1" ] && [ ! -h "$1" ] && [ ! "$1" -ef "$2" ]; then
        rm -- "$2"
    else
        printf 'left alone, what is kept instead is not there: %s\\n' "$2" >&2
    fi
}}
"""


def write_script(path: Path, groups: Iterable[DuplicateGroup]) -> None:
    """Write a script for groups of copies. Raises StorageError."""
    with in_place([path]) as (temporary,), temporary.open("wb") as file:
        file.write(_HEAD.format(name=shlex.quote(path.name)).encode())
        for number, group in enumerate(groups, start=1):
            file.write(f"\n# group {number}\n".encode())
            for copy in group.copies:
                names = [shlex.quote(picture.path) for picture in (group.keep, copy.picture)]
                line = f"remove {' '.join(names)}"
                file.write(os.fsencode(line) + f"  # {copy.how} {copy.score:.3f}\n".encode())
