"""A model through torch: on CUDA and MPS, and on a CPU without OpenVINO."""

from __future__ import annotations

import copy
import queue
import sys
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from embedsearch.core.errors import MissingLibrary
from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.extractor import Extractor, build_extractor
from embedsearch.network.feed import GPU_LANES
from embedsearch.network.folding import fold_batchnorm
from embedsearch.network.fusing import fuse_kernels
from embedsearch.network.weights import weights_path

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A graph saves launching two hundred kernels a batch and costs about as much as this many batches.
GRAPH_AFTER = 16


class TorchExtractor:
    """Callable: uint8 (B, S, S, 3) to float32 (B, D), unit rows.

    On CUDA it has two lanes a GPU, each with a stream of its own, and with `streaming` it uses
    all visible GPUs; elsewhere it has one lane. As many threads may call it as it has lanes.
    """

    def __init__(
        self, spec: ModelSpec, device: str, precision: str, *, streaming: bool = False
    ) -> None:
        """Load the weights onto `device`. Raises MissingLibrary or WeightsUnavailable."""
        first = torch.device(device)
        _check_present(first)
        self.device = device
        self.precision = _auto_precision(first) if precision == "auto" else precision
        extractor = build_extractor(spec, load_file(weights_path(spec)))
        fold_batchnorm(extractor.network)
        if first.type == "cuda" and not torch.version.hip:
            fuse_kernels(extractor.network)
        extractor.network.to(dtype=DTYPES[self.precision])
        extractor = extractor.to(memory_format=memory_format(first))
        self._lanes: queue.SimpleQueue[_Lane | _CudaLane] = queue.SimpleQueue()
        if first.type != "cuda":
            self.lanes = 1
            self._lanes.put(_Lane(extractor.to(first), first))
            return
        devices = [first]
        if streaming and first.index is None:
            devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        lanes = GPU_LANES if streaming else 1
        self.lanes = lanes * len(devices)
        shared = [(copy.deepcopy(extractor).to(gpu), gpu, Lock()) for gpu in devices]
        for _ in range(lanes):  # the first batches go to different GPUs
            for parts in shared:
                self._lanes.put(_CudaLane(*parts))

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, in parts where the device's memory is short."""
        lane = self._lanes.get()
        try:
            with torch.inference_mode():
                return self._in_parts(lane, np.ascontiguousarray(pixels))
        finally:
            self._lanes.put(lane)

    def _in_parts(
        self, lane: _Lane | _CudaLane, pixels: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        done: list[npt.NDArray[np.float32]] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + lane.max_images]
            try:
                done.append(lane.embed(part))
                start += len(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise MissingLibrary(
                        f"{self.device} has no memory for a single image: use device=cpu", "device"
                    ) from None
                lane.max_images = len(part) // 2  # also for later batches
                lane.free_memory()
        return done[0] if len(done) == 1 else np.concatenate(done)


class _Lane:
    """The network on a device where one batch is worked on at a time."""

    def __init__(self, extractor: Extractor, device: torch.device) -> None:
        self.max_images = sys.maxsize  # images a batch
        self._extractor = extractor
        self._device = device

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 (B, D), unit rows. Raises torch.OutOfMemoryError."""
        vectors = self._extractor(torch.from_numpy(pixels).to(self._device))
        found: npt.NDArray[np.float32] = vectors.cpu().numpy()
        return found

    def free_memory(self) -> None:
        """Free unused memory."""


class _CudaLane:
    """A stream of one GPU with memory of its own: its copies run beside other lanes' kernels.

    Batches of one size are replayed as a CUDA graph once there were enough to pay for it.
    """

    def __init__(self, extractor: Extractor, device: torch.device, launching: Lock) -> None:
        self.max_images = sys.maxsize
        self._extractor = extractor
        self._device = device
        # One lane of a GPU at a time: nothing else may run during a capture.
        self._launching = launching
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._staging = torch.empty(0, dtype=torch.uint8)  # pinned memory for pixels
        self._whole_batches = 0
        self._graph: tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor] | None = None

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 (B, D), unit rows. Raises torch.OutOfMemoryError."""
        staged = self._stage(pixels)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            with self._launching:
                vectors = self._launch(staged).to("cpu", non_blocking=True)
            self._stream.synchronize()  # other threads run meanwhile
        found: npt.NDArray[np.float32] = vectors.numpy().copy()
        return found

    def _stage(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return the pixels in pinned memory: only from there copies are asynchronous."""
        if self._staging.shape[1:] != pixels.shape[1:] or len(self._staging) < len(pixels):
            self._staging = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            self._whole_batches, self._graph = 0, None
        staged = self._staging[: len(pixels)]
        staged.numpy()[:] = pixels
        return staged

    def _launch(self, staged: torch.Tensor) -> torch.Tensor:
        whole = len(staged) == len(self._staging)
        self._whole_batches += whole
        if whole and self._graph is None and self._whole_batches > GRAPH_AFTER:
            self._capture(staged.shape)
        if whole and self._graph is not None:
            graph, taken, given = self._graph
            taken.copy_(staged, non_blocking=True)
            graph.replay()
            return given
        vectors: torch.Tensor = self._extractor(staged.to(self._device, non_blocking=True))
        return vectors

    def _capture(self, shape: torch.Size) -> None:
        taken = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            vectors = self._extractor(taken)
        self._graph = graph, taken, vectors

    def free_memory(self) -> None:
        """Free unused memory and the graph."""
        self._whole_batches, self._graph = 0, None
        self._staging = torch.empty(0, dtype=torch.uint8)
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()


def pick_device(name: str) -> torch.device:
    """Return the device called `name`, for `auto` the best one. Raises MissingLibrary."""
    device = torch.device(best_device() if name == "auto" else name)
    _check_present(device)
    return device


def training_precision(asked: str, device: torch.device) -> str:
    """Return the precision to train in; for `auto` the one that is fast on the device.

    On a CPU that is bf16 only with instructions for it; emulated bf16 is slow.
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
            f"device={device}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices; check the driver with nvidia-smi, or use device=cpu",
            "device",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MissingLibrary("device=mps: torch finds no Metal device; use device=cpu", "device")


def _auto_precision(device: torch.device) -> str:
    if device.type == "cuda":
        # torch reports emulated bf16 as supported; it is slow or fails.
        is_native = torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip
        return "bf16" if is_native else "fp16"
    return "fp32"
