"""A shell script that deletes copies, to read first; in: groups of copies, out: one file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from embedsearch.core.atomic import in_place
from embedsearch.curation.duplicates import DuplicateGroup

_HEAD = """#!/bin/sh
# Copies that embedsearch found. Nothing has been deleted. Read this, remove the lines of pictures
# that you want to keep, then run it:  sh {name}
# A copy is deleted only if the picture to keep exists.
remove() {{
    if [ -f "$1" ] && [ ! -h "$1" ] && [ ! "$1" -ef "$2" ]; then
        rm -- "$2"
    else
        printf 'not deleted, the picture to keep is missing: %s\\n' "$2" >&2
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
