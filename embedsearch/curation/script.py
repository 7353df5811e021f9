"""A shell script that deletes or moves copies, to read first; in: groups of copies, out: one file.

When it runs, hours may have passed. So each line carries the size, time and sha256 that both files
had when they were compared, and a copy goes only if both are still the same.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from embedsearch.core.arguments import checked
from embedsearch.core.paths import local_path, printable
from embedsearch.curation.collection import Picture
from embedsearch.curation.copies import DuplicateGroup
from embedsearch.images.output_files import output_files

_HEAD = r"""#!/bin/sh
# Copies that embedsearch found. Nothing has been {done} yet. Read this, change `{do}` to `leave`
# where you want to keep a picture, then run it:  sh {name}
# A picture is {done} only if it and the picture to keep still have the size, time and sha256
# that they had when they were compared. `leave` does nothing: such pictures are alike, but each
# has something that the other lacks, or {done_it} would gain nothing.
export LC_ALL=C
if command -v sha256sum >/dev/null 2>&1; then
    digest() {{ sha256sum < "$1"; }}
elif command -v shasum >/dev/null 2>&1; then
    digest() {{ shasum -a 256 < "$1"; }}
else
    echo 'nothing was {done}: this needs sha256sum or shasum' >&2
    exit 1
fi
gone=0
left=0
is_as_listed() {{  # path, bytes, seconds, sha256
    [ -f "$1" ] && [ ! -h "$1" ] || {{ why='is missing'; return 1; }}
    why='has changed since the list was made'
    [ "$(wc -c < "$1" 2>/dev/null)" -eq "$2" ] 2>/dev/null || return 1
    seconds=$(stat -c %Y -- "$1" 2>/dev/null || stat -f %m -- "$1" 2>/dev/null)
    [ "$seconds" = "$3" ] || return 1
    found=$(digest "$1" 2>/dev/null)
    [ "${{found%% *}}" = "$4" ]
}}
keep() {{
    kept=$1 kept_bytes=$2 kept_seconds=$3 kept_sha256=$4
}}
leave() {{
    :
}}
stay() {{
    left=$((left + 1))
    printf 'left alone, %s: %s\n' "$2" "$1" >&2
}}
may_go() {{
    if ! is_as_listed "$kept" "$kept_bytes" "$kept_seconds" "$kept_sha256"; then
        stay "$1" "the picture to keep $why"
    elif ! is_as_listed "$1" "$2" "$3" "$4"; then
        stay "$1" "it $why"
    elif [ "$1" -ef "$kept" ]; then
        stay "$1" "it is the picture to keep under another name"
    else
        return 0
    fi
    return 1
}}
"""
_REMOVE = r"""remove() {
    may_go "$@" || return 0
    if rm -f -- "$1"; then gone=$((gone + 1)); else stay "$1" 'it cannot be deleted'; fi
}
"""
_MOVE = r"""move() {
    may_go "$1" "$2" "$3" "$4" || return 0
    if [ -e "$5/$6" ] || [ -h "$5/$6" ]; then
        stay "$1" "there is a file of that name in $5"
    elif mkdir -p -- "$5" && mv -- "$1" "$5/$6"; then
        gone=$((gone + 1))
    else
        stay "$1" "it cannot be moved to $5"
    fi
}
"""
_END = '\nprintf \'%s pictures {done}, %s left alone\\n\' "$gone" "$left" >&2\n'


@checked
def write_script(
    path: str | os.PathLike[str],
    groups: Iterable[DuplicateGroup],
    move_to: str | os.PathLike[str] | None = None,
) -> None:
    """Write a script that deletes copies, or moves them into a folder. Raises StorageError.

    In that folder a copy lies below the name of its root, as it lay below the root.
    """
    path = Path(local_path(path))
    targets = None if move_to is None else _Targets(os.path.abspath(local_path(move_to)))
    with output_files([path]) as (temporary,), temporary.open("wb") as file:
        file.writelines(_script(path.name, groups, targets))


def delete_script(name: str, groups: Iterable[DuplicateGroup]) -> bytes:
    """Return the script that deletes copies, to be saved under a name."""
    return b"".join(_script(name, groups, None))


def _script(
    name: str, groups: Iterable[DuplicateGroup], targets: _Targets | None
) -> Iterator[bytes]:
    do, done, done_it = ("remove", "deleted", "deleting it")
    if targets is not None:
        do, done, done_it = ("move", "moved", "moving it")
    words = {"do": do, "done": done, "done_it": done_it, "name": shlex.quote(printable(name))}
    yield _HEAD.format(**words).encode() + (_MOVE if targets else _REMOVE).encode()
    for number, group in enumerate(groups, start=1):
        yield f"\n# group {number}\n".encode()
        yield from (os.fsencode(line) + b"\n" for line in _lines(group, do, targets))
    yield _END.format(done=done).encode()


class _Targets:
    """Where copies are moved to: a folder for each root, named like it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}  # by root

    def of(self, picture: Picture) -> list[str]:
        """Return the folder and the name of a picture."""
        wanted = os.path.basename(picture.root)
        taken = set(self._names.values()) - {self._names.get(picture.root)}
        number, name = 1, wanted
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        self._names[picture.root] = name
        return [*os.path.split(os.path.join(self._folder, name, picture.key))]


def _lines(group: DuplicateGroup, do: str, targets: _Targets | None) -> Iterator[str]:
    keep = group.keep
    yield f"keep {_listed(keep)}"
    for copy in group.copies:
        picture, said = copy.picture, f"  # {copy.how} {copy.score:.3f}"
        if not (copy.is_copy and _is_known(keep) and _is_known(picture)):
            # No comment line: a name may hold a newline, and what follows it would be run.
            yield f"leave {shlex.quote(picture.full_path)}{said}"
            continue
        target = [] if targets is None else targets.of(picture)
        yield " ".join([do, _listed(picture), *map(shlex.quote, target)]) + said


def _is_known(picture: Picture) -> bool:
    """Return whether it is a file of its own whose bytes were read."""
    return picture.is_file and picture.sha256 is not None


def _listed(picture: Picture) -> str:
    seconds = picture.mtime_ns // 10**9
    return f"{shlex.quote(picture.full_path)} {picture.size_bytes} {seconds} {picture.sha256}"
