"""A model through torch: on CUDA and MPS, and on a CPU without OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from embedsearch.errors import MissingLibrary
from embedsearch.network.extractor import build_extractor
from embedsearch.network.tensors import load_tensors
from embedsearch.network.weights import weights_path
from embedsearch.records import ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchExtractor:
    """Callable: uint8 (B, S, S, 3) to float32 (B, D), unit rows."""

    lanes = 1

    def __init__(self, spec: ModelSpec, device: str, precision: str) -> None:
        """Load the weights onto `device`. Raises MissingLibrary or WeightsUnavailable."""
        self._device = torch.device(device)
        _check_present(self._device)
        self.device = device
        self.precision = _auto_precision(self._device) if precision == "auto" else precision
        extractor = build_extractor(spec, load_tensors(weights_path(spec)))
        extractor.network.to(dtype=DTYPES[self.precision])
        layout = memory_format(self._device)
        self._extractor = extractor.to(self._device).to(memory_format=layout)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, in halves where the device's memory is short."""
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
                vectors: npt.NDArray[np.float32] = self._extractor(batch).cpu().numpy()
                return vectors
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise MissingLibrary(
                    f"{self.device} has no memory for a single image: --device cpu"
                ) from None
            torch.cuda.empty_cache()
            middle = len(pixels) // 2
            return np.concatenate([self(pixels[:middle]), self(pixels[middle:])])


def pick_device(name: str) -> torch.device:
    """Return the device called `name`, for `auto` the best one. Raises MissingLibrary."""
    device = torch.device(best_device() if name == "auto" else name)
    _check_present(device)
    return device


def training_precision(asked: str, device: torch.device) -> str:
    """Return in which precision to train: for `auto` what the device is fast at.

    On a CPU that is bf16 only where its instructions are there; emulated it is slow.
    """
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return _auto_precision(device)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "fp32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def memory_format(device: torch.device) -> torch.memory_format:
    """Return how a network's weights and maps lie in memory: channels last where that is safe.

    On MPS the gradients of BatchNorm were wrong for it (pytorch issue 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def best_device() -> str:
    """Return cuda or mps where torch can use it, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_present(device: torch.device) -> None:
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingLibrary(
            f"--device {device}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; check the driver with nvidia-smi, or use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MissingLibrary("--device mps: torch finds no Metal device; use --device cpu")


def _auto_precision(device: torch.device) -> str:
    if device.type == "cuda":
        # Asked whether it supports bf16, torch counts emulation, which is slow or fails.
        is_native = torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip
        return "bf16" if is_native else "fp16"
    return "fp32"
