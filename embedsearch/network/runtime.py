"""Which runtime serves a model; in: spec, device, precision; out: a callable extractor."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedsearch.errors import MissingLibrary
from embedsearch.records import ModelSpec
from embedsearch.session import Session


class PixelExtractor(Protocol):
    """What every runtime offers."""

    device: str
    precision: str

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 (B, D), unit rows, of uint8 (B, S, S, 3)."""


def load_extractor(
    spec: ModelSpec, device: str, precision: str, session: Session
) -> PixelExtractor:
    """Return the extractor of a model on a device.

    On a CPU that is OpenVINO, and torch where OpenVINO is missing or the precision is fp16.
    Raises MissingLibrary or WeightsUnavailable.
    """
    if device == "auto":
        device = _auto_device()
    if device == "cpu" and precision != "fp16":
        if find_spec("openvino") is not None:
            from embedsearch.network.openvino_runtime import OpenVinoExtractor

            return OpenVinoExtractor(spec, precision, session)
        session.notice("openvino is not installed: embedding with torch, which is slower on a CPU")
    try:
        from embedsearch.network.torch_runtime import TorchExtractor
    except (ImportError, OSError) as error:  # OSError: a CUDA library that does not load
        raise MissingLibrary(f"torch does not load ({error}): pip install torch") from error
    return TorchExtractor(spec, device, precision)


def _auto_device() -> str:
    """Return the fastest device. Torch, slow to import, is asked only where a GPU may be."""
    nvidia = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    if not nvidia and sys.platform not in {"darwin", "win32"}:
        return "cpu"
    try:
        from embedsearch.network.torch_runtime import best_device
    except (ImportError, OSError):
        return "cpu"
    return best_device()
