"""Files beside images to columns: `a.jpg.json`, `a.json` and others, see sidecar_names.py.

In: the keys of images and a source of such files, out: a table with a row an image. The fields of a
JSON object become columns, a text the column `caption`, and the number in a .cls file, as
WebDataset writes them, the column `cls`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa

from embedsearch.core.ending import ending_signal
from embedsearch.core.errors import Interrupted
from embedsearch.core.paths import open_folder, open_regular
from embedsearch.core.records import SIDECARS, Failure, ImageLocation
from embedsearch.images.archive_part import BrokenPart, read_part
from embedsearch.images.sources.sidecar_names import SUFFIXES, SidecarNames
from embedsearch.images.sources.source import Beside, Source
from embedsearch.images.tables.held_values import (
    MAX_COLUMNS,
    Unheld,
    check_value,
    names_problem,
    same_name,
)
from embedsearch.images.tables.json_table import json_column, typed_column
from embedsearch.images.tables.table import LEFT_OUT, UserTable, own_name
from embedsearch.images.temporary import discard

CAPTION = "caption"
CLASS = "cls"
MAX_BYTES = 1 << 20  # of one file
_USUAL = 9  # times as many values of one kind as of all others: those are odd
SIDECAR_SUFFIXES = frozenset(SUFFIXES)


def sidecar_table(
    sidecars: Iterable[tuple[str, Beside]], taken: frozenset[str], known: Iterable[str] = ()
) -> UserTable:
    """Return the sidecars of images, given with their paths, as a table.

    An odd one costs itself: what it holds that has no place among the columns of the others, and
    those that are `known`, is unreadable. A column of several kinds of values becomes JSON text.
    """
    rows: dict[str, dict[str, Any]] = {}  # values by names of columns without case
    spelled = {same_name(name): name for name in known}
    unreadable: list[str] = []
    unused: list[str] = []
    for path, beside in sidecars:
        unreadable += beside.unreadable
        unused += beside.unused
        try:
            named = _named(beside.fields, taken)
        except ValueError as error:
            unreadable.append(f"{path} ({error})")
            continue
        if named:
            rows[path] = {same_name(name): value for name, value in named.items()}
            for name in named:
                spelled.setdefault(same_name(name), name)
    kept = _limited(rows, set(map(same_name, known)), unreadable)
    columns = {
        name: _column(rows, low, name, unreadable) for low, name in spelled.items() if low in kept
    }
    names = list(rows)
    return UserTable(SIDECARS, "path", names, pa.table(columns), unreadable, unused=unused)


def _named(fields: Mapping[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """Return fields by the names of their columns. Raises ValueError for two of one name."""
    kept = [name for name in fields if same_name(name) not in LEFT_OUT]
    names = [own_name(name, taken) for name in kept]
    if problem := names_problem(names):
        raise ValueError(problem)
    return {name: fields[own] for name, own in zip(names, kept, strict=True)}


def _limited(
    rows: dict[str, dict[str, Any]], known: set[str], unreadable: list[str]
) -> frozenset[str]:
    """Return the names of columns that rows have; rows that would make too many are removed.

    Those of the fewest fields come first, so that one of a thousand fields keeps out no other.
    """
    used: set[str] = set()
    for path in sorted(rows, key=lambda path: len(rows[path])):
        if len(known.union(used, rows[path])) > MAX_COLUMNS:
            unreadable.append(f"{path} (it makes more than {MAX_COLUMNS} different fields)")
            del rows[path]
        else:
            used.update(rows[path])
    return frozenset(used)


def _column(
    rows: Mapping[str, Mapping[str, Any]], low: str, name: str, unreadable: list[str]
) -> pa.Array[Any]:
    """Return the values of one name; a few that no column holds with the rest are left out."""
    values = [row.get(low) for row in rows.values()]
    paths = list(rows)

    def leave_out(is_odd: Callable[[Any], bool], why: Callable[[Any], str]) -> None:
        odd = [index for index, v in enumerate(values) if v is not None and is_odd(v)]
        if len(odd) * (_USUAL + 1) <= len(values) - values.count(None):
            for index in odd:
                unreadable.append(f"{paths[index]} ({why(values[index])})")
                values[index] = None

    counts = Counter(_kind(value) for value in values if value is not None)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        leave_out(
            lambda value: _kind(value) != usual,
            lambda value: f"{name} is {_kind(value)}, and {usual} beside other images",
        )
    if typed_column(values) is None:
        leave_out(lambda value: typed_column([value]) is None, lambda _: f"{name} fits no column")
    return json_column(values)


def _kind(value: Any) -> str:
    """Return what kind of value one is, as a message calls it."""
    kinds = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}
    number = dict.fromkeys((int, float, Decimal), "a number")
    return (kinds | number).get(type(value), type(value).__name__)


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
    if number := ending_signal():  # which ends a fetch early
        raise Interrupted("interrupted while sidecars were read; what was committed stays", number)

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
        discard(place)


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
                more = _fields(sidecar, content(sidecar))
                there = set(map(same_name, fields))
                fields |= {name: v for name, v in more.items() if same_name(name) not in there}
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
        raise ValueError("not UTF-8") from error
    if key.lower().endswith(".txt"):
        return {CAPTION: text.strip()} if text.strip() else {}
    if key.lower().endswith(".cls"):
        if not text.strip().lstrip("-").isdecimal():
            raise ValueError("not a whole number")
        return {CLASS: int(text)}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if problem := names_problem(fields):
        raise ValueError(problem)
    for name, value in fields.items():
        try:
            check_value(value)
        except Unheld as error:
            raise ValueError(f"{name[:60]}: {error}") from error
    return fields
