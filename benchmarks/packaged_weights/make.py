"""Train the packaged weights: `python -m benchmarks.packaged_weights.make TINY_IMAGENET WORK`

TINY_IMAGENET holds `train-*.parquet` with the columns jpeg and label. The pictures are laid out in
WORK as one folder a class; `embedsearch train` goes on from the weights that are packaged now, with
small views and then with larger ones; and the mean of what it began with and what it ended with is
written in half precision to WORK/packaged_resnet18.safetensors, to be copied over the old file once
benchmarks/packaged_weights/README.md has its figures. Interrupted, the same command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import safetensors.torch
import torch

from embedsearch.core.atomic import write_atomically
from embedsearch.core.session import Session
from embedsearch.network.checkpoint import read_weights
from embedsearch.network.prepare import MODEL_RECORD
from embedsearch.network.weights import resolve, weights_path

START = "packaged"
COMMON = "--holdout 0.02 --batch 128 --margin 0"
TRAININGS = {
    "small": "--input-side 96 --epochs 10 --lr 0.1",
    "full": "--input-side 128 --epochs 5 --lr 0.05",
}
# What two trainings of one origin agree on is what they share of the world, and not of their
# pictures: their mean is better than either (Wortsman et al., "Robust fine-tuning", CVPR 2022).
SHARE = 0.5  # of the new weights


def lay_out(source: Path, folder: Path) -> None:
    """Write the JPEGs, as they are, to one folder a class."""
    if folder.exists():
        return
    count = 0
    staging = folder.with_suffix(".tmp")
    for file in sorted(source.glob("train-*.parquet")):
        table = pq.read_table(file)
        jpegs: list[Any] = table["jpeg"].to_pylist()
        labels: list[Any] = table["label"].to_pylist()
        for jpeg, label in zip(jpegs, labels, strict=True):
            target = staging / label.replace("/", "_") / f"{count:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(jpeg)
            count += 1
    staging.rename(folder)


def train(work: Path) -> Path:
    """Run the trainings that are not done yet, each from the one before; return the last file."""
    model: str | Path = START
    for name, options in TRAININGS.items():
        out = work / f"{name}.safetensors"
        if not out.exists():
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "embedsearch",
                "train",
                work / "tiny",
            ]
            command += ["--out", out, "--model", model, *COMMON.split(), *options.split()]
            subprocess.run(command, check=True)
        model = out
    return Path(model)


def main() -> None:
    """Lay out, train, take the mean, shrink."""
    source, work = Path(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    lay_out(source, work / "tiny")
    trained, metadata, _ = read_weights(train(work))
    start = safetensors.torch.load_file(weights_path(resolve(START, Session())))
    mean = {
        name: old.float().lerp(trained[name].float(), SHARE).half()
        for name, old in start.items()
        if not name.endswith("num_batches_tracked")
    }
    assert all(torch.isfinite(tensor.float()).all() for tensor in mean.values())
    data = safetensors.torch.save(mean, {MODEL_RECORD: metadata[MODEL_RECORD]})
    write_atomically(work / "packaged_resnet18.safetensors", data)
    print(f"{len(data) / 1e6:.1f} MB written to {work / 'packaged_resnet18.safetensors'}")


if __name__ == "__main__":
    main()
