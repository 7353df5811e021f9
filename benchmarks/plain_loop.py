"""The loop that everyone writes first: Pillow, torchvision's transform, fp32 NCHW torch.

In: a folder and ResNet-50 weights (.pth); out: a .npy of vectors. It stands for "today's tool"
in the comparison, so it is written as the tutorials write it, and in eval and inference mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

BATCH = 32


def main(folder: Path, weights: Path, target: Path) -> None:
    """Embed every JPEG below `folder`."""
    network = torchvision.models.resnet50(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    network.eval()
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    paths = sorted(folder.rglob("*.jpg"))
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
            vectors.append(network(torch.stack([transform(image) for image in images])).numpy())
    np.save(target, np.concatenate(vectors))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
