"""Pooling: what each cell of the last map counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from embedsearch.core.errors import WeightsUnavailable
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.extractor import build_extractor, pooling_of
from embedsearch.network.from_torch import MODEL_RECORD
from embedsearch.network.pooling import GeM, expected_features
from embedsearch.network.resnet import build
from embedsearch.network.weights import resolve


def by_hand(maps: np.ndarray, p: float, sigma: float) -> np.ndarray:
    """Return the weighted power mean in float64, as its definition says."""
    _, _, height, width = maps.shape
    weights = np.array(
        [
            [
                math.exp(
                    -(((i + 0.5) / height - 0.5) ** 2 + ((j + 0.5) / width - 0.5) ** 2)
                    / (2 * sigma**2)
                )
                for j in range(width)
            ]
            for i in range(height)
        ]
    )
    weights /= weights.sum()
    powers = np.maximum(maps.astype(np.float64), 1e-6) ** p
    return np.asarray(np.einsum("bchw,hw->bc", powers, weights) ** (1 / p))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (7, 7), (5, 9), (1, 8), (32, 32)], ids=str)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 10.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_weights_are_a_gaussian(
    shape: tuple[int, int], sigma: float, layout: torch.memory_format
) -> None:
    maps = torch.randn(3, 8, *shape, generator=torch.Generator().manual_seed(1))
    given = maps.clone(memory_format=layout)
    found = GeM(3.0, sigma)(given)
    assert np.allclose(found, by_hand(maps.numpy(), 3.0, sigma), rtol=1e-5, atol=1e-7)
    assert torch.equal(given, maps), "the map itself was changed"
    if sigma == 10.0:  # as flat as no weights
        assert torch.allclose(found, GeM(3.0)(maps), rtol=2e-3)


def test_the_middle_counts_more() -> None:
    maps = torch.zeros(2, 1, 7, 7)
    maps[0, 0, 3, 3] = maps[1, 0, 0, 6] = 1.0
    middle, corner = GeM(3.0, 0.4)(maps)[:, 0]
    assert (middle / corner) ** 3 == pytest.approx(math.exp(2 * (3 / 7) ** 2 / (2 * 0.4**2)), 1e-4)
    plain = GeM(3.0)(maps)[:, 0]
    assert plain[0] == plain[1], "without a Gaussian all cells count alike"


def test_it_is_learned_through_and_stays_in_float32() -> None:
    maps = (torch.rand(2, 4, 7, 7) + 0.1).requires_grad_()
    pooling = GeM(3.0, 0.4)
    assert torch.autograd.gradcheck(
        lambda x: pooling(x), (maps.detach().double().requires_grad_(),), atol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = pooling(maps)
    assert found.dtype is torch.float32
    assert torch.allclose(found, pooling(maps), rtol=1e-6)


def test_the_center_is_the_same_for_any_weights() -> None:
    """Every cell is expected to hold the same: a weighted mean of equal values is that value."""
    network = build("resnet18")
    assert torch.equal(
        expected_features(network, "resnet18", GeM(3.0, 0.4)),
        expected_features(network, "resnet18", GeM(3.0)),
    )


def small_spec(**fields: Any) -> ModelSpec:
    return replace(resolve("packaged", Session()), **fields)


@pytest.mark.parametrize("sigma", [-0.4, 0.001, 11.0, math.nan, math.inf, True, "0.4", None])
def test_other_weights_are_refused(sigma: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        pooling_of(small_spec(gaussian=sigma))


def test_an_unknown_input_rule_has_no_network() -> None:
    with pytest.raises(ValueError, match="unknown resize 'fisheye': it is one of squash, mild-c"):
        build_extractor(small_spec(resize="fisheye"), build("resnet18").state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def recorded(folder: Path, name: str, record: dict[str, Any] | None) -> str:
    """Return the file of weights with a model record, or without one."""
    torch.manual_seed(0)
    metadata = {} if record is None else {MODEL_RECORD: json.dumps(record)}
    path = folder / f"{name}.safetensors"
    path.write_bytes(safetensors.torch.save(build("resnet18").state_dict(), metadata))
    return str(path)


def test_the_record_in_a_file_is_kept(cache: Path) -> None:
    """One of today as it is; one of an older version is of weights made without a Gaussian."""
    today = small_spec(resize="mild-crop", gaussian=0.3).to_dict()
    older = {name: v for name, v in small_spec(resize="squash").to_dict().items()
             if name != "gaussian"}  # fmt: skip
    for name, record, wanted in (
        ("today", today, ("mild-crop", "gem3", 0.3)),
        ("older", older, ("squash", "gem3", 0.0)),
        ("none", None, ("mild-crop", "gem2", 0.4)),
    ):
        for _ in range(2):  # imported, and from the cache
            spec = resolve(recorded(cache, name, record), Session())
            assert (spec.resize, spec.pooling, spec.gaussian) == wanted, name
    assert resolve("packaged", Session()).gaussian == 0.4


@pytest.mark.parametrize(
    ("field", "value"),
    [("gaussian", -1.0), ("gaussian", "wide"), ("resize", "fisheye"), ("resize", None),
     ("gaussian", 1e-9), ("interpolation", "nearest"), ("draft", 3), ("pooling", "max")],
)  # fmt: skip
def test_a_record_that_cannot_be_kept_is_refused(cache: Path, field: str, value: Any) -> None:
    record = {**small_spec().to_dict(), field: value}
    with pytest.raises(WeightsUnavailable, match="model record cannot be used"):
        resolve(recorded(cache, "other", record), Session())
