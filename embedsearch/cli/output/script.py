"""What could be deleted, as a shell script to read first; in: groups of copies, out: its bytes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedsearch.core.atomic import in_place

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


def write_script(path: Path, groups: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Write a script for groups of (path to keep, (path of a copy, why it is one) …).

    Raises StorageError.
    """
    with in_place([path]) as (temporary,), temporary.open("wb") as file:
        file.write(_HEAD.format(name=shlex.quote(path.name)).encode())
        for number, (keep, copies) in enumerate(groups, start=1):
            file.write(f"\n# group {number}\n".encode())
            for copy, why in copies:
                words = f"remove {shlex.quote(keep)} {shlex.quote(copy)}"
                file.write(os.fsencode(words) + f"  # {why}\n".encode())
