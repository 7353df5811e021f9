"""How images are fed to a device; in: a device's name, out: batch size, lanes, batches ahead."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.system import available_processors

CPU_BATCH = 8
MAX_CPU_LANES = 16
CPU_AHEAD = 16
GPU_BATCH = 128
GPU_AHEAD = 64  # while one shard is written a GPU embeds thousands of images
GPU_LANES = 2  # a GPU: one batch is copied while another is computed


@dataclass(frozen=True)
class Feed:
    """How images are fed to a device: `batch` images a batch, on at most `lanes` lanes.

    `ahead` more batches may be embedded before they are needed.
    """

    batch: int
    lanes: int
    ahead: int
    on_gpu: bool


def feed_for(device: str) -> Feed:
    """Return the feed of a device, known before anything is loaded.

    On a CPU batches of 8 are as fast as larger ones, take less memory and end sooner.
    """
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        lanes = min(available_processors(), MAX_CPU_LANES)
        return Feed(CPU_BATCH, lanes, CPU_AHEAD, on_gpu=False)
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if device in {"auto", "cuda"} else 1
    return Feed(GPU_BATCH, GPU_LANES * max(1, gpus), GPU_AHEAD, on_gpu=True)


def may_have_gpu() -> bool:
    """Return whether the machine may have a GPU, without loading torch."""
    nvidia = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    return nvidia or sys.platform in {"darwin", "win32"}
