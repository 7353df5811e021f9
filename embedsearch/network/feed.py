"""How images are fed to a network; in: a device's name, out: batch size, lanes, batches ahead."""

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
class Settings:
    """How a network runs on the CPU: `streams` batches at once, each of `batch` images.

    A static network takes batches of exactly that size: smaller ones are filled up.
    """

    streams: int = 0  # 0: what OpenVINO chooses
    batch: int = CPU_BATCH
    is_static: bool = False

    def __str__(self) -> str:
        streams = f"{self.streams or 'automatic'} streams".replace("1 streams", "1 stream")
        return f"{streams}, batches of {self.batch}{' exactly' if self.is_static else ''}"


AUTOMATIC = Settings()


@dataclass(frozen=True)
class Feed:
    """How images are fed to a device: `batch` images a batch, on at most `lanes` lanes.

    `ahead` more batches may be embedded before they are needed.
    """

    batch: int
    lanes: int
    ahead: int
    on_gpu: bool
    settings: Settings = AUTOMATIC  # of a network on the CPU


def feed_for(device: str, settings: Settings = AUTOMATIC) -> Feed:
    """Return the feed of a device, known before anything is loaded."""
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        lanes = min(available_processors(), MAX_CPU_LANES)
        return Feed(settings.batch, lanes, CPU_AHEAD, on_gpu=False, settings=settings)
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if device in {"auto", "cuda"} else 1
    return Feed(GPU_BATCH, GPU_LANES * max(1, gpus), GPU_AHEAD, on_gpu=True)


def may_have_gpu() -> bool:
    """Return whether the machine may have a GPU, without loading torch."""
    nvidia = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    return nvidia or sys.platform in {"darwin", "win32"}
