"""A model on the CPU through OpenVINO, without torch in this process.

The converted network is in the user's cache, one folder a model and version; a missing one is made
by the child process of `prepare.py`, but that of the packaged weights, which is shipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import queue
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import MissingLibrary, WeightsUnavailable
from embedsearch.core.install import install_command
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folders
from embedsearch.network.child import noted_cache_folder, run_prepare
from embedsearch.network.converted import (
    RUNTIME_NOTE,
    BrokenConversion,
    Known,
    answers,
    compile_model,
    fixed_batch,
    import_openvino,
    is_whole,
    place_converted,
    read_note,
)
from embedsearch.network.feed import AUTOMATIC, Settings
from embedsearch.network.shipped import shipped
from embedsearch.network.tuning import best_rate, tune, tuned_settings
from embedsearch.network.weights import weights_path

_TRIES = 2
# Of embedding, for which it is measured how that is fastest.
_WORTH_S = 10.0
_WORTH_IMAGES = 500
_PAYS = 1.15  # int8 is advised from that many times as fast


class OpenVinoExtractor:
    """Callable: uint8 (B, S, S, 3) to float32 (B, D), unit rows."""

    device = "cpu"

    def __init__(
        self, spec: ModelSpec, precision: str, session: Session, *, lanes: int = 0
    ) -> None:
        """Load the converted model for batches on up to `lanes` lanes, with 0 for quick answers.

        Raises MissingLibrary or WeightsUnavailable.
        """
        streaming = lanes > 0
        self.precision, compiled = _loaded(spec, precision, session, streaming=streaming)
        if compiled is None:
            raise MissingLibrary(
                f"this processor does not run {self.precision}: use precision=auto", "precision"
            )
        self._batch = fixed_batch(compiled)
        self.lanes = min(max(1, lanes), compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
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
            # share_inputs: the pixels are not copied.
            return answers(lambda some: request.infer(some, share_inputs=True), pixels, self._batch)
        finally:
            self._requests.put(request)


def stream_settings(spec: ModelSpec, precision: str, session: Session, images: int) -> Settings:
    """Return how the converted model runs fastest on many batches.

    That is measured where it was not yet and so many images are worth it.
    Raises MissingLibrary or WeightsUnavailable.
    """
    if images < _WORTH_IMAGES and _kept(spec, needs_int8=precision == "int8") is None:
        return AUTOMATIC
    folder, chosen, known = _found(spec, precision, session)
    rates = read_note(folder / RUNTIME_NOTE)["precision"]["images_per_s"]
    if images >= max(_WORTH_IMAGES, _WORTH_S * rates.get(chosen, max(rates.values()))):
        with contextlib.suppress(BrokenConversion):  # it is converted again where it is loaded
            tune(folder, chosen, known, session)
    return tuned_settings(folder, chosen)


def int8_pays(spec: ModelSpec, precision: str) -> bool:
    """Return whether int8 was measured to be much faster here than a precision."""
    folder = _kept(spec, needs_int8=True)
    if folder is None:
        return False
    usual = best_rate(folder, precision)
    return usual > 0 and best_rate(folder, "int8") >= _PAYS * usual


def _found(spec: ModelSpec, precision: str, session: Session) -> tuple[Path, str, Known]:
    """Return the folder of the converted model, the precision, and the known vectors."""
    folder = converted_folder(spec, session, needs_int8=precision == "int8")
    note = read_note(folder / RUNTIME_NOTE)
    chosen = note["precision"]["best"] if precision == "auto" else precision
    return folder, chosen, np.array(note["known"], np.float32)


def _loaded(
    spec: ModelSpec, precision: str, session: Session, *, streaming: bool
) -> tuple[str, Any]:
    """Return precision and the compiled model; a damaged one is converted again.

    Raises MissingLibrary or WeightsUnavailable.
    """
    for attempt in range(_TRIES):
        folder, chosen, known = _found(spec, precision, session)
        settings = tuned_settings(folder, chosen) if streaming else None
        try:
            return chosen, compile_model(folder, chosen, known, settings, session)
        except BrokenConversion as error:
            if attempt == _TRIES - 1:
                raise MissingLibrary(f"{error}: delete {folder}, or use precision=fp32") from error
            session.notice(f"{error}: {spec.name} is converted again")
            shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError("unreachable: the last try returns or raises")


def converted_folder(spec: ModelSpec, session: Session, *, needs_int8: bool = False) -> Path:
    """Return the folder of the converted model, converting it first where it is missing.

    Raises WeightsUnavailable and MissingLibrary.
    """
    if (kept := _kept(spec, needs_int8=needs_int8)) is not None:
        return kept
    folder = noted_cache_folder(session) / "openvino" / _folder_name(spec)
    if not _is_ready(folder):
        weights_path(spec)  # where they are missing, that is said, and nothing is converted
        session.notice(f"converting {spec.name} for this processor (once)")
        _convert(spec, folder, session)
    if needs_int8:
        _quantize(folder, spec, session)
    return folder


def _convert(spec: ModelSpec, folder: Path, session: Session) -> None:
    """Put the converted model into a folder. Raises WeightsUnavailable and MissingLibrary."""
    weights = weights_path(spec)
    found = None if spec.is_of_towers else shipped(spec, weights) or _of_another_processor(spec)
    if found is None or not _is_placed(*found, folder):
        values = {"spec": spec.to_dict(), "weights": str(weights), "folder": str(folder)}
        run_prepare("convert", values, session)


def _of_another_processor(spec: ModelSpec) -> tuple[Any, Known] | None:
    """Return a model that was converted on another kind of processor, and its known vectors.

    An image of a container is made on one machine and runs on others. Only the precision and what
    is compiled are a processor's own.
    """
    if spec.takes_texts:  # the second network would be missing
        return None
    for base in cache_folders():
        for folder in (base / "openvino").glob(_folder_name(spec, "*")):
            note = read_note(folder / RUNTIME_NOTE)
            if note and is_whole(folder, "model"):
                with contextlib.suppress(RuntimeError):  # it cannot be read: as if it were missing
                    model = import_openvino().Core().read_model(str(folder / "model.xml"))
                    return model, np.array(note["known"], np.float32)
    return None


def _is_placed(model: Any, known: Known, folder: Path) -> bool:
    """Put a model that was converted beforehand into a folder; False if it is not right here."""
    try:
        place_converted(model, known, folder)
    except BrokenConversion:
        return False
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        message = f"converting the network failed: {where}: {why}"
        raise WeightsUnavailable(f"{message}; EMBEDSEARCH_CACHE moves the cache folder") from error
    return True


def _kept(spec: ModelSpec, *, needs_int8: bool) -> Path | None:
    """Return the folder of the converted model, None where it is missing."""
    for base in cache_folders():
        folder = base / "openvino" / _folder_name(spec)
        if _is_ready(folder) and (not needs_int8 or is_whole(folder, "int8")):
            return folder
    return None


def _folder_name(spec: ModelSpec, processor: str | None = None) -> str:
    return f"{spec.fingerprint[:32]}-{version('openvino')}-{processor or _processor()}"


def _is_ready(folder: Path) -> bool:
    """Return whether a folder holds a converted model; its files are checked where they are used.

    A compiled model does not need them.
    """
    return bool(read_note(folder / RUNTIME_NOTE))


def _quantize(folder: Path, spec: ModelSpec, session: Session) -> None:
    """Make the int8 form of a converted model where it is missing."""
    if is_whole(folder, "int8"):
        return
    if find_spec("nncf") is None:
        raise MissingLibrary(f"precision=int8 needs NNCF: {install_command('nncf')}", "precision")
    session.notice(f"quantizing {spec.name} to int8 (once)")
    run_prepare("quantize", {"folder": str(folder), "side": spec.input_side}, session)


def _processor() -> str:
    """Return 8 hex digits for this kind of processor: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        text = "".join(line for line in lines if line.startswith(("model", "flags", "vendor")))
    except OSError:
        text = platform.processor() + platform.machine()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
