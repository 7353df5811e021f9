"""The steps of a training; in: pictures, out: a network and its averaged weights.

Epochs, evaluation, checkpoints and files are the work of `train.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedsearch.core.config import TrainConfig
from embedsearch.core.model_spec import ModelSpec
from embedsearch.learning.augment import random_views
from embedsearch.learning.labels import standardized
from embedsearch.learning.schedule import Schedule
from embedsearch.learning.training_images import LabeledImages
from embedsearch.learning.training_model import (
    TEMPERATURE,
    ProxyHead,
    TrainingModel,
    set_learning,
    stage_modules,
    total_loss,
)
from embedsearch.network.extractor import normalization
from embedsearch.network.resnet import ResNet, float_pixels
from embedsearch.network.torch_runtime import DTYPES, memory_format, training_precision

AVERAGING = 0.999  # of the weights, over the last thousand steps; fewer at the beginning
LARGEST_GRADIENT = 5.0  # a longer one is cut to this norm
# Views cut from a picture show its objects larger than they are searched at. Smaller views
# bring them back to size, and train faster (Touvron et al., "FixRes", NeurIPS 2019).
VIEW_SHARE = 0.75
_IMPRINTED = 16  # images of a class make its initial proxy


class Trainer:
    """A network that learns, its average, and its optimizer."""

    def __init__(
        self,
        network: ResNet,
        spec: ModelSpec,
        pictures: LabeledImages,
        config: TrainConfig,
        batch: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self.precision = training_precision(config.precision, self.device)
        self.batch = batch
        self.steps = len(pictures) // batch  # an epoch; the images left over wait for the next
        self.targets = [standardized(target) for target in pictures.labels.targets]
        self.score_margin = config.margin / TEMPERATURE if config.loss == "proxy" else 0.0
        self.schedule = Schedule(config, len(pictures))
        self._config = config
        self._pictures = pictures
        # Pixels, a side, of a view: a multiple of what the network divides by.
        self._view_side = max(32, round(spec.input_side * VIEW_SHARE / 32) * 32)
        self._layout = memory_format(self.device)
        self._mean, self._deviation = (t.to(self.device) for t in normalization(spec))
        self._wanted = [torch.from_numpy(target.values).to(self.device) for target in self.targets]
        torch.manual_seed(config.seed)
        model = TrainingModel(network, spec, self.targets, config.loss).to(self.device)
        self.model = model.to(memory_format=self._layout)
        self.average = copy.deepcopy(self.model).eval()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._optimizer = self.schedule.optimizer(self.model)

    def imprint(self) -> None:
        """Begin each class's proxy at the mean of the vectors of a few of its pictures.

        Qi et al., "Low-Shot Learning with Imprinted Weights", CVPR 2018.
        """
        for target, head in zip(self.targets, self.model.heads, strict=True):
            if not isinstance(head, ProxyHead):
                continue
            classes = range(len(target.classes))
            chosen = [np.flatnonzero(target.values == number)[:_IMPRINTED] for number in classes]
            indices = np.sort(np.concatenate(chosen))
            _, vectors = self.embed(self.model.eval(), self._pictures, indices)
            labels = torch.from_numpy(target.values[indices]).to(self.device)
            sums = torch.zeros_like(head.proxies).index_add_(0, labels, vectors)
            seen = sums.norm(dim=1) > 0  # a class may have all its pictures held out or unreadable
            with torch.no_grad():
                head.proxies[seen] = nn.functional.normalize(sums[seen], dim=1)
        self.average.load_state_dict(self.model.state_dict())

    def begin_epoch(self, epoch: int, *, is_resumed: bool) -> npt.NDArray[np.int64]:
        """Unfreeze the stages that learn now; return the order of the images.

        Within a resumed epoch the center is the one that the checkpoint held.
        """
        for stage, modules in stage_modules(self.model.network).items():
            first = self.schedule.first_epoch(stage)
            learns = first is not None and epoch >= first
            set_learning(modules, weights=learns, statistics=not self.schedule.is_gentle)
        if not is_resumed:
            self.model.measure_center()
        return np.random.default_rng((self._config.seed, epoch)).permutation(len(self._pictures))

    def step(self, indices: npt.NDArray[np.int64], number: int) -> Tensor:
        """Learn from one batch; return its loss, still on the device. `number` counts all steps."""
        config = self._config
        chance = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
        pixels = torch.from_numpy(self._pictures.pixels[indices])
        at = torch.from_numpy(indices).to(self.device)
        views = random_views(pixels, self._view_side, chance).to(self.device)
        with self._autocast():
            scores = self.model(self._normalized(views))
        wanted = [values[at] for values in self._wanted]
        loss = total_loss(scores, wanted, self.targets, config.label_smoothing, self.score_margin)
        self.schedule.set_rates(self._optimizer, number / (self.steps * config.epochs))
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._update_average(number)
        return loss.detach()

    def embed(
        self, model: TrainingModel, part: LabeledImages, indices: npt.NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return features and vectors, float32 (n, D) both, of the pictures at `indices`."""
        model.measure_center()
        features = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(indices), self.batch):
                batch = torch.from_numpy(part.pixels[indices[start : start + self.batch]])
                x = self._normalized(float_pixels(batch.to(self.device)))
                features.append(model.features(x))
        joined = torch.cat(features)
        return joined, model.vectors(joined)

    def state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint."""
        return {
            "trainee": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore the tensors of a checkpoint."""
        self.model.load_state_dict(state["trainee"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():  # the precision may be another one now
            self._scaler.load_state_dict(state["scaler"])

    def _update_average(self, number: int) -> None:
        """Move the averaged weights toward the new ones; both begin equal."""
        share = 1 - min(AVERAGING, (1 + number) / (10 + number))
        new = self.model.state_dict()
        with torch.no_grad():
            for name, mine in self.average.state_dict().items():
                if mine.is_floating_point():
                    mine.lerp_(new[name], share)
                else:
                    mine.copy_(new[name])

    def _normalized(self, x: Tensor) -> Tensor:
        """Return float pixels (B, 3, S, S) in 0 to 255 as the network wants them."""
        x = (x - self._mean) / self._deviation
        return x.contiguous(memory_format=self._layout)

    def _autocast(self) -> torch.autocast:
        lower = None if self.precision == "fp32" else DTYPES[self.precision]
        return torch.autocast(self.device.type, lower, enabled=lower is not None)
