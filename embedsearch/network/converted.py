"""A converted network in the user's cache; in: its folder, out: a compiled model that was checked.

A cache is checked before it is believed: every file by its sha256, and what was compiled again
by the known vectors of known pictures. What fails is made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.atomic import remove_debris, write_atomically
from embedsearch.core.errors import MissingLibrary
from embedsearch.core.session import Session
from embedsearch.core.system import allowed_processors, available_processors, processor_quota
from embedsearch.network.feed import Settings

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_LEAST_COSINE = 0.9  # of a known vector: int8 keeps 0.95, a network of damaged weights 0.2
KNOWN_PICTURES = 2
_PROBE_BATCH = 8
_PROBE_ROUNDS = 3
_PLAIN = ("model", "fp32", "one")  # parts of a folder's name that go without saying

RUNTIME_NOTE = "runtime.json"
_CHECKED = "checked.json"  # what a compiled model was when it gave the right vectors

Known = npt.NDArray[np.float32]  # the vectors of `known_pictures`, (KNOWN_PICTURES, D)
Check: TypeAlias = "Callable[[Any], None]"  # of a compiled model; raises BrokenConversion


class BrokenConversion(Exception):
    """The converted network is not what was converted: it must be made again."""


def import_openvino() -> Any:
    """Return the library, with its telemetry off.

    With None in sys.modules, openvino_telemetry cannot be imported: converting or quantizing a
    model would otherwise write a client id to the home folder and report it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except FileNotFoundError:  # the current folder was removed, and is on the import path
        sys.path[:] = [path for path in sys.path if path]
        import openvino
    return openvino


def known_pictures(side: int) -> npt.NDArray[np.uint8]:
    """Return pictures that are the same everywhere, uint8 (KNOWN_PICTURES, S, S, 3)."""
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    waves = [np.sin(across / 9.0) * np.cos(down / (7.0 + shift)) for shift in range(3)]
    rings = [np.sin(np.hypot(across - side / 3, down - side / 2) / (3.0 + s)) for s in range(3)]
    pictures = np.array([np.stack(waves, axis=-1), np.stack(rings, axis=-1)])
    return (127.5 + 127.5 * pictures).astype(np.uint8)


def compile_model(
    folder: Path,
    precision: str,
    known: Known,
    settings: Settings | None,
    session: Session,
    *,
    keep: bool = True,
) -> Any:
    """Return the compiled model, or None where this processor cannot run the precision.

    It is set up for many batches by `settings`, for one quick answer without them. With `keep`
    what was compiled is kept beside the network.

    Raises MissingLibrary where OpenVINO cannot be used, and BrokenConversion where the files are
    damaged, or give other vectors than the known ones.
    """
    core = import_openvino().Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # The operations that int8 leaves as floats.
    floats = ("bf16" if has_bf16 else "fp32") if precision == "int8" else precision
    if floats not in _HINTS or (floats == "bf16" and not has_bf16):
        return None
    path = folder / ("int8.xml" if precision == "int8" else "model.xml")
    options = {"INFERENCE_PRECISION_HINT": _HINTS[floats], **_use(settings)}
    # Each in a folder of its own: OpenVINO gives files of several settings one name.
    use = "one" if settings is None else "batches"
    parts = ["compiled", *(part for part in (path.stem, floats, use) if part not in _PLAIN)]
    if settings is not None and settings.streams:
        parts.append(f"{settings.streams}x{settings.batch if settings.is_static else 'any'}")
    compiler = _Compiler(core, path, settings, options)

    def check(compiled: Any) -> None:
        _check_pictures(compiled, known)

    try:
        if not keep:
            return _right(compiler.compiled({}), check)
        return _compiled(compiler, folder / "-".join(parts), check, session)
    except RuntimeError as error:
        raise _uncompiled(folder, error) from error


def compile_checked(folder: Path, name: str, check: Check, session: Session) -> Any:
    """Return another network of a converted model, compiled for one quick answer, in float32.

    Raises MissingLibrary where OpenVINO cannot be used, and BrokenConversion as `check` does.
    """
    options = {"INFERENCE_PRECISION_HINT": _HINTS["fp32"], **_use(None)}
    compiler = _Compiler(import_openvino().Core(), folder / f"{name}.xml", None, options)
    try:
        return _compiled(compiler, folder / f"compiled-{name}", check, session)
    except RuntimeError as error:
        raise _uncompiled(folder, error) from error


