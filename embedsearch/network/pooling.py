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
    Retrieval with No Human Annotation", TPAMI 2019). With `gaussian` the mean is weighted: what a
    photo is of stands in its middle more often than at its edges.
    """

    def __init__(self, p: float, gaussian: float = 0.0) -> None:
        super().__init__()
        self.p = p
        self.gaussian = gaussian  # sigma of the weights as a share of the map's side; 0: all alike

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features; inputs below 1e-6 count as 1e-6."""
        powers = x.clamp(min=expected.LEAST).pow(self.p)
        if not self.gaussian:
            return powers.mean(dim=(2, 3)).pow(1.0 / self.p)
        down, across = (_gaussian(int(n), self.gaussian, x.device) for n in x.shape[2:])
        # A product and a sum: autocast would take a matrix product in half precision.
        return powers.mul_(down[:, None] * across).sum(dim=(2, 3)).pow(1.0 / self.p)


def _gaussian(cells: int, sigma: float, device: torch.device) -> Tensor:
    """Return weights of a row of cells, largest in its middle, float32 (cells,), their sum 1."""
    place = (torch.arange(cells, dtype=torch.float32, device=device) + 0.5) / cells - 0.5
    return torch.softmax(-place.square() / (2.0 * sigma**2), dim=0)


def expected_features(network: ResNet, architecture: str, pooling: GeM) -> Tensor:
    """Return the mean of a network's pooled features, a unit vector (dim,), from its weights."""
    weights = network.state_dict()
    found = expected.expected_features(
        weights, lambda name: weights[name].float().cpu(), architecture, pooling.p
    )
    return torch.from_numpy(found)
