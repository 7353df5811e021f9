"""Warnings about a training; in: a network and its losses, out: sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from embedsearch.learning.labels import LabelColumn
from embedsearch.network.resnet import STAGES, ResNet

MAX_DEAD = 0.25  # share of a stage's channels, above which a warning is given
LEAST_LEARNED = 0.02  # of the loss of guessing, after which a head counts as learning


class DeadShares:
    """Watches, while it is open, which channels of a network's stages are nowhere above 0.

    A ReLU whose input is never positive gets no gradient and never recovers.
    """

    def __init__(self, network: ResNet) -> None:
        self._peaks: dict[str, Tensor] = {}
        self._hooks = [
            network.get_submodule(stage).register_forward_hook(self._watch(stage))
            for stage in STAGES
        ]

    def __enter__(self) -> DeadShares:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def shares(self) -> dict[str, float]:
        """Return for each stage the share of its channels that were never above 0."""
        return {stage: float((peak <= 0).float().mean()) for stage, peak in self._peaks.items()}

    def _watch(self, stage: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            peak = output.detach().amax(dim=(0, 2, 3))
            old = self._peaks.get(stage)
            self._peaks[stage] = peak if old is None else torch.maximum(old, peak)

        return note


def dead_channel_warnings(before: dict[str, float], now: dict[str, float]) -> dict[str, str]:
    """Return a warning for each stage in which channels died since `before`."""
    return {
        stage: f"{stage}: {share:.0%} of the channels are dead, nowhere above 0 (before: "
        f"{before[stage]:.0%}): a lower lr, or an architecture with -leaky_relu, keeps them alive"
        for stage, share in now.items()
        if share > MAX_DEAD and share > before[stage] + 0.05
    }


def guessing_loss(
    targets: Sequence[LabelColumn], label_smoothing: float, score_margin: float
) -> float:
    """Return the least `total_loss` of heads that give the same scores for every image."""
    total = 0.0
    for target in targets:
        if target.classes:
            counts = torch.bincount(torch.from_numpy(target.values[target.known]))
            shares = counts[counts > 0] / counts.sum()
            total += _constant_loss(shares.double(), label_smoothing, score_margin)
        else:
            # Of standardized numbers: smooth L1 is at most half the square, whose mean is 1.
            total += 0.5
    return total


def _constant_loss(shares: Tensor, label_smoothing: float, score_margin: float) -> float:
    """Return the least cross-entropy of constant scores, for float64 (C,) shares of classes."""
    scores = shares.log().requires_grad_()
    search = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        centered = scores - scores.mean()
        # Of each right class: all scores' exponentials, its own reduced by the margin.
        sums = centered.exp().sum() - centered.exp() * (1 - math.exp(-score_margin))
        own = (1 - label_smoothing) * (score_margin - centered)
        found = (shares * (sums.log() + own)).sum() + label_smoothing * score_margin / len(shares)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    search.step(loss)  # type: ignore[no-untyped-call]
    return float(loss().detach())


def stuck_warnings(loss: float, guessing: float, epoch: int) -> dict[str, str]:
    """Return a warning, by its kind, where the heads do no better than guessing."""
    if loss < guessing * (1 - LEAST_LEARNED):
        return {}
    return {
        "stuck": f"after epoch {epoch} the loss is {loss:.2f}, and {guessing:.2f} for guessing: "
        "the heads learn nothing; are the labels right? is the lr too high or too low?"
    }
