"""What a network's features are on average; in: its weights alone, out: a unit vector (dim,).

A BatchNorm's output is taken as a Gaussian of mean β and deviation |γ|, block after block through
the last stage. Features of ReLU networks share a large common part, and vectors measured from it
rank better (benchmarks/QUALITY.md). Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.weights import weights_path

STAGE = "layer4"
LEAST = 1e-6  # of an activation, before the power of GeM
_SLOPE = 0.01  # of LeakyReLU below zero, torch's default
_NODES = 64  # of the Gauss-Hermite quadrature

Floats = npt.NDArray[np.float64]


def expected_of(spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Return the expected features of a model whose weights are on this machine.

    Zeros for vectors that were made elsewhere, or are a network's own. Raises WeightsUnavailable.
    """
    if spec.is_foreign or not spec.is_of_pooled_maps:
        return np.zeros(spec.dim, np.float32)
    from safetensors import safe_open

    with safe_open(weights_path(spec), framework="numpy") as file:
        power = float(spec.pooling.removeprefix("gem"))
        return expected_features(file.keys(), file.get_tensor, spec.architecture, power)


def expected_features(
    names: Iterable[str], weight: Callable[[str], Any], architecture: str, power: float
) -> npt.NDArray[np.float32]:
    """Return the mean of a network's pooled features, as a unit vector, float32 (dim,).

    `weight` returns the parameter of a name; `power` is that of the pooling.
    """
    act = _activation(architecture.partition("-")[2])
    points, shares = np.polynomial.hermite_e.hermegauss(_NODES)
    shares = shares / shares.sum()
    last = {name for name in names if name.startswith(STAGE + ".")}
    mean: Any = 0.0
    variance: Any = 0.0
    values = np.empty((0, 0))
    for number in range(len({name.split(".")[1] for name in last})):
        block = f"{STAGE}.{number}."
        get = partial(_parameter, weight, block)
        norm = "bn3" if f"{block}bn3.weight" in last else "bn2"
        residual, spread = get(norm + ".bias"), get(norm + ".weight")
        if f"{block}se.fc1.weight" in last:
            scale = _se_scale(get, residual)
            residual, spread = residual * scale, spread * scale
        if (projection := _projection(block, last)) is not None:
            mean, variance = get(projection + ".bias"), get(projection + ".weight") ** 2
        mean, variance = mean + residual, variance + spread**2
        values = act(mean[:, None] + np.sqrt(variance)[:, None] * points)
        mean = values @ shares
        variance = (values - mean[:, None]) ** 2 @ shares
    pooled = (np.maximum(values, LEAST) ** power @ shares) ** (1.0 / power)
    unit: npt.NDArray[np.float32] = (pooled / np.linalg.norm(pooled)).astype(np.float32)
    return unit


def _parameter(weight: Callable[[str], Any], block: str, name: str) -> Floats:
    return np.asarray(weight(block + name), np.float64)


def _projection(block: str, names: set[str]) -> str | None:
    """Return the BatchNorm of a block's projection, None where its shortcut is the identity."""
    found = [part for part in ("downsample.1", "downsample.2") if f"{block}{part}.bias" in names]
    return found[0] if found else None


def _se_scale(get: Callable[[str], Floats], residual: Floats) -> Floats:
    """Return what squeeze and excitation multiplies each channel by, on average."""
    first, second = get("se.fc1.weight")[:, :, 0, 0], get("se.fc2.weight")[:, :, 0, 0]
    squeezed = np.maximum(first @ residual + get("se.fc1.bias"), 0.0)
    scale: Floats = 1.0 / (1.0 + np.exp(-(second @ squeezed + get("se.fc2.bias"))))
    return scale


def _activation(name: str) -> Callable[[Floats], Floats]:
    if name == "leaky_relu":
        return lambda x: np.where(x > 0, x, _SLOPE * x)
    if name == "gelu":
        erf = np.vectorize(math.erf, otypes=[np.float64])
        return lambda x: x * 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    return lambda x: np.maximum(x, 0.0)
