"""Train the packaged weights: `python -m benchmarks.packaged_weights.make TINY_IMAGENET WORK`

TINY_IMAGENET holds `train-*.parquet` with the columns jpeg and label. The pictures are laid out in
WORK as one folder a class, `embedsearch train` goes on from the weights that are packaged now, and
what comes out is written in half precision to WORK/packaged_resnet18.safetensors, to be copied
over the old file once benchmarks/packaged_weights/README.md has its figures. Interrupted, the same
command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

from embedsearch.network.prepare import MODEL_RECORD, read_weights
from embedsearch.network.tensors import dump_tensors
from embedsearch.writing import write_atomically

COMMAND = "--model packaged --holdout 0.02 --epochs 5 --batch 128 --lr 0.05"


def lay_out(source: Path, folder: Path) -> None:
    """Write the JPEGs, as they are, to one folder a class."""
    if folder.exists():
        return
    count = 0
    staging = folder.with_suffix(".tmp")
    for file in sorted(source.glob("train-*.parquet")):
        table = pq.read_table(file)
        for jpeg, label in zip(table["jpeg"].to_pylist(), table["label"].to_pylist(), strict=True):
            target = staging / label.replace("/", "_") / f"{count:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(jpeg)
            count += 1
    staging.rename(folder)


def main() -> None:
    """Lay out, train, shrink."""
    source, work = Path(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    lay_out(source, work / "tiny")
    trained = work / "trained.safetensors"
    if not trained.exists():
        command = [sys.executable, "-m", "embedsearch", "train", str(work / "tiny")]
        subprocess.run([*command, *COMMAND.split(), "--out", str(trained)], check=True)
    weights, metadata = read_weights(trained)
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    record = {MODEL_RECORD: metadata[MODEL_RECORD]}
    assert all(torch.isfinite(tensor.float()).all() for tensor in halves.values())
    data = dump_tensors(halves, record)
    write_atomically(work / "packaged_resnet18.safetensors", data)
    print(f"{len(data) / 1e6:.1f} MB written to {work / 'packaged_resnet18.safetensors'}")


if __name__ == "__main__":
    main()