def _uncompiled(folder: Path, error: RuntimeError) -> MissingLibrary:
    problem = " ".join(str(error).split())[-300:]
    return MissingLibrary(
        f"OpenVINO cannot compile the model in {folder} ({problem}): delete that folder, and it is "
        "converted again"
    )


def _use(settings: Settings | None) -> dict[str, Any]:
    """Return OpenVINO's options for one quick answer, or for many batches."""
    if settings is None:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    elif settings.streams:
        options = {"NUM_STREAMS": settings.streams}
    else:
        options = {"PERFORMANCE_HINT": "THROUGHPUT"}
    if processor_quota() < allowed_processors():  # OpenVINO sees all of them
        options["INFERENCE_NUM_THREADS"] = available_processors()
    return options


@dataclass(frozen=True)
class _Compiler:
    """What is compiled, and how."""

    core: Any
    path: Path
    settings: Settings | None
    options: dict[str, Any]

    def compiled(self, more: dict[str, Any]) -> Any:
        """Return the compiled model. Raises RuntimeError."""
        options = {**self.options, **more}
        if self.settings is None or not self.settings.is_static:
            return self.core.compile_model(str(self.path), "CPU", options)
        model = self.core.read_model(str(self.path))
        shape = model.input(0).partial_shape
        shape[0] = self.settings.batch
        model.reshape(shape)
        return self.core.compile_model(model, "CPU", options)


def _compiled(compiler: _Compiler, kept: Path, check: Check, session: Session) -> Any:
    """Return a model as it was compiled before, else compile it.

    Raises RuntimeError and BrokenConversion.
    """
    processors = available_processors()
    checked = read_note(kept / _CHECKED)
    if checked.get("processors") == processors:
        if (blobs := _blobs(kept)) == checked["sha256"]:
            with contextlib.suppress(RuntimeError):  # it is of another release
                compiled = compiler.compiled({"CACHE_DIR": str(kept)})
                if _names(kept) == list(blobs):  # else it was compiled again: the cache has moved
                    return compiled
        else:
            session.notice(f"the compiled network in {kept} is damaged: it is compiled again")
    shutil.rmtree(kept, ignore_errors=True)
    model = compiler.path
    if not is_whole(model.parent, model.stem):
        raise BrokenConversion(f"{model.parent} is damaged")
    try:
        with tempfile.TemporaryDirectory(dir=model.parent, prefix="tmp-") as made:
            compiled = _right(compiler.compiled({"CACHE_DIR": made}), check)
            blobs = _blobs(Path(made))
            write_note(Path(made, _CHECKED), {"sha256": blobs, "processors": processors})
            with contextlib.suppress(OSError):  # another process was quicker
                Path(made).rename(kept)
                Path(made).mkdir()  # which is removed
            return compiled
    except (OSError, RuntimeError):  # a cache that cannot be made, read or kept: without it
        return _right(compiler.compiled({}), check)


def _right(compiled: Any, check: Check) -> Any:
    check(compiled)
    return compiled


def _blobs(kept: Path) -> dict[str, str]:
    """Return the sha256 of what OpenVINO keeps in a folder, by name."""
    return {name: _digest(kept / name) for name in _names(kept)}


def _names(kept: Path) -> list[str]:
    return sorted(path.name for path in kept.glob("*.blob"))


def fixed_batch(compiled: Any) -> int:
    """Return the only number of pictures that a model takes at once, 0 for one that takes any."""
    count = compiled.input(0).partial_shape[0]
    return 0 if count.is_dynamic else int(count.get_length())


def _check_pictures(compiled: Any, known: Known) -> None:
    """Raise BrokenConversion unless a compiled model gives the known vectors."""
    side = compiled.input(0).partial_shape.get_min_shape()[1]
    found = answers(compiled, known_pictures(side), fixed_batch(compiled))
    least = float(np.einsum("nd,nd->n", found, known).min())
    if not least >= _LEAST_COSINE:  # NaN is none either
        raise BrokenConversion(f"the converted network gives other vectors, cosine {least:.3f}")


