"""Which stage learns when and how fast; in: a TrainConfig, out: an optimizer and plans.

Gradual unfreezing and discriminative learning rates: Howard & Ruder, "Universal Language Model
Fine-tuning for Text Classification", ACL 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from embedsearch.core.config import TrainConfig
from embedsearch.learning.reports import StagePlan
from embedsearch.learning.training_model import STEM, TrainingModel, stage_modules
from embedsearch.network.resnet import STAGES

# Of the heads' rate: early stages are general, and learn a fraction of what the heads do.
STAGE_LR = dict(zip((STEM, *STAGES), (0.03, 0.05, 0.1, 0.2, 0.3), strict=True))
_ORDER = tuple(STAGE_LR)
MANY_PICTURES = 10_000
UNFREEZE_SHARE = 12  # another stage learns after each 12th of the epochs
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-5  # not of biases, BatchNorm and heads
WARM_UP = 0.05  # share of all steps with a rising rate; then a cosine down to 0


@dataclass(frozen=True)
class Schedule:
    """The rules of one training on a number of pictures."""

    config: TrainConfig
    pictures: int

    @property
    def is_gentle(self) -> bool:
        """Return whether the images are too few to retrain the whole network at once.

        Then its stages begin one after another, at rates of their own, and keep the BatchNorm
        statistics that they came with. With many pictures, or from scratch, all learn at once.
        """
        return not self.config.from_scratch and self.pictures < MANY_PICTURES

    def lr(self, stage: str) -> float:
        """Return a stage's highest learning rate."""
        return self.config.lr * (STAGE_LR[stage] if self.is_gentle else 1.0)

    def first_epoch(self, stage: str) -> int | None:
        """Return from which epoch, counted from 0, a stage learns: the last one first.

        None is never. A stage that begins late is not disturbed by later stages that have not
        converged; with few epochs the first stages begin together.
        """
        frozen, position = self.config.frozen, _ORDER.index(stage)
        if frozen is not None and position <= _ORDER.index(frozen):
            return None
        if not self.is_gentle:
            return 0
        return (len(_ORDER) - position) * self.config.epochs // UNFREEZE_SHARE

    def share(self, progress: float) -> float:
        """Return the share of the highest rate, with `progress` of the training from 0 to 1."""
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return min(1.0, (progress + 1e-3) / WARM_UP) * cosine

    def optimizer(self, model: TrainingModel) -> torch.optim.SGD:
        """Return the optimizer: two groups a stage, with and without weight decay, and heads'.

        A group's `base` is its highest rate; `set_rates` sets the rate of a step.
        """
        groups: list[dict[str, Any]] = []
        for stage, modules in stage_modules(model.network).items():
            parameters = [p for module in modules for p in module.parameters()]
            for decay, chosen in (
                (WEIGHT_DECAY, [p for p in parameters if p.ndim > 1]),
                (0.0, [p for p in parameters if p.ndim <= 1]),
            ):
                groups.append({"params": chosen, "weight_decay": decay, "base": self.lr(stage)})
        heads = list(model.heads.parameters())
        groups.append({"params": heads, "weight_decay": 0.0, "base": self.config.lr})
        return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)

    def set_rates(self, optimizer: torch.optim.SGD, progress: float) -> None:
        """Set every group's rate for a step."""
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * self.share(progress)

    def plans(self, model: TrainingModel) -> list[StagePlan]:
        """Return the plan of each stage and of the heads."""
        plans = []
        for stage, modules in stage_modules(model.network).items():
            count = sum(p.numel() for module in modules for p in module.parameters())
            first = self.first_epoch(stage)
            begins = None if first is None else first + 1
            plans.append(StagePlan(stage, count, begins, self.lr(stage)))
        heads = sum(p.numel() for p in model.heads.parameters())
        return [*plans, StagePlan("heads", heads, 1, self.config.lr)]
