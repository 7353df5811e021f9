"""Distillation of a teacher's features; in: small pictures, out: weights of a student.

The student learns to compare views as the teacher does: the cosines between the views of a batch,
the teacher's features by a linear layer, and its scores by another one (Hinton et al., 2015; Park
et al., "Relational knowledge distillation", CVPR 2019; Beyer et al., "A good teacher is patient
and consistent", CVPR 2022). What is kept is the mean of the weights over about a thousand steps.
"""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.packaged_weights.teacher import CLASSES, DIM, SIDE as TEACHER_SIDE, Teacher
from benchmarks.packaged_weights.views import Views, sharpened
from embedsearch.core.atomic import write_atomically
from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.extractor import normalization, pooling_of
from embedsearch.network.resnet import STAGES, ResNet, load
from embedsearch.store.center import STORE_SHARE

BATCH = 128
SIDES = (64, 96, 96, 128)  # of the student's views, one of them a batch
RATE = 0.05
HEADS_RATE = 5.0  # times that
WARM_UP = 200  # steps
WEIGHTS = {"cosines": 100.0, "features": 1.0, "scores": 0.3}
TEMPERATURE = 2.0
AVERAGED = 0.999  # of the mean weights are those of the step before
SAVED_EVERY = 250  # steps

Weights = dict[str, Tensor]


class Distillation:
    """A student that goes on from weights for so many steps, and its heads."""

    def __init__(self, spec: ModelSpec, start: Weights, steps: int) -> None:
        torch.manual_seed(0)
        self.spec, self.steps, self.step = spec, steps, 0
        self.network = load(spec.architecture, start).train()
        self.network.to(memory_format=torch.channels_last)
        self.heads = nn.ModuleDict(
            {"features": nn.Linear(spec.dim, DIM), "scores": nn.Linear(spec.dim, CLASSES)}
        )
        groups: list[dict[str, Any]] = [
            {"params": [*self.network.parameters()], "times": 1.0},
            {"params": [*self.heads.parameters()], "times": HEADS_RATE},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        self.mean = {name: value.clone() for name, value in self.network.state_dict().items()}

    def run(self, pictures: Tensor, checkpoint: Path) -> Weights:
        """Return the mean weights after learning from uint8 (N, H, W, 3).

        Goes on from the checkpoint, a file of torch's, where it is of the same run. Raises
        ValueError where it is of another one.
        """
        identity = [self.steps, len(pictures), self.spec.weights_sha256]
        if checkpoint.exists():
            self._restore(torch.load(checkpoint, weights_only=True), identity)
        teacher = Teacher()
        losses: list[float] = []
        started = time.monotonic()
        while self.step < self.steps:
            losses.append(self._learn(pictures[self._batch(len(pictures))], teacher))
            self.step += 1
            if self.step % SAVED_EVERY == 0 or self.step == self.steps:
                write_atomically(checkpoint, self._state(identity))
                rate = len(losses) * BATCH / (time.monotonic() - started)
                print(
                    f"step {self.step} of {self.steps}, loss {np.mean(losses):.3f}, "
                    f"{rate:.0f} views/s",
                    flush=True,
                )
                started = time.monotonic()
                losses.clear()
        return self.mean

    def _batch(self, count: int) -> Tensor:
        """Return the pictures of a step, int64 (BATCH,); each has its turn in a pass over all."""
        places = np.arange(self.step * BATCH, (self.step + 1) * BATCH)
        orders = {
            one: np.random.default_rng([0, one]).permutation(count)
            for one in np.unique(places // count).tolist()
        }
        return torch.tensor([orders[place // count][place % count] for place in places.tolist()])

    def _learn(self, pictures: Tensor, teacher: Teacher) -> float:
        random = torch.Generator().manual_seed(self.step)
        views = Views.drawn(pictures, random)
        features, scores = teacher(views.at(TEACHER_SIDE))
        side = SIDES[int(torch.randint(len(SIDES), (1,), generator=random))]
        pooled = pooled_features(self.network, sharpened(views.at(side), random), self.spec)
        between = ~torch.eye(len(pooled), dtype=torch.bool)
        centered = functional.normalize(features - features.mean(dim=0))
        losses = {
            "cosines": (_cosines(pooled) - _cosines(features))[between].square().mean(),
            "features": 1.0
            - functional.cosine_similarity(self.heads["features"](pooled), centered).mean(),
            "scores": functional.kl_div(
                functional.log_softmax(self.heads["scores"](pooled) / TEMPERATURE, dim=1),
                functional.softmax(scores / TEMPERATURE, dim=1),
                reduction="batchmean",
            )
            * TEMPERATURE**2,
        }
        loss = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["times"]
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._average()
        return float(loss)

    def _rate(self) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.step / self.steps))
        return RATE * cosine * min(1.0, (self.step + 1) / WARM_UP)

    @torch.no_grad()
    def _average(self) -> None:
        kept = min(AVERAGED, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.mean[name].lerp_(value, 1.0 - kept)

    def _state(self, identity: list[Any]) -> bytes:
        state = {
            "identity": identity,
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "step": self.step,
        }
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def _restore(self, state: dict[str, Any], identity: list[Any]) -> None:
        if state["identity"] != identity:
            raise ValueError(
                f"the checkpoint is of another run: steps, pictures and weights are "
                f"{state['identity']}, not {identity}"
            )
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.step = state["mean"], state["step"]


def pooled_features(network: ResNet, pixels: Tensor, spec: ModelSpec) -> Tensor:
    """Return the pooled features, float32 (N, dim), of float32 (N, 3, H, W), 0 to 255."""
    mean, deviation = normalization(spec)
    x = ((pixels - mean) / deviation).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = network.stages(x)[STAGES[-1]]
    found: Tensor = pooling_of(spec)(maps.float())
    return found


def measured(pooled: Tensor) -> Tensor:
    """Return (N, D) as vectors of length 1, measured from a share of their mean, as in a store."""
    units = functional.normalize(pooled)
    return functional.normalize(units - STORE_SHARE * units.mean(dim=0))


def _cosines(features: Tensor) -> Tensor:
    vectors = measured(features)
    return vectors @ vectors.T
