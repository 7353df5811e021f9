"""Pictures to learn from, a training that stops, and what a training changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from embedsearch.core.session import Session
from embedsearch.learning.reports import TrainReport
from embedsearch.learning.train import train
from embedsearch.network.weights import resolve, weights_path

SMALL: dict[str, Any] = {
    "model": "packaged",
    "input_side": 64,
    "precision": "fp32",
    "device": "cpu",
}


def pattern(path: Path, kind: int, seed: int) -> None:
    """Write stripes, checks, spots or clouds, of any colour, size and direction."""
    rng = np.random.default_rng(1000 * kind + seed)
    y, x = np.mgrid[:48, :48]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
    u = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + seed)
    v = np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    clouds = np.asarray(
        Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize((48, 48))
    )
    wave = [u, np.sign(u * v), np.where(u + v > 1, 1.0, -1.0), clouds / 127.5 - 1.0][kind]
    low, high = rng.integers(0, 120, 3), rng.integers(135, 256, 3)
    pixels = low + (high - low) * ((wave + 1) / 2)[..., None] + rng.normal(0, 40, (48, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def changes(out: Path) -> set[str]:
    """Return the parameters and statistics in which a file differs from the packaged weights."""
    before, after = state(weights_path(resolve("packaged", Session()))), state(out)
    return {name for name in before if not torch.equal(after[name].float(), before[name].float())}


class Stop:
    """Asks a run to stop after a number of steps; decoding, whose looks vary, does not count."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.learning = False

    def begin(self, _: object) -> None:
        self.learning = True

    def __call__(self) -> int:
        self.left -= self.learning
        return 2 if self.left <= 0 else 0


def train_until(stop: Stop, *arguments: Any, **options: Any) -> TrainReport:
    return train(*arguments, session=Session(stop=stop), on_plan=stop.begin, **options)


def training_folder(out: Path) -> Path:
    return out.with_suffix(".training")


def write(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"
