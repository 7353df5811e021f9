"""A training that goes wrong says so: no number, dead channels, heads that only guess."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedsearch.core.errors import (
    TrainingFailed,
)
from embedsearch.core.session import Session
from embedsearch.learning import health, train as training
from embedsearch.learning.train import train
from embedsearch.learning.training_model import total_loss
from embedsearch.network.resnet import STAGES, ResNet, build
from tests.support.networks import blocks_of
from tests.support.training import (
    SMALL,
    write,
)


def test_vectors_that_are_no_numbers_are_never_best(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a last step to infinity: the loss was finite, the weights are not."""
    whole = training._TrainingRun._one_epoch

    def spoilt(self: Any, *arguments: Any) -> float:
        rate = whole(self, *arguments)
        with torch.no_grad():
            self.trainer.average.network.conv1.weight[0] = float("nan")
        return rate

    monkeypatch.setattr(training._TrainingRun, "_one_epoch", spoilt)
    with pytest.raises(TrainingFailed, match="not finite any more"):
        train(patterns, tmp_path / "o.safetensors", epochs=1, holdout=0.5, **SMALL)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_loss_that_is_no_number_ends_the_training(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = total_loss(*arguments)
        return loss * float("nan") if calls > 5 else loss

    monkeypatch.setattr("embedsearch.learning.trainer.total_loss", poisoned)
    with pytest.raises(TrainingFailed, match="not finite any more in epoch 1: a lower lr"):
        train(patterns, tmp_path / "o.safetensors", epochs=3, holdout=0.5, batch=4, **SMALL)
    assert not (tmp_path / "o.safetensors").exists()


def dead_shares(network: ResNet, x: torch.Tensor) -> dict[str, float]:
    with health.DeadShares(network) as watch:
        network.extract_stages(x)
    return watch.shares


def test_dead_activations_are_said() -> None:
    torch.manual_seed(0)
    network = build("resnet18")
    x = torch.randn(4, 3, 64, 64)
    alive = dead_shares(network, x)
    assert set(alive) == set(STAGES) and max(alive.values()) < 0.2
    assert health.dead_channel_warnings(alive, alive) == {}
    with torch.no_grad():  # as after a step that was much too large
        for block in blocks_of(network, "layer3"):
            block.last_norm.weight.fill_(1.0)
            block.last_norm.bias.fill_(-1e3)
    dead = dead_shares(network, x)
    assert dead["layer3"] == 1.0 and dead["layer2"] == alive["layer2"]
    assert health.dead_channel_warnings(alive, dead)["layer3"].startswith(
        "layer3: 100% of the channels"
    )


def test_heads_that_only_guess_are_said_once(patterns: Path, tmp_path: Path) -> None:
    """Labels that have nothing to do with the pictures, learnt at a rate that moves nothing."""
    rng = np.random.default_rng(1)
    lines = ["path,chance"]
    for path in sorted(patterns.rglob("*.png")):
        lines.append(f"{path.relative_to(patterns)},{rng.integers(4)}")
    said: list[str] = []
    with contextlib.suppress(TrainingFailed):
        train(
            patterns,
            tmp_path / "o.safetensors",
            targets=write(tmp_path, "\n".join(lines)),
            classify=["chance"],
            loss="cross-entropy",
            lr=1e-6,
            epochs=9,
            holdout=0.3,
            batch=2,
            session=Session(notice=said.append),
            **{**SMALL, "input_side": 32},
        )
    assert sum("the heads learn nothing" in line for line in said) == 1
