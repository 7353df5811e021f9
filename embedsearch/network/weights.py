"""Weights on this machine; in: a model's name or file, out: a ModelSpec. Loads no torch.

Weights are kept once, in the user's cache, under the sha256 of the file they came from; a
store names that sha256, so it still answers when the original file has moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass, fields, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from embedsearch.core.atomic import write_atomically
from embedsearch.core.errors import UsageError, WeightsUnavailable
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import local_path
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.core.system import (
    cache_folder,
    cache_folders,
    child_environment,
    python_command,
    writable_cache_folder,
)
from embedsearch.network.catalog import AUTO, AUTO_MODEL, CATALOG, PACKAGED, CatalogEntry, file_spec

CONNECT_TIMEOUT_S = 3.0  # after twice this time the server counts as unreachable
_TRIES = 3
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
READ_TIMEOUT_S = 30.0  # for a download that has begun and stalls
_STOP_POLL_S = 0.2
_NAME = "weights"  # in the cache folder
_DOING = {
    "import": "reading the weights",
    "convert": "converting the network",
    "quantize": "quantizing the network",
}
PACKAGED_FILE = "packaged_resnet18.safetensors"
# Fields taken from a file's own model record; name, hash and source are the file's, and the
# decoding is this program's.
_NOT_OF_A_RECORD = {"name", "weights_sha256", "dim", "source", "decoding"}
_OF_A_RECORD = frozenset(f.name for f in fields(ModelSpec) if f.name not in _NOT_OF_A_RECORD)


def resolve(model: str, session: Session) -> ModelSpec:
    """Return the spec of `model`, a catalog entry or a file, with its weights cached.

    `auto` falls back to the packaged weights with a notice; anything else raises
    WeightsUnavailable or UsageError, which say what to do.
    """
    if model == AUTO:
        try:
            return _catalog_spec(CATALOG[AUTO_MODEL], session)
        except WeightsUnavailable as error:
            session.notice(f"using the small packaged network: {error}")
            return _catalog_spec(CATALOG[PACKAGED], session)
    if model in CATALOG:
        return _catalog_spec(CATALOG[model], session)
    path = Path(local_path(model))
    if path.is_file():  # its content decides
        return _file_spec(path, session)
    if is_file_name(model):
        raise WeightsUnavailable(f"model={model}: there is no such file", "model")
    import difflib  # rarely needed

    names = [AUTO, *CATALOG]
    close = difflib.get_close_matches(model, names, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"model={model!r} is neither one of {', '.join(names)} nor a file of weights{suggestion}",
        "model",
    )


def is_file_name(model: str) -> bool:
    """Return whether a model is named by a file: one that is there, or has a usual name."""
    return Path(local_path(model)).is_file() or model.lower().endswith(_SUFFIXES)


def weights_path(spec: ModelSpec) -> Path:
    """Return the safetensors file of a spec's weights, its content verified.

    Raises WeightsUnavailable, which says what to do.
    """
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
    raise WeightsUnavailable(
        f"the weights of {spec.name} (sha256 {spec.weights_sha256[:16]}…, from {spec.source}) "
        f"are not in {cache_folder() / _NAME}: name their file once: embedsearch index --model FILE"
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


def noted_cache_folder(session: Session) -> Path:
    """Return the folder to cache something in, with a notice if it is not the usual one.

    Raises StorageError.
    """
    if (folder := writable_cache_folder()) != (usual := cache_folder()):
        session.notice(
            f"{usual} cannot be written: what is converted is kept in {folder}, perhaps not for "
            "long; EMBEDSEARCH_CACHE sets another folder"
        )
    return folder


def run_prepare(task: str, values: dict[str, Any], session: Session) -> None:
    """Run a task of `prepare.py` in a short-lived child, which may load torch.

    Raises WeightsUnavailable with the child's last line where it fails, and Interrupted.
    """
    doing = _DOING[task]
    command = [*python_command("embedsearch.network.prepare"), task]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=child_environment(),
        )
    except OSError as error:
        message = f"{doing} failed: {command[0]} cannot be started ({error.strerror or error})"
        raise WeightsUnavailable(message) from error
    request: str | None = json.dumps(values)
    with child:
        try:
            while child.returncode is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    errors = child.communicate(request, timeout=_STOP_POLL_S)[1]
                request = None  # a second communicate() continues the first
                session.check()
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        why = _why(child.returncode, errors)
        raise WeightsUnavailable(f"{doing} failed in {command[0]}: {why}")


def _why(code: int, errors: str) -> str:
    """Return why a child ended: its last line, unless a signal killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = "out of memory? " if code == -signal.SIGKILL else ""
        return f"the process was killed ({name}); {hint}run the same command again"
    return (errors.strip().splitlines() or [f"it ended with status {code}"])[-1]


