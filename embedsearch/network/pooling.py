"""From the last map to one vector: pooling, and the center that is subtracted.

In: maps (B, C, H, W); out: float (B, C).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from embedsearch.network.resnet import STAGES, ResidualBlock, ResNet

_LEAST = 1e-6  # of an activation, before the power
_NODES = 64  # of the Gauss-Hermite quadrature


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
        powers = x.clamp(min=_LEAST).pow(self.p)
        if not self.gaussian:
            return powers.mean(dim=(2, 3)).pow(1.0 / self.p)
        down, across = (_gaussian(int(n), self.gaussian, x.device) for n in x.shape[2:])
        # A product and a sum: autocast would take a matrix product in half precision.
        return powers.mul_(down[:, None] * across).sum(dim=(2, 3)).pow(1.0 / self.p)


def _gaussian(cells: int, sigma: float, device: torch.device) -> Tensor:
    """Return weights of a row of cells, largest in its middle, float32 (cells,), their sum 1."""
    place = (torch.arange(cells, dtype=torch.float32, device=device) + 0.5) / cells - 0.5
    return torch.softmax(-place.square() / (2.0 * sigma**2), dim=0)


def expected_features(network: ResNet, pooling: GeM) -> Tensor:
    """Return the mean of a network's pooled features, as a unit vector (dim,), on the CPU.

    Computed from the weights alone: a BatchNorm's output is taken as a Gaussian of mean β and
    deviation |γ|, block after block through the last stage. Features of ReLU networks share a
    large common part; vectors measured from it rank better (benchmarks/QUALITY.md).
    """
    points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    node = torch.from_numpy(points)
    share = torch.from_numpy(weights / weights.sum())
    with torch.no_grad():
        mean = variance = torch.zeros(network.kind.dim, dtype=torch.float64)
        values = torch.empty(0)
        for block in network.get_submodule(STAGES[-1]).children():
            assert isinstance(block, ResidualBlock)
            mean, variance = _before_activation(block, mean, variance)
            values = block.act(mean[:, None] + variance.sqrt()[:, None] * node)
            mean = values @ share
            variance = (values - mean[:, None]).square() @ share
        pooled = (values.clamp(min=_LEAST).pow(pooling.p) @ share).pow(1.0 / pooling.p)
        return nn.functional.normalize(pooled, dim=0).float()


def _before_activation(
    block: ResidualBlock, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance, float64 (C,), of F(x) + shortcut(x), from those of x."""
    norm = block.last_norm
    residual, spread = _precise(norm.bias), _precise(norm.weight)
    if block.se is not None:
        scale = _precise(block.se.scale(norm.bias.view(1, -1, 1, 1)).flatten())
        residual, spread = residual * scale, spread * scale
    if block.downsample is not None:
        projection = block.downsample[-1]
        assert isinstance(projection, nn.BatchNorm2d)
        mean, variance = _precise(projection.bias), _precise(projection.weight).square()
    return mean + residual, variance + spread.square()


def _precise(values: Tensor) -> Tensor:
    """Return float64 on the CPU: Metal has no float64."""
    return values.cpu().double()
