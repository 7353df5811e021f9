"""The whole path from pixels to unit vectors as one torch module.

In: uint8 (B, S, S, 3) RGB; out: float32 (B, D), unit rows. Normalization, pooling and L2 norm
are layers, so that torch and OpenVINO, CPU and GPU run the same arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedsearch.core.model_spec import DRAFTS, INTERPOLATIONS, RESIZES, ModelSpec
from embedsearch.network.pooling import GeM, expected_features
from embedsearch.network.resnet import STAGES, ResNet, float_pixels, load

_SIGMAS = (0.01, 10.0)  # a narrower one sees a cell at most, a wider one all alike


class Extractor(nn.Module):
    """Normalize, run the network, pool, measure from the center, scale to unit length."""

    mean: Tensor
    deviation: Tensor
    center: Tensor

    def __init__(self, network: ResNet, spec: ModelSpec) -> None:
        super().__init__()
        mean, deviation = normalization(spec)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.network = network
        self.pooling: nn.Module = pooling_of(spec) if spec.pooling else own_pooling(network)
        self.flip = spec.flip
        center = torch.zeros(spec.dim)
        if spec.center:  # of models made before stores had centers of their own
            center = spec.center * expected_features(network, spec.architecture, pooling_of(spec))
        self.register_buffer("center", center)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 (B, D), unit rows, of uint8 (B, S, S, 3)."""
        x = (float_pixels(pixels) - self.mean) / self.deviation
        x = x.to(next(self.network.parameters()).dtype)
        features = self._features(x)
        if self.flip:
            features = _unit(features) + _unit(self._features(x.flip(3)))
        return from_center(features, self.center)

    def _features(self, x: Tensor) -> Tensor:
        last = self.network.extract_stages(x)[STAGES[-1]].float()  # powers and sums need the range
        pooled: Tensor = self.pooling(last)
        return pooled


def build_extractor(spec: ModelSpec, weights: dict[str, Tensor]) -> Extractor:
    """Return the extractor of a model, in eval mode. Raises ValueError for foreign weights."""
    check_framing(spec)
    return Extractor(load(spec.architecture, weights), spec).eval()


def normalization(spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Return mean and deviation, float32 (1, 3, 1, 1), of pixels in 0 to 255."""
    mean, deviation = (255.0 * torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    return mean, deviation


def check_framing(spec: ModelSpec) -> None:
    """Raise ValueError where a model's record names an input rule that the decoder lacks."""
    if spec.resize not in RESIZES:
        raise ValueError(f"unknown resize {spec.resize!r}: it is one of {', '.join(RESIZES)}")
    if spec.interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise ValueError(f"unknown interpolation {spec.interpolation!r}: it is one of {known}")
    if spec.draft not in DRAFTS or spec.draft is True:
        raise ValueError(f"draft is 1 or 2, not {spec.draft!r}")
    if type(spec.shown) not in {int, float} or not 0.25 <= spec.shown <= 1.0:
        raise ValueError(f"shown is from 0.25 to 1, not {spec.shown!r}")
    if type(spec.fill) is not int or not 0 <= spec.fill <= 255:
        raise ValueError(f"fill is from 0 to 255, not {spec.fill!r}")


def own_pooling(network: ResNet) -> nn.Module:
    """Return the layer with which a network makes its own vectors. Raises ValueError."""
    if network.attnpool is None:
        raise ValueError("this network has no pooling of its own")
    return network.attnpool


def pooling_of(spec: ModelSpec) -> GeM:
    """Return the pooling layer that a model's record names. Raises ValueError."""
    if not spec.pooling.startswith("gem"):
        raise ValueError(f"unknown pooling {spec.pooling!r}")
    sigma, (least, most) = spec.gaussian, _SIGMAS
    if sigma is True or not (sigma == 0.0 or least <= sigma <= most):
        raise ValueError(f"gaussian is 0 or from {least:g} to {most:g}, not {sigma!r}")
    return GeM(float(spec.pooling.removeprefix("gem")), sigma)


def from_center(features: Tensor, center: Tensor) -> Tensor:
    """Return unit vectors, float32 (B, D), of pooled features, measured from a center (D,)."""
    return _unit(_unit(features) - center)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=1)
