"""Files beside images to columns: `a.jpg.json`, `a.json` and others, see sidecar_names.py.

In: the keys of images and a source of such files, out: a table with a row an image. The fields of a
JSON object become columns, a text the column `caption`, and the number in a .cls file, as
WebDataset writes them, the column `cls`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import open_folder, open_regular
from embedsearch.core.records import SIDECARS, Failure, ImageLocation
from embedsearch.images.archive_part import BrokenPart, read_part
from embedsearch.images.sources.sidecar_names import SUFFIXES, SidecarNames
from embedsearch.images.sources.source import Beside, Source
from embedsearch.images.tables.json_table import MAX_COLUMNS, json_column
from embedsearch.images.tables.table import LEFT_OUT, UserTable, own_names

CAPTION = "caption"
CLASS = "cls"
MAX_BYTES = 1 << 20  # of one file
SIDECAR_SUFFIXES = frozenset(SUFFIXES)


def sidecar_table(sidecars: Iterable[tuple[str, Beside]], taken: frozenset[str]) -> UserTable:
    """Return the sidecars of images, given with their paths, as a table.

    A column whose values are not of one type becomes JSON text. Raises UsageError for too many
    columns.
    """
    names: list[str] = []
    rows: list[Mapping[str, Any]] = []
    unreadable: list[str] = []
    unused: list[str] = []
    for path, beside in sidecars:
        unreadable += beside.unreadable
        unused += beside.unused
        if beside.fields:
            names.append(path)
            rows.append(beside.fields)
    return UserTable(SIDECARS, "path", names, _columns(rows, taken), unreadable, unused=unused)


def is_sidecar(name: bytes) -> bool:
    """Return whether a file may be a sidecar."""
    return os.fsdecode(name.rpartition(b".")[2]).lower() in SIDECAR_SUFFIXES


def beside_files(root: str, keys: Iterable[str], *, follow: bool) -> Iterator[Beside]:
    """Yield the sidecars below a folder, for keys of images that come folder by folder.

    Links are followed as those of images are, see `open_regular`.
    """
    content = partial(_file_content, root, follow=follow)
    for folder, group in groupby(keys, lambda key: key.rpartition("/")[0]):
        try:
            names = SidecarNames(_listed(root, folder, follow=follow))
        except OSError as error:
            yield Beside(folder, {}, unreadable=(f"those in {folder or root} ({_words(error)})",))
            continue
        yield from _beside(list(group), names, content)
        yield Beside(folder, {}, unused=tuple(names.left))


def beside_members(sidecars: Source, keys: Iterable[str]) -> Iterator[Beside]:
    """Yield the sidecars among members of an archive or objects of a bucket.

    `sidecars` is a source of the sidecar files.
    """
    contents: dict[str, bytes | str] = {}
    for ref, place in sidecars.places(list(sidecars)):
        contents[ref.key] = place.detail if isinstance(place, Failure) else _place_content(place)

    def content(sidecar: str) -> bytes:
        found = contents[sidecar]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    names = SidecarNames(contents)
    for _, group in groupby(keys, lambda key: key.rpartition("/")[0]):
        yield from _beside(list(group), names, content)
    yield Beside("", {}, unused=tuple(names.left))


def _place_content(place: ImageLocation) -> bytes | str:
    """Return the bytes at a place, or why they cannot be read; removes a temporary file."""
    try:
        if place.part is None:
            return _file_content(place.folder, place.key)
        with open(open_regular(place.folder, place.key), "rb") as file:
            if place.part.size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 20} MB")
            return read_part(file.fileno(), place.part)
    except (OSError, ValueError, BrokenPart) as error:
        return _words(error)
    finally:
        if place.is_ours:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(place.folder, place.key))


def _file_content(root: str, key: str, *, follow: bool = False) -> bytes:
    """Return the bytes of a sidecar. Raises OSError and ValueError."""
    with open(open_regular(root, key, follow=follow), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MB")
    return data


def _listed(root: str, folder: str, *, follow: bool) -> list[str]:
    """Return the keys in a folder that may be sidecars. Raises OSError."""
    descriptor = open_folder(root, folder, follow=follow)
    try:
        names = [name for name in os.listdir(descriptor) if is_sidecar(os.fsencode(name))]
    finally:
        os.close(descriptor)
    return [f"{folder}/{name}" if folder else name for name in names]


def _beside(
    keys: Sequence[str], names: SidecarNames, content: Callable[[str], bytes]
) -> Iterator[Beside]:
    """Yield the fields of the sidecars of images; of a field that comes twice, the first counts."""
    for key, sidecars in names.of_images(keys):
        fields: dict[str, Any] = {}
        unreadable: list[str] = []
        for sidecar in sidecars:
            try:
                fields = {**_fields(sidecar, content(sidecar)), **fields}
            except (OSError, ValueError) as error:
                unreadable.append(f"{sidecar} ({_words(error)})")
        yield Beside(key, fields, tuple(unreadable))


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _fields(key: str, data: bytes) -> dict[str, Any]:
    """Return the fields of a sidecar. Raises ValueError."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("no UTF-8") from error
    if key.lower().endswith(".txt"):
        return {CAPTION: text.strip()} if text.strip() else {}
    if key.lower().endswith(".cls"):
        if not text.strip().lstrip("-").isdecimal():
            raise ValueError("no whole number")
        return {CLASS: int(text)}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError("no JSON") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    return fields


def _columns(rows: list[Mapping[str, Any]], taken: frozenset[str]) -> pa.Table:
    """Return a column for each name that occurs; names that differ in case only are one."""
    spelled: dict[str, str] = {}
    for row in rows:
        for name in row:
            spelled.setdefault(name.lower(), name)
        if len(spelled) > MAX_COLUMNS:
            raise UsageError(f"the sidecars have more than {MAX_COLUMNS} different fields")
    folded = [{name.lower(): value for name, value in row.items()} for row in rows]
    kept = [low for low in spelled if low not in LEFT_OUT]
    arrays = [json_column([row.get(low) for row in folded]) for low in kept]
    return pa.table(arrays, own_names([spelled[low] for low in kept], taken, "sidecars"))
