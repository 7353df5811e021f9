"""The whole path from pixels to unit vectors as one torch module.

In: uint8 (B, S, S, 3) RGB; out: float32 (B, D), unit rows. Normalisation, pooling and L2 norm
are layers, so that torch and OpenVINO, CPU and GPU run the same arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedsearch.network.resnet import STAGES, ResNet, float_pixels, load
from embedsearch.records import ModelSpec


class GeM(nn.Module):
    """Generalised-mean pooling: (B, C, H, W) → (B, C), mean(x^p)^(1/p).

    p = 1 is the average, large p nears the maximum (Radenović et al., "Fine-tuning CNN Image
    Retrieval with No Human Annotation", TPAMI 2019).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features; inputs below 1e-6 count as 1e-6."""
        return x.clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1.0 / self.p)


class Extractor(nn.Module):
    """Normalise, run the network, pool, scale to unit length."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: ResNet, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", 255.0 * torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", 255.0 * torch.tensor(spec.std).view(1, 3, 1, 1))
        self.network = network
        self.pooling = GeM(_gem_power(spec.pooling))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 (B, D), unit rows, of uint8 (B, S, S, 3)."""
        x = (float_pixels(pixels) - self.mean) / self.deviation
        x = x.to(next(self.network.parameters()).dtype)
        last = self.network.extract_stages(x)[STAGES[-1]].float()  # powers and sums need the range
        return nn.functional.normalize(self.pooling(last), dim=1)


def build_extractor(spec: ModelSpec, weights: dict[str, Tensor]) -> Extractor:
    """Return the extractor of a model, in eval mode. Raises ValueError for foreign weights."""
    return Extractor(load(spec.architecture, weights), spec).eval()


def _gem_power(pooling: str) -> float:
    if not pooling.startswith("gem"):
        raise ValueError(f"unknown pooling {pooling!r}")
    return float(pooling.removeprefix("gem"))
