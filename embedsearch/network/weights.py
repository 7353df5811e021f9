"""Weights on this machine; in: a model's name or file, out: a ModelSpec. Loads no torch.

Weights are kept once, in the user's cache, under the sha256 of the file they came from; a
store names that sha256, so it still answers when the original file has moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from dataclasses import dataclass, fields, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from embedsearch.core.atomic import write_atomically
from embedsearch.core.errors import UsageError, WeightsUnavailable
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import local_path, printable
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folders, writable_cache_folder
from embedsearch.network.catalog import AUTO, AUTO_MODEL, CATALOG, PACKAGED, CatalogEntry, file_spec
from embedsearch.network.child import noted_cache_folder, run_prepare
from embedsearch.network.download import check_prefix, download, hub_file
from embedsearch.network.onnx.folder import (
    cached_record,
    identity_of,
    record_of_folder,
    whole_towers,
)
from embedsearch.network.onnx.record import RECORD_NAME

_TRIES = 3
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_NAME = "weights"  # in the cache folder
PACKAGED_FILE = "packaged_resnet18.safetensors"
# Fields taken from a file's own model record; name, hash and source are the file's, and the
# decoding is this program's.
_NOT_OF_A_RECORD = {
    *("name", "weights_sha256", "dim", "source", "decoding", "takes_texts", "stands_in_for")
}
_OF_A_RECORD = frozenset(f.name for f in fields(ModelSpec) if f.name not in _NOT_OF_A_RECORD)


def resolve(model: str, session: Session) -> ModelSpec:
    """Return the spec of `model`, a catalog entry, a file or a folder of ONNX files, cached.

    `auto` falls back to the packaged weights with a notice; anything else raises
    WeightsUnavailable or UsageError, which say what to do.
    """
    if model == AUTO:
        try:
            return _catalog_spec(CATALOG[AUTO_MODEL], session)
        except WeightsUnavailable as error:
            session.notice(f"using the small packaged network: {error}")
            packaged = _catalog_spec(CATALOG[PACKAGED], session)
            return replace(packaged, stands_in_for=AUTO_MODEL)
    if model in CATALOG:
        return _catalog_spec(CATALOG[model], session)
    path = Path(local_path(model))
    if path.suffix.lower() == ".onnx":
        raise UsageError(f"model={model}: name the folder of an ONNX file, not the file", "model")
    check_named(model)
    return _folder_spec(path, session) if path.is_dir() else _file_spec(path, session)


def check_named(model: str) -> None:
    """Raise WeightsUnavailable or UsageError for what is no model by its name."""
    path = Path(local_path(model))
    if model in {AUTO, *CATALOG} or path.is_file() or path.is_dir():  # the content decides
        return
    if is_file_name(model):
        raise WeightsUnavailable(f"model={model}: there is no such file", "model")
    import difflib  # rarely needed

    names = [AUTO, *CATALOG]
    close = difflib.get_close_matches(model, names, n=1)
    close = close or [name for name in names if name.startswith(model)]
    meant = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"model={model!r} is not known: {meant}`embedsearch models` lists the names; a file of "
        "weights or a folder of ONNX files is a model, too",
        "model",
    )


def is_file_name(model: str) -> bool:
    """Return whether a model is named by its place: one that is there, or has a usual name."""
    path = Path(local_path(model))
    is_there = path.is_file() or (path / RECORD_NAME).is_file()
    return is_there or model.lower().endswith(_SUFFIXES)


def metadata_of(file: Path) -> dict[str, str]:
    """Return the texts beside the weights of a safetensors file, none for a file of another kind.

    Raises OSError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return opened.metadata() or {}
    except SafetensorError:
        return {}


def weights_path(spec: ModelSpec) -> Path:
    """Return the safetensors file of a spec's weights, or its folder, the content verified.

    Raises WeightsUnavailable, which says what to do.
    """
    if spec.is_of_towers:
        return whole_towers(_towers_place(spec.weights_sha256), spec)
    if (cached := _cached(spec.weights_sha256)) is not None:
        return cached[0]
    packaged = _packaged_path()
    if spec.weights_sha256 == _sha256(packaged):
        return packaged
    entry = CATALOG.get(spec.name)
    if entry is not None and spec.source == entry.url:
        found = _catalog_spec(entry, Session())
        if found.weights_sha256 == spec.weights_sha256:
            return weights_path(found)
    if spec.source == CATALOG[PACKAGED].spec.source:
        raise WeightsUnavailable(
            "the vectors are of the packaged network of another version; embed the images again: "
            "embedsearch index --rebuild --model packaged"
        )
    if entry is None and is_file_name(spec.source):  # the cache was cleared, and the file is there
        with contextlib.suppress(WeightsUnavailable, UsageError):
            if resolve(spec.source, Session()).weights_sha256 == spec.weights_sha256:
                return weights_path(spec)
    raise WeightsUnavailable(
        f"the weights of {spec.name} (sha256 {spec.weights_sha256[:16]}…, once "
        f"{printable(spec.source)}) are not on this machine: give their file with model=FILE",
        "model",
    )


def import_file(path: Path, sha256: str, session: Session) -> tuple[Path, dict[str, Any]]:
    """Bring a file of weights into the cache, in a child that loads torch; return it and its note.

    Raises WeightsUnavailable where the file holds no weights of a residual network.
    """
    folder = noted_cache_folder(session) / _NAME
    values = {"file": str(path), "folder": str(folder)}
    run_prepare("import", values, session)
    cached = _cached(sha256)
    if cached is None:
        raise WeightsUnavailable(
            f"{path} changed while it was read, or {folder} keeps nothing: run the same command "
            "again"
        )
    return cached


