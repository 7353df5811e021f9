"""A folder with ONNX networks to a model; in: a folder, out: a ModelSpec and files in the cache.

The files are kept in the user's cache under one sha256 of the record and all of them, so that a
store can be asked when the folder has moved.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedsearch.core.atomic import remove_debris
from embedsearch.core.errors import UsageError, WeightsUnavailable
from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.onnx.configs import Found, NotSaid, json_of, record_beside
from embedsearch.network.onnx.external import external_files
from embedsearch.network.onnx.record import (
    RECORD_NAME,
    TowersRecord,
    empty_record,
    towers_record,
)


def record_of_folder(folder: Path) -> TowersRecord:
    """Return the record of a folder, with the sha256 of each of its files. Raises UsageError."""
    try:
        record = _record(folder)
        digests = {name: sha256_of(folder / name) for name in sorted(set(_files(folder, record)))}
        for tower in (record.image, record.text):
            if tower is not None and tower.sha256 not in {None, digests[tower.file]}:
                raise ValueError(f"{tower.file} has another sha256 than its record says")
    except NotSaid as error:
        found = Found.of(folder)
        empty = empty_record(
            folder.resolve().name, found.image or "FILE.onnx", found.text, found.tokenizer
        )
        raise UsageError(
            f"model={folder}: {error}; say it in {folder / RECORD_NAME}, such as:\n{empty}", "model"
        ) from error
    except ValueError as error:
        raise UsageError(f"model={folder}: {error}", "model") from error
    return replace(record, files=digests)


def identity_of(record: TowersRecord) -> str:
    """Return one sha256 of all that changes a vector: the record and its files."""
    values = record.to_dict()
    for name in ("name", "licence", "source"):
        del values[name]
    values["image"] = {**values["image"], "dim": None}  # the graph has it
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def place_towers(
    folder: Path, sha256: str, into: Path, check: Callable[[Path, TowersRecord], int]
) -> None:
    """Copy the files of a folder to `into`/sha256, if `check` finds its networks to be right.

    `check` returns the number of components of their vectors. Raises OSError and ValueError.
    """
    record = record_of_folder(folder)
    if identity_of(record) != sha256:
        raise ValueError(f"{folder} changed while it was read")
    staging, place = into / f"tmp-{secrets.token_hex(8)}", into / sha256
    remove_debris(into)
    try:
        for name in record.files:
            copied = staging / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copied)
        record = replace(record, image=replace(record.image, dim=check(staging, record)))
        (staging / RECORD_NAME).write_text(json.dumps(record.to_dict(), sort_keys=True))
        if not is_whole(staging, record):
            raise ValueError(f"{folder} changed while it was read")
        if cached_record(place, sha256) is None:  # it is missing, or damaged
            shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def cached_record(folder: Path, sha256: str) -> TowersRecord | None:
    """Return the record of a folder of the cache, None where it or a file is not as it was."""
    with suppress(ValueError):
        if (values := json_of(folder / RECORD_NAME)) is not None:
            record = towers_record(values)
            if identity_of(record) == sha256 and is_whole(folder, record):
                return record
    return None


def is_whole(folder: Path, record: TowersRecord) -> bool:
    """Return whether the files of a record are those that were hashed."""
    try:
        return all(sha256_of(folder / name) == digest for name, digest in record.files.items())
    except ValueError:
        return False


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file. Raises ValueError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error


def whole_towers(folder: Path, spec: ModelSpec) -> Path:
    """Return the folder of the cache with the files of a model. Raises WeightsUnavailable."""
    if cached_record(folder, spec.weights_sha256) is None:
        raise WeightsUnavailable(
            f"the files of {spec.name} (from {spec.source}) are not in {folder}: name their folder "
            "once: embedsearch index --model FOLDER"
        )
    return folder


def _record(folder: Path) -> TowersRecord:
    """Return the record in a folder, else what other files in it make up."""
    values: Any = json_of(folder / RECORD_NAME)
    if values is None:
        return record_beside(folder, Found.of(folder))
    try:
        return towers_record(values)
    except ValueError as error:
        raise ValueError(f"{RECORD_NAME}: {error}") from error


def _files(folder: Path, record: TowersRecord) -> Iterator[str]:
    """Yield the names of all files of a record, those with weights beside an ONNX file too."""
    towers = [record.image.file, *([record.text.file] if record.text else [])]
    for name in towers:
        if not (folder / name).is_file():
            raise ValueError(f"there is no file {name}")
        yield name
        for other in external_files(folder / name):
            place = str(Path(name).parent / other)
            if not (folder / place).is_file():
                raise ValueError(f"{name} keeps weights in {other}, which is not there")
            yield place
    if record.text is not None:
        if not (folder / record.text.tokenizer).is_file():
            raise ValueError(f"there is no file {record.text.tokenizer}")
        yield record.text.tokenizer
