"""A network with its training heads; in: float pixels, out: one loss over all targets.

The vectors that are compared with class proxies are computed as those that a store compares:
pooled, measured from a center, of unit length. So training improves the vectors that are searched.
A store's center is the mean of its images; here it is estimated from the weights, which change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedsearch.core.model_spec import ModelSpec
from embedsearch.learning.labels import MISSING_CLASS, LabelColumn
from embedsearch.network.extractor import from_center, pooling_of
from embedsearch.network.pooling import expected_features
from embedsearch.network.resnet import STAGES, ResNet

STEM = "stem"
FEATURE_NORM = 4.0  # what a linear head sees
EXPECTED_SHARE = 0.6  # of the expected features: about the center that a store will have
TEMPERATURE = 0.05  # of the proxies' softmax (Zhai & Wu, BMVC 2019)


class ProxyHead(nn.Module):
    """Normalized softmax: cosines with one learned proxy a class, over a temperature.

    Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019. Its loss
    has a margin: see `total_loss`.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(classes, dim))

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return scores (B, classes) of unit vectors (B, dim)."""
        return functional.linear(vectors, functional.normalize(self.proxies)) / TEMPERATURE


class LinearHead(nn.Module):
    """A linear map of the pooled features: to class scores, or to one standardized number."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)  # features differ in scale ...
        self.scale = FEATURE_NORM / dim**0.5  # ... and longer ones would need a smaller --lr
        self.linear = nn.Linear(dim, outputs)

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return float (B, outputs) of features (B, dim)."""
        scores: Tensor = self.linear(self.norm(features) * self.scale)
        return scores


class TrainingModel(nn.Module):
    """A network, its pooling, and a head a target."""

    center: Tensor

    def __init__(
        self, network: ResNet, spec: ModelSpec, targets: Sequence[LabelColumn], loss: str
    ) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling_of(spec)
        self.architecture = spec.architecture
        self.register_buffer("center", torch.zeros(network.kind.dim))
        self.measure_center()
        self.heads = nn.ModuleList()
        for target in targets:
            kind = ProxyHead if target.classes and loss == "proxy" else LinearHead
            self.heads.append(kind(network.kind.dim, len(target.classes) or 1))

    def measure_center(self) -> None:
        """Set the center to the features that the weights give on average."""
        expected = expected_features(self.network, self.architecture, self.pooling)
        self.center.copy_(EXPECTED_SHARE * expected)

    def features(self, x: Tensor) -> Tensor:
        """Return pooled features, float32 (B, dim), of normalized pixels (B, 3, S, S)."""
        pooled: Tensor = self.pooling(self.network.stages(x)[STAGES[-1]].float())
        return pooled

    def vectors(self, features: Tensor) -> Tensor:
        """Return unit vectors, float32 (B, dim), as a store keeps them, of pooled features."""
        return from_center(features, self.center)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return each target's scores, float32, of normalized pixels (B, 3, S, S)."""
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            vectors = self.vectors(features)
            return [head(features, vectors) for head in self.heads]


def total_loss(
    scores: Sequence[Tensor],
    wanted: Sequence[Tensor],
    targets: Sequence[LabelColumn],
    label_smoothing: float,
    score_margin: float,
) -> Tensor:
    """Return the sum of the targets' mean losses; missing values are ignored.

    The score of the right class is reduced by `score_margin`: an image must be nearer to its own
    proxy by that much (Wang et al., "CosFace", CVPR 2018).
    Nothing here waits for the device.
    """
    losses = []
    for target, mine, theirs in zip(targets, scores, wanted, strict=True):
        if target.classes:
            known = theirs != MISSING_CLASS
            indices = theirs.clamp(min=0).unsqueeze(1)
            less = torch.full_like(indices, -score_margin, dtype=mine.dtype)
            part = functional.cross_entropy(
                mine.scatter_add(1, indices, less),
                theirs,
                ignore_index=MISSING_CLASS,
                label_smoothing=label_smoothing,
                reduction="sum",
            )
        else:
            known = ~torch.isnan(theirs)
            part = functional.smooth_l1_loss(
                mine[:, 0].where(known, 0.0), theirs.where(known, 0.0), reduction="sum"
            )
        losses.append(part / known.sum().clamp(min=1))
    return torch.stack(losses).sum()


def stage_modules(network: ResNet) -> dict[str, list[nn.Module]]:
    """Return the modules of each stage, the stem first."""
    stages = {stage: [network.get_submodule(stage)] for stage in STAGES}
    return {STEM: [network.conv1, network.bn1], **stages}


def set_learning(modules: Sequence[nn.Module], *, weights: bool, statistics: bool) -> None:
    """Let the weights of modules learn, and the running statistics of their BatchNorm move.

    Statistics move in training mode whether weights learn or not: a "frozen" stage in training
    mode is not frozen. The statistics of small batches are noisy and harm a
    pretrained network: they move only where there are many images.
    """
    for module in modules:
        module.requires_grad_(weights)
        module.train(weights)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(weights and statistics)
