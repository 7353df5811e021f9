"""Deeper is worse without shortcuts: `python -m benchmarks.degradation TINY_IMAGENET OUT.png`

The claim of He et al. (CVPR 2016, fig. 6): of plain networks the one with 56 layers fits its own
training pictures worse than the one with 20; of residual ones it does not. Five classes of Tiny
ImageNet at 32 px, networks as in the paper's section 4.2 but for two things: shortcuts that change
shape are projections, and residual blocks begin as the identity, as everywhere in this project.
Some minutes on two processors. Plots the training error by epoch and prints a Markdown table.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import machine
from embedsearch.learning.augment import random_views
from embedsearch.network.resnet import ARCHITECTURES, BasicBlock, initialize

SIDE, CLASSES, EPOCHS, BATCH, LR = 32, 5, 8, 64, 0.05
KIND = ARCHITECTURES["resnet18"]  # basic blocks, ReLU
NETWORKS = [(depth, residual) for residual in (False, True) for depth in (20, 56)]


class PlainBlock(BasicBlock):
    """The block without its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """Return act(F(x))."""
        y: Tensor = self.act(self.residual(x))
        return y


def build(depth: int, *, residual: bool) -> nn.Sequential:
    """Return the network of 6n + 2 layers: 16, 32 and 64 channels in three stages of n blocks."""
    block = BasicBlock if residual else PlainBlock
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
    ]  # fmt: skip
    channels = 16
    for width in (16, 32, 64):
        for place in range((depth - 2) // 6):
            stride = 2 if place == 0 and width > 16 else 1
            layers.append(block(channels, width, stride, KIND))
            channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))
    initialize(network)
    if not residual:  # a plain block that begins at 0 stays there
        for module in network.modules():
            if isinstance(module, PlainBlock):
                nn.init.ones_(module.last_norm.weight)
    return network


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Return uint8 (N, S, S, 3) and int64 (N,) of the first classes."""
    pixels: list[Any] = []
    labels: list[Any] = []
    for file in sorted(folder.glob("train-*.parquet")):
        table = pq.read_table(file)
        labels += table["label"].to_pylist()
        pixels += table["jpeg"].to_pylist()
    chosen = sorted(set(labels))[:: len(set(labels)) // CLASSES][:CLASSES]
    kept = [
        (jpeg, chosen.index(label))
        for jpeg, label in zip(pixels, labels, strict=True)
        if label in chosen
    ]
    small = [
        np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE)))
        for jpeg, _ in kept
    ]
    return torch.from_numpy(np.stack(small)), torch.tensor([label for _, label in kept])


def train(network: nn.Module, pixels: Tensor, labels: Tensor) -> list[float]:
    """Return the error on the training pictures after each epoch, in percent."""
    network = network.to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(pixels) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    chance = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(EPOCHS):
        network.train()
        order = torch.randperm(len(pixels), generator=chance)
        for step in range(len(pixels) // BATCH):
            places = order[step * BATCH : (step + 1) * BATCH]
            views = random_views(pixels[places], SIDE, chance) / 127.5 - 1.0
            scores = network(views.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(scores, labels[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        errors.append(100.0 * (1.0 - accuracy(network, pixels, labels)))
    return errors


def accuracy(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Return the share of pictures, as they are, that are classified right."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(pixels), 500):
            x = pixels[start : start + 500].permute(0, 3, 1, 2).float() / 127.5 - 1.0
            right += int((network(x).argmax(dim=1) == labels[start : start + 500]).sum())
    return right / len(pixels)


def main() -> None:
    """Train the four networks, print the table and write the plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pixels, labels = read(Path(sys.argv[1]))
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    print(f"{machine()}\n\n{len(pixels)} pictures, {CLASSES} classes, {EPOCHS} epochs\n")
    print("| network | training error, % | minutes |\n|---|---|---|")
    for depth, residual in NETWORKS:
        torch.manual_seed(0)
        started = time.monotonic()
        errors = train(build(depth, residual=residual), pixels, labels)
        name = f"{'residual' if residual else 'plain'}-{depth}"
        minutes = (time.monotonic() - started) / 60
        print(f"| {name} | {errors[-1]:.1f} | {minutes:.1f} |", flush=True)
        axes.plot(
            range(1, EPOCHS + 1), errors, label=name, linewidth=2.2 if depth == 56 else 1.2,
            color="tab:blue" if residual else "tab:red",
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="training error, %", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(sys.argv[2], dpi=120)


if __name__ == "__main__":
    main()