def answers(infer: Callable[[Any], Any], pixels: Any, batch: int) -> Known:
    """Return the vectors of uint8 (B, S, S, 3), by a network of any batch, 0, or exactly `batch`.

    The last of several batches is filled up.
    """
    if len(pixels) == (batch or len(pixels)):
        return np.array(infer(pixels)[0], np.float32)  # a copy: the output buffer is reused
    parts = []
    for start in range(0, len(pixels), batch):
        some = pixels[start : start + batch]
        full = np.zeros((batch, *pixels.shape[1:]), np.uint8)
        full[: len(some)] = some
        parts.append(np.array(infer(full)[0][: len(some)], np.float32))
    return np.concatenate(parts)


def place_converted(model: Any, known: Known, folder: Path) -> None:
    """Write `model.xml`, `model.bin` and `runtime.json` into `folder`.

    Raises OSError, MissingLibrary, and BrokenConversion where it gives other vectors here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place_model(model, folder, "model")
    for kept in folder.glob("compiled*"):  # from the former files
        shutil.rmtree(kept, ignore_errors=True)
    note = {
        "openvino": import_openvino().__version__,
        "known": [[round(float(value), 6) for value in vector] for vector in known],
        "precision": _precisions(folder, known),
        "batch": fixed_batch(model),
    }
    write_note(folder / RUNTIME_NOTE, note)


def _precisions(folder: Path, known: Known) -> dict[str, Any]:
    """Return the faster of fp32 and bf16 on this processor, with both rates in images/s.

    A processor may offer bf16 and still run fp32 faster: of two with AVX-512 BF16 but without
    AMX, one did 21 images/s of ResNet-50 in bf16 and 36 in fp32, the other 48 and 26.
    """
    rates: dict[str, float] = {}
    for precision in _HINTS:
        try:
            compiled = compile_model(folder, precision, known, None, Session())
        except BrokenConversion:
            if not rates:
                raise
            continue  # a network that bf16 is too coarse for
        if compiled is None:
            continue
        shape = compiled.input(0).partial_shape.get_min_shape()
        pixels = np.zeros((fixed_batch(compiled) or _PROBE_BATCH, *shape[1:]), np.uint8)
        compiled(pixels)
        started = time.perf_counter()
        for _ in range(_PROBE_ROUNDS):
            compiled(pixels)
        seconds = time.perf_counter() - started
        rates[precision] = round(_PROBE_ROUNDS * len(pixels) / seconds, 1)
    return {"best": max(rates, key=lambda name: rates[name]), "images_per_s": rates}


def place_model(model: Any, folder: Path, name: str) -> dict[str, str]:
    """Save a model as two files in `folder`; return their sha256. Raises OSError."""
    digests = {}
    remove_debris(folder)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder) as staging:
        written = Path(staging, f"{name}.xml")
        try:
            import_openvino().save_model(model, written, compress_to_fp16=True)
        except RuntimeError as error:
            free = shutil.disk_usage(folder).free >> 20
            message = f"cannot be written ({error}), {free} MB are free"
            raise OSError(errno.EIO, message, str(folder)) from error
        for suffix in (".bin", ".xml"):
            file = written.with_suffix(suffix)
            digests[suffix] = _digest(file)
            file.replace(folder / file.name)
    write_note(folder / f"{name}.sha256", digests)
    return digests


def is_whole(folder: Path, name: str) -> bool:
    """Return whether the files of a model are those that were written."""
    digests = read_note(folder / f"{name}.sha256")
    return bool(digests) and all(
        _digest(folder / f"{name}{suffix}") == digest for suffix, digest in digests.items()
    )


def _digest(path: Path) -> str:
    """Return the sha256 of a file, "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def write_note(path: Path, values: dict[str, Any]) -> None:
    """Write JSON with its own sha256. Raises OSError."""
    text = json.dumps(values, sort_keys=True, default=float)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(path, f"{text}\n{digest}\n".encode())


def read_note(path: Path) -> dict[str, Any]:
    """Return what `write_note` wrote, {} if it is missing or damaged."""
    try:
        text, digest = path.read_text().splitlines()
    except (OSError, ValueError):
        return {}
    values: dict[str, Any] = {}
    if hashlib.sha256(text.encode()).hexdigest() == digest:
        values = json.loads(text)
    return values
