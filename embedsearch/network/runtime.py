"""Which runtime serves a model; in: spec, device, precision; out: a callable extractor."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.core.install import install_command
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.feed import Feed, feed_for, may_have_gpu


class PixelExtractor(Protocol):
    """The interface of every runtime."""

    device: str
    precision: str
    lanes: int  # how many threads may call it at once, and should

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 (B, D), unit rows, of uint8 (B, S, S, 3)."""


def load_extractor(
    spec: ModelSpec, device: str, precision: str, session: Session
) -> PixelExtractor:
    """Return the extractor of a model on a device, set up for one quick answer.

    On a CPU that is OpenVINO, and torch where OpenVINO is missing or the precision is fp16.
    Raises MissingLibrary or WeightsUnavailable.
    """
    return _load(spec, device, precision, session, streaming=False)


def load_stream_extractor(
    spec: ModelSpec, device: str, precision: str, session: Session
) -> PixelExtractor:
    """Return the same extractor, set up for many batches on all its lanes."""
    return _load(spec, device, precision, session, streaming=True)


def stream_feed(
    spec: ModelSpec, device: str, precision: str, session: Session, images: int = 0
) -> Feed:
    """Return how images are fed to a model on a device, as it was measured to be fastest.

    Where it was not measured yet, that is done if so many images are worth it.
    Raises what loading raises.
    """
    if spec.is_of_towers or is_on_openvino(device, precision):
        from embedsearch.network.openvino_runtime import stream_settings

        return feed_for("cpu", stream_settings(spec, precision, session, images))
    return feed_for(device)


def int8_pays(spec: ModelSpec, device: str, precision: str) -> bool:
    """Return whether int8 was measured to be much faster than a precision on this machine."""
    if device != "cpu" or not is_on_openvino(device, precision):
        return False
    from embedsearch.network import openvino_runtime

    return openvino_runtime.int8_pays(spec, precision)


def is_on_openvino(device: str, precision: str) -> bool:
    """Return whether OpenVINO runs the network, as far as that is known before loading."""
    on_cpu = device == "cpu" or (device == "auto" and not may_have_gpu())
    return on_cpu and precision != "fp16" and find_spec("openvino") is not None


def _load(
    spec: ModelSpec, device: str, precision: str, session: Session, *, streaming: bool
) -> PixelExtractor:
    check_runs(spec, device, precision)
    if spec.is_of_towers:
        device = "cpu"
    if device == "auto":
        device = _auto_device(session)
    if device == "cpu" and precision != "fp16":
        if find_spec("openvino") is not None:
            from embedsearch.network.openvino_runtime import OpenVinoExtractor

            lanes = feed_for("cpu").lanes if streaming else 0
            return OpenVinoExtractor(spec, precision, session, lanes=lanes)
        session.notice("openvino is not installed: embedding with torch, which is slower on a CPU")
    if precision == "int8":
        raise MissingLibrary(
            "precision=int8 is for CPUs, through OpenVINO: use precision=auto", "precision"
        )
    try:
        from embedsearch.network.torch_runtime import TorchExtractor
    except (ImportError, OSError) as error:  # OSError: a CUDA library that does not load
        raise MissingLibrary(
            f"torch does not load ({_one_line(error)}): {install_command('torch')}"
        ) from error
    return TorchExtractor(spec, device, precision, streaming=streaming)


def check_runs(spec: ModelSpec, device: str, precision: str) -> None:
    """Raise UsageError where ONNX files are asked of another device, MissingLibrary where of none.

    OpenVINO runs them, on a CPU.
    """
    if not spec.is_of_towers:
        return
    if device not in {"auto", "cpu"}:
        raise UsageError(f"device={device}: ONNX files run on the CPU, use device=cpu", "device")
    if precision not in {"auto", "fp32", "bf16"}:
        raise UsageError(f"precision={precision}: ONNX files run in fp32 or bf16", "precision")
    if find_spec("openvino") is None:
        raise MissingLibrary(f"ONNX files need OpenVINO: {install_command('openvino')}", "model")


def _auto_device(session: Session) -> str:
    """Return the fastest device. Torch, slow to import, is loaded only where a GPU may be."""
    if not may_have_gpu():
        return "cpu"
    try:
        from embedsearch.network.torch_runtime import best_device
    except (ImportError, OSError) as error:  # a broken or a missing CUDA library
        session.notice(f"embedding on the CPU: torch does not load ({_one_line(error)})")
        return "cpu"
    try:
        return best_device()
    except Exception as error:  # of a driver that torch does not get along with
        session.notice(f"embedding on the CPU: torch finds no device ({_one_line(error)})")
        return "cpu"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
