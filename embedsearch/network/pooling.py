"""From the last map to one vector: pooling, and the center that is subtracted.

In: maps (B, C, H, W); out: float (B, C).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedsearch.network import expected
from embedsearch.network.resnet import ResNet


class GeM(nn.Module):
    """Generalized-mean pooling: (B, C, H, W) → (B, C), mean(x^p)^(1/p).

    p = 1 is the average, large p nears the maximum (Radenović et al., "Fine-tuning CNN Image
    Retrieval with No Human Annotation", TPAMI 2019).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features; inputs below 1e-6 count as 1e-6."""
        return x.clamp(min=expected.LEAST).pow(self.p).mean(dim=(2, 3)).pow(1.0 / self.p)


def expected_features(network: ResNet, architecture: str, pooling: GeM) -> Tensor:
    """Return the mean of a network's pooled features, a unit vector (dim,), from its weights."""
    weights = network.state_dict()
    found = expected.expected_features(
        weights, lambda name: weights[name].float().cpu(), architecture, pooling.p
    )
    return torch.from_numpy(found)
