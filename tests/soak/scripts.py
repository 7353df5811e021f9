"""Scripts that delete copies, run after the files have changed: no picture is lost.

In: nothing; out: lists of copies, random changes of the files, runs of the scripts, and a model of
which picture each file shows.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from embedsearch.curation.collection import Picture
from embedsearch.curation.copies import SAME_BYTES, Copy, DuplicateGroup
from embedsearch.curation.script import write_script
from tests.soak import mutants
from tests.soak.finding import Finding, Trial

_SCRIPTS = 1000
_NAMES = ("a.jpg", "-rf", "it's $(x).jpg", "two\nlines.jpg", os.fsdecode(b"\xff.jpg"), "é b.jpg")


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Make lists, change the files, run the scripts, and look for what is missing."""
    rng = trial.random()
    mutants.apply(trial.mutant)
    for number in range(trial.count(_SCRIPTS)):
        at = folder / str(number)
        photos, aside = at / "photos", at / "aside"
        photos.mkdir(parents=True)
        groups = [_group(photos, rng, index) for index in range(rng.randint(1, 3))]
        script = at / "script.sh"
        write_script(script, groups, aside if rng.random() < 0.3 else None)
        changes = rng.choice((0, 1, 1, 2, 3, 5))
        for _ in range(changes):
            rng.choice(_CHANGES)(photos, rng)
        before = _shown(at)
        done = subprocess.run(["sh", script], cwd=at, capture_output=True, check=False)
        after = _shown(at)
        finding.count("scripts")
        finding.count("files gone or moved", sum(before.values()) - len(_files(photos)))
        if lost := before.keys() - after.keys():
            finding.accuse(f"script {number} lost {lost}: {done.stderr!r}")
        copies = sum(len(group.copies) for group in groups)
        if not changes and len(_files(photos)) != sum(before.values()) - copies:
            finding.accuse(f"script {number} left copies: {done.stderr!r}")
        if done.returncode:
            finding.accuse(f"script {number} ended with {done.returncode}: {done.stderr!r}")
        shutil.rmtree(at)


def _group(photos: Path, rng: random.Random, index: int) -> DuplicateGroup:
    """Write files that show one picture, some of the same bytes."""
    names = rng.sample(_NAMES, rng.randint(2, len(_NAMES)))
    pictures = []
    for row, name in enumerate(names):
        key = f"{index}/{name}"
        path = photos / key
        path.parent.mkdir(exist_ok=True)
        content = _content(f"picture {index}", rng.randrange(3))
        path.write_bytes(content)
        os.utime(path, (rng.randrange(10**9), rng.randrange(10**9)))
        status = path.stat()
        sha256 = hashlib.sha256(content).hexdigest()
        facts = (row, str(photos), key, 4, 4, status.st_size, "JPEG", None, status.st_mtime_ns)
        pictures.append(Picture(*facts, sha256))
    return DuplicateGroup(pictures[0], [Copy(one, SAME_BYTES, 1.0) for one in pictures[1:]])


def _content(picture: str, version: int) -> bytes:
    return f"{picture}|{version}|".ljust(40).encode()


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder; links are none."""
    found = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _shown(folder: Path) -> dict[str, int]:
    """Return how many files show each picture."""
    shown: dict[str, int] = {}
    for path in _files(folder):
        if path.name != "script.sh":
            name = path.read_bytes().decode().partition("|")[0]
            shown[name] = shown.get(name, 0) + 1
    return shown


def _replace(photos: Path, rng: random.Random) -> None:
    """Another picture takes a file's name, as long as it and as old if chance wants it."""
    path = rng.choice(_files(photos))
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    content = _content(f"other {rng.randrange(10**9)}", 0)
    path.write_bytes(content if rng.random() < 0.7 else content + b"more")
    if rng.random() < 0.7:
        os.utime(path, ns=times)


def _delete(photos: Path, rng: random.Random) -> None:
    files = _files(photos)
    if len(files) > 1:
        rng.choice(files).unlink()


def _touch(photos: Path, rng: random.Random) -> None:
    os.utime(rng.choice(_files(photos)))


def _swap(photos: Path, rng: random.Random) -> None:
    one, other = rng.choice(_files(photos)), rng.choice(_files(photos))
    aside = photos / "swap"
    one.rename(aside)
    (other if other.exists() else aside).rename(one)
    if aside.exists():
        aside.rename(other)


def _link(photos: Path, rng: random.Random) -> None:
    """One file becomes a link to another, hard or symbolic."""
    one, other = rng.choice(_files(photos)), rng.choice(_files(photos))
    if one != other:
        one.unlink()
        (one.hardlink_to if rng.random() < 0.5 else one.symlink_to)(other)


def _folder(photos: Path, rng: random.Random) -> None:
    """A folder takes the name of a file."""
    files = _files(photos)
    if len(files) > 1:
        path = rng.choice(files)
        path.unlink()
        path.mkdir()


_CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    _replace, _replace, _delete, _touch, _swap, _link, _folder,
)  # fmt: skip
