"""A model on the CPU through OpenVINO, without torch in this process.

The converted network is in the user's cache, one folder a model and version; a missing one is made
by the child process of `prepare.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import platform
import queue
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import MissingLibrary
from embedsearch.core.install import pip_install
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folders
from embedsearch.network.weights import noted_cache_folder, run_prepare, weights_path

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_DEBRIS_AGE_S = 3600.0


class OpenVinoExtractor:
    """Callable: uint8 (B, S, S, 3) to float32 (B, D), unit rows."""

    device = "cpu"

    def __init__(
        self, spec: ModelSpec, precision: str, session: Session, *, lanes: int = 1
    ) -> None:
        """Load the converted model for one quick answer, or for batches on up to `lanes` lanes.

        Raises MissingLibrary or WeightsUnavailable.
        """
        folder = _converted(spec, session, needs_int8=precision == "int8")
        note = json.loads((folder / "runtime.json").read_text())
        self.precision = note["precision"]["best"] if precision == "auto" else precision
        streaming = lanes > 1
        compiled = compile_model(folder, self.precision, streaming=streaming)
        if compiled is None:
            raise MissingLibrary(
                f"this processor does not run {self.precision}: use precision=auto", "precision"
            )
        self.lanes = min(lanes, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()  # each for one call at a time
        for _ in range(self.lanes):
            self._requests.put(compiled.create_infer_request())
        if streaming:
            # The first tensors that several threads made at once have deadlocked in OpenVINO.
            self(np.zeros((1, spec.input_side, spec.input_side, 3), dtype=np.uint8))

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch."""
        request = self._requests.get()
        try:
            result = request.infer(pixels, share_inputs=True)[0]  # the pixels are not copied
            return np.array(result, dtype=np.float32)  # a copy: the output buffer is reused
        finally:
            self._requests.put(request)


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


def compile_model(folder: Path, precision: str, *, streaming: bool = False) -> Any:
    """Return the compiled model, or None where this processor cannot run the precision.

    Raises MissingLibrary where OpenVINO cannot be used.
    """
    try:
        return _compiled(import_openvino().Core(), folder, precision, streaming=streaming)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[-300:]
        raise MissingLibrary(
            f"OpenVINO cannot compile the model in {folder} ({problem}): delete that folder, and "
            "it is converted again"
        ) from error


def _compiled(core: Any, folder: Path, precision: str, *, streaming: bool) -> Any:
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # The operations that int8 leaves as floats.
    floats = ("bf16" if has_bf16 else "fp32") if precision == "int8" else precision
    if floats not in _HINTS or (floats == "bf16" and not has_bf16):
        return None
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT" if streaming else "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[floats],
    }
    name = "int8.xml" if precision == "int8" else "model.xml"
    cached = {**settings, "CACHE_DIR": str(folder / "compiled")}
    try:
        return core.compile_model(str(folder / name), "CPU", cached)
    except RuntimeError:  # a cache that cannot be made, read or kept: without it
        return core.compile_model(str(folder / name), "CPU", settings)


def _converted(spec: ModelSpec, session: Session, *, needs_int8: bool) -> Path:
    """Return the folder of the converted model, converting it first where it is missing."""
    name = f"{spec.fingerprint[:32]}-{version('openvino')}-{_processor()}"
    for base in cache_folders():
        folder = base / "openvino" / name
        has_int8 = not needs_int8 or _is_whole(folder, "int8", "int8")
        if has_int8 and _is_whole(folder, "model", "runtime"):
            return folder
    folder = noted_cache_folder(session) / "openvino" / name
    if not _is_whole(folder, "model", "runtime"):
        session.notice(f"converting {spec.name} for this processor (once)")
        values = {"spec": spec.to_dict(), "weights": str(weights_path(spec)), "folder": str(folder)}
        run_prepare("convert", values, session)
    if needs_int8:
        _quantize(folder, spec, session)
    return folder


def _quantize(folder: Path, spec: ModelSpec, session: Session) -> None:
    """Make the int8 form of a converted model where it is missing."""
    if _is_whole(folder, "int8", "int8"):
        return
    if find_spec("nncf") is None:
        raise MissingLibrary(f"precision=int8 needs NNCF: {pip_install('nncf')}", "precision")
    session.notice(f"quantizing {spec.name} to int8 (once)")
    run_prepare("quantize", {"folder": str(folder), "side": spec.input_side}, session)


def place_model(model: Any, folder: Path, name: str) -> dict[str, str]:
    """Save a model as two files in `folder`; return their sha256. Raises OSError."""
    digests = {}
    for left in folder.glob("tmp-*"):  # by a process that was killed
        with contextlib.suppress(OSError):  # it only takes space; the next run tries again
            if left.stat().st_mtime < time.time() - _DEBRIS_AGE_S:
                shutil.rmtree(left)
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
            digests[suffix] = hashlib.sha256(file.read_bytes()).hexdigest()
            file.replace(folder / file.name)
    return digests


def _is_whole(folder: Path, model: str, note: str) -> bool:
    """Return whether a model's files are those that its note was written for."""
    try:
        digests = json.loads((folder / f"{note}.json").read_text())["sha256"]
        for suffix, digest in digests.items():
            with (folder / f"{model}{suffix}").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _processor() -> str:
    """Return 8 hex digits for this kind of processor: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        text = "".join(line for line in lines if line.startswith(("model", "flags", "vendor")))
    except OSError:
        text = platform.processor() + platform.machine()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
