"""Train the packaged weights: `python -m benchmarks.packaged_weights.make DATA WORK [PASSES]`

DATA holds `train-*.parquet` with the columns jpeg and label: Tiny ImageNet, pictures of 64 × 64.
The packaged weights go on learning, from a teacher (distil.py, teacher.py). Of their means with
what they were before, the best is taken by pictures that this training does not see. Trainings
before it did, which favors small shares, so of a tie the largest counts. It is written to
WORK/packaged_resnet18.safetensors, to be copied over the old file once
benchmarks/packaged_weights/README.md has its figures. Interrupted, the same command goes on.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.packaged_weights.distil import (
    BATCH,
    Distillation,
    Weights,
    measured,
    pooled_features,
)
from embedsearch.core.atomic import write_atomically
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.learning.metrics import measure_classes
from embedsearch.learning.ranking import Ranking
from embedsearch.network.from_torch import MODEL_RECORD
from embedsearch.network.resnet import load
from embedsearch.network.weights import resolve, weights_path

PASSES = 8.0  # over the pictures
HELD_OUT = 3_000
AT_ONCE = 100  # pictures
# What two trainings of one origin agree on is what they share of the world, and not of their
# pictures: their mean can be better than either (Wortsman et al., "Robust fine-tuning", CVPR 2022).
SHARES = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)  # of the new weights
TIE = 0.001  # of mAP


def read(folder: Path) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return all pictures, uint8 (N, 64, 64, 3), and the number of each one's class."""
    jpegs: list[Any] = []
    names: list[Any] = []
    for file in sorted(folder.glob("train-*.parquet")):
        table = pq.read_table(file, columns=["jpeg", "label"])
        jpegs += table["jpeg"].to_pylist()
        names += table["label"].to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
    return torch.from_numpy(pixels), np.unique(names, return_inverse=True)[1]


def mean_ap(
    weights: Weights, spec: ModelSpec, pictures: Tensor, labels: npt.NDArray[np.int64]
) -> float:
    """Return the mAP of pictures, uint8 (N, H, W, 3), leave one out, as a store compares them."""
    network = load(spec.architecture, weights).to(memory_format=torch.channels_last)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), AT_ONCE):
            pixels = pictures[start : start + AT_ONCE].permute(0, 3, 1, 2).float()
            size = (spec.input_side, spec.input_side)
            pixels = functional.interpolate(pixels, size, mode="bicubic").clamp(0.0, 255.0)
            parts.append(pooled_features(network, pixels, spec))
    vectors = measured(torch.cat(parts)).numpy()
    return float(measure_classes(labels, Ranking(vectors))["mAP"].mean())


def mixed(old: Weights, new: Weights, share: float) -> Weights:
    """Return the mean of weights, `share` of it the new ones."""
    return {name: value.float().lerp(new[name].float(), share) for name, value in old.items()}


def main() -> None:
    """Learn, choose the mean, shrink."""
    source, work = Path(sys.argv[1]), Path(sys.argv[2])
    passes = float(sys.argv[3]) if len(sys.argv) > 3 else PASSES
    work.mkdir(parents=True, exist_ok=True)
    pictures, labels = read(source)
    order = np.random.default_rng(0).permutation(len(pictures))
    held, learned = order[:HELD_OUT], order[HELD_OUT:]
    spec = resolve("packaged", Session())
    path = weights_path(spec)
    old = {
        name: value
        for name, value in safetensors.torch.load_file(path).items()
        if not name.endswith("num_batches_tracked")
    }
    distillation = Distillation(spec, old, int(passes * len(learned) / BATCH))
    new = distillation.run(pictures[learned], work / "state.pt")
    scores = {
        share: mean_ap(mixed(old, new, share), spec, pictures[held], labels[held])
        for share in SHARES
    }
    for share, score in scores.items():
        print(f"share {share:.2f} of the new weights: mAP {score:.4f}")
    share = max(one for one, score in scores.items() if score >= max(scores.values()) - TIE)
    write(work / "packaged_resnet18.safetensors", mixed(old, new, share), spec)


def write(path: Path, weights: Weights, spec: ModelSpec) -> None:
    """Write weights in half precision, with the record of their model."""
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    halves = {name: tensor.half() for name, tensor in weights.items()}
    record = json.dumps({**spec.to_dict(), "weights_sha256": ""})  # a file has not its own sum
    data = safetensors.torch.save(halves, {MODEL_RECORD: record})
    write_atomically(path, data)
    print(f"{len(data) / 1e6:.1f} MB written to {path}")


if __name__ == "__main__":
    main()