def is_cached(entry: CatalogEntry) -> bool:
    """Return whether a catalog entry can be used without a download."""
    return entry.url is None or _known_sha256(entry) is not None or hub_file(entry).is_file()


def _catalog_spec(entry: CatalogEntry, session: Session) -> ModelSpec:
    if entry.url is None:
        return replace(entry.spec, weights_sha256=_sha256(_packaged_path()))
    sha256 = _known_sha256(entry) or _obtain(entry, session)
    return replace(entry.spec, weights_sha256=sha256)


def _obtain(entry: CatalogEntry, session: Session) -> str:
    """Import the weights from torch's cache, else download them; return their sha256."""
    source = hub_file(entry)
    if source.is_file():
        sha256 = _sha256(source)
        check_prefix(entry, sha256, source)
        session.notice(f"importing {source}")
        import_file(source, sha256, session)
    else:
        temporary = noted_cache_folder(session) / _NAME / f"tmp-{secrets.token_hex(8)}.pth"
        try:
            sha256 = download(entry, temporary, session)
            import_file(temporary, sha256, session)
        finally:
            temporary.unlink(missing_ok=True)
    note = json.dumps({"sha256": sha256, "url": entry.url})
    write_atomically(writable_cache_folder() / _NAME / f"{entry.name}.json", note.encode())
    return sha256


def _known_sha256(entry: CatalogEntry) -> str | None:
    for folder in cache_folders():
        note = _read_json(folder / _NAME / f"{entry.name}.json")
        is_it = note is not None and note.get("url") == entry.url
        if note is not None and is_it and _cached(str(note.get("sha256"))) is not None:
            return str(note["sha256"])
    return None


def _folder_spec(path: Path, session: Session) -> ModelSpec:
    """Return the model of a folder of ONNX files, which are checked and cached."""
    own = record_of_folder(path)
    sha256 = identity_of(own)
    record = cached_record(_towers_place(sha256), sha256)
    if record is None:
        session.notice(f"importing {path} (once)")
        folder = noted_cache_folder(session) / _NAME
        values = {"file": str(path.resolve()), "folder": str(folder), "sha256": sha256}
        run_prepare("towers", values, session)
        if (record := cached_record(folder / sha256, sha256)) is None:
            raise WeightsUnavailable(f"{folder} keeps nothing: run the same command again")
    # Its name and terms are the folder's, also where another one has the same files.
    described = replace(own, image=replace(own.image, dim=record.image.dim))
    return described.spec(sha256, str(path.resolve()))


def _towers_place(sha256: str) -> Path:
    """Return where the files of a folder with this sha256 in all are, or would be."""
    places = [folder / _NAME / sha256 for folder in cache_folders()]
    return next((place for place in places if place.is_dir()), places[0])


def _file_spec(path: Path, session: Session) -> ModelSpec:
    cached = None
    for attempt in range(_TRIES):
        sha256 = _sha256(path)
        if sha256 == _sha256(_packaged_path()):
            return _catalog_spec(CATALOG[PACKAGED], session)
        if (cached := _cached(sha256)) is not None:
            break
        session.notice(f"importing {path} (once)")
        try:
            cached = import_file(path, sha256, session)
            break
        except WeightsUnavailable:
            # A training may have written its next epoch there meanwhile.
            if attempt == _TRIES - 1 or _sha256(path) == sha256:
                raise
    assert cached is not None, "the last try raises"
    note, source = cached[1], str(path.resolve())
    spec = file_spec(path.stem, note["architecture"], note["dim"], sha256, source)
    spec = replace(spec, takes_texts=bool(note.get("texts")))
    if not (record := note.get("record")):
        return spec
    own = {name: value for name, value in record.items() if name in _OF_A_RECORD}
    # A record of an older version has no such field, and is of weights that were made without.
    return ModelSpec.from_dict({**spec.to_dict(), "gaussian": ModelSpec.gaussian, **own})


def _cached(sha256: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the cached weights and their note, or None. A changed file counts as absent."""
    for folder in cache_folders():
        path = folder / _NAME / f"{sha256}.safetensors"
        note = _read_json(path.with_suffix(".json"))
        if note is None or not path.is_file():
            continue
        with contextlib.suppress(WeightsUnavailable):  # it cannot be read: as if it were not there
            if _sha256(path) == note.get("safetensors_sha256"):
                return path, note
    return None


def _packaged_path() -> Path:
    with as_file(files("embedsearch.network") / "packaged" / PACKAGED_FILE) as path:
        return path


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


@dataclass(frozen=True)
class ModelInfo(JsonRecord):
    """A model of the catalog, and whether its weights are on this machine."""

    name: str
    architecture: str
    dim: int
    input_side: int
    resize: str  # what of a picture it sees
    pooling: str
    gaussian: float  # sigma of the weights of the map's cells, 0: all alike
    takes_texts: bool  # whether its stores can be asked with words
    megabytes: float
    here: bool
    auto: bool  # the one that `auto` means
    quality: str
    licence: str
    source: str


def models() -> list[ModelInfo]:
    """Return the catalog."""
    return [
        ModelInfo(
            name=entry.name,
            architecture=entry.spec.architecture,
            dim=entry.spec.dim,
            input_side=entry.spec.input_side,
            resize=entry.spec.resize,
            pooling=entry.spec.pooling,
            gaussian=entry.spec.gaussian,
            takes_texts=entry.spec.takes_texts,
            megabytes=entry.megabytes,
            here=is_cached(entry),
            auto=entry.name == AUTO_MODEL,
            quality=entry.quality,
            licence=entry.spec.licence,
            source=entry.spec.source,
        )
        for entry in CATALOG.values()
    ]
