"""What goes wrong with training, in words; in: a network and its losses, out: sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from embedsearch.config import STAGES
from embedsearch.learning.labels import Target
from embedsearch.network.resnet import ResNet

MOST_DEAD = 0.25  # of a stage's channels, before it is said
LEAST_LEARNT = 0.02  # of the loss of guessing, after which a head counts as learning


def dead_shares(network: ResNet, run: Callable[[], object]) -> dict[str, float]:
    """Return for each stage the share of channels that are nowhere above 0 while `run` runs.

    A ReLU whose input is never positive gets no gradient and never comes back.
    """
    peaks: dict[str, Tensor] = {}

    def watch(stage: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            peak = output.detach().amax(dim=(0, 2, 3))
            peaks[stage] = torch.maximum(peaks[stage], peak) if stage in peaks else peak

        return note

    hooks = [
        network.get_submodule(stage).register_forward_hook(watch(stage)) for stage in STAGES[1:]
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {stage: float((peak <= 0).float().mean()) for stage, peak in peaks.items()}


def dead_words(before: dict[str, float], now: dict[str, float]) -> list[str]:
    """Return a sentence a stage in which activations died since `before`."""
    return [
        f"{stage}: {share:.0%} of the channels are dead, nowhere above 0 ({before[stage]:.0%} "
        "before): a lower --lr, or an architecture with -leaky_relu, keeps them alive"
        for stage, share in now.items()
        if share > MOST_DEAD and share > before[stage] + 0.05
    ]


def guessing_loss(targets: Sequence[Target], label_smoothing: float) -> float:
    """Return the loss of heads that know nothing but the shares of the classes."""
    total = 0.0
    for target in targets:
        if target.classes:
            counts = torch.bincount(torch.from_numpy(target.values[target.known]))
            shares = counts[counts > 0] / counts.sum()
            entropy = float(-(shares * shares.log()).sum())
            flat = -float(shares.log().mean())
            total += (1 - label_smoothing) * entropy + label_smoothing * flat
        else:
            # Of standardised numbers: the mean of smooth L1 around their median is at most that.
            total += 0.5
    return total


def stuck_words(loss: float, guessing: float, epoch: int) -> list[str]:
    """Return a sentence where the heads do no better than guessing."""
    if math.isfinite(loss) and loss < guessing * (1 - LEAST_LEARNT):
        return []
    return [
        f"after epoch {epoch} the loss is {loss:.2f}, and {guessing:.2f} for guessing: the heads "
        "learn nothing; are the labels right? is --lr too high or too low?"
    ]