def is_cached(entry: CatalogEntry) -> bool:
    """Return whether a catalog entry can be used without a download."""
    return entry.url is None or _known_sha256(entry) is not None or _hub_file(entry).is_file()


def _catalog_spec(entry: CatalogEntry, session: Session) -> ModelSpec:
    if entry.url is None:
        return replace(entry.spec, weights_sha256=_sha256(_packaged_path()))
    sha256 = _known_sha256(entry) or _obtain(entry, session)
    return replace(entry.spec, weights_sha256=sha256)


def _obtain(entry: CatalogEntry, session: Session) -> str:
    """Import the weights from torch's cache, else download them; return their sha256."""
    source = _hub_file(entry)
    if source.is_file():
        sha256 = _sha256(source)
        _check_prefix(entry, sha256, source)
        session.notice(f"importing {source}")
        import_file(source, sha256, session)
    else:
        temporary = noted_cache_folder(session) / _NAME / f"tmp-{secrets.token_hex(8)}.pth"
        try:
            sha256 = _download(entry, temporary, session)
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


def _download(entry: CatalogEntry, target: Path, session: Session) -> str:
    """Fetch a catalog entry's weights into `target` and return their sha256."""
    import http.client  # imported here: with ssl it takes a query a twentieth of a second

    assert entry.url is not None
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _connect(entry.url) as answer, target.open("wb") as file:
            session.notice(f"downloading {entry.url} ({entry.megabytes:.0f} MB, once)")
            while chunk := answer.read(1 << 20):
                session.check()
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsUnavailable(
            f"the weights of {entry.name} cannot be downloaded "
            f"({getattr(error, 'reason', error)}): put {entry.file_name} into "
            f"{_hub_file(entry).parent}, or give a file with model=FILE, "
            f"or use model={PACKAGED}",
            "model",
        ) from error
    _check_prefix(entry, digest.hexdigest(), target)
    return digest.hexdigest()


def _connect(url: str) -> Any:
    """Return the opened answer of a server. Raises OSError or HTTPException.

    In a thread: without a name server the look-up can take half a minute, and no time-out of a
    socket bounds it.
    """
    import queue
    import threading
    import urllib.request

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=READ_TIMEOUT_S))
        except Exception as error:  # raised below, in the caller's thread
            answers.put(error)

    threading.Thread(target=connect, name="connect", daemon=True).start()
    try:
        answer = answers.get(timeout=2 * CONNECT_TIMEOUT_S)
    except queue.Empty:
        raise TimeoutError("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _check_prefix(entry: CatalogEntry, sha256: str, path: Path) -> None:
    if not sha256.startswith(entry.sha256_prefix):
        raise WeightsUnavailable(
            f"{path} is not what is published as {entry.file_name} (sha256 "
            f"{sha256[:8]}…): delete it if it is still there, and try again"
        )


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
    if not (record := note.get("record")):
        return spec
    own = {name: value for name, value in record.items() if name in _OF_A_RECORD}
    # A record of an older version has no such field, and is of weights that were made without.
    return ModelSpec.from_dict({**spec.to_dict(), "gaussian": ModelSpec.gaussian, **own})


def _hub_file(entry: CatalogEntry) -> Path:
    """Return where torchvision itself would keep this download."""
    home = os.environ.get("TORCH_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    with contextlib.suppress(RuntimeError):  # without a home folder the path is only shown
        base = base.expanduser()
    return base / "hub" / "checkpoints" / entry.file_name


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
            megabytes=entry.megabytes,
            here=is_cached(entry),
            auto=entry.name == AUTO_MODEL,
            quality=entry.quality,
            licence=entry.spec.licence,
            source=entry.spec.source,
        )
        for entry in CATALOG.values()
    ]
