"""What a step learns from: the loss, its margin, views of pictures, and missing values."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedsearch.core.errors import (
    TrainingFailed,
)
from embedsearch.core.session import Session
from embedsearch.learning import health
from embedsearch.learning.augment import random_views
from embedsearch.learning.labels import LabelColumn, standardized
from embedsearch.learning.train import train
from embedsearch.learning.training_model import EXPECTED_SHARE, TrainingModel, total_loss
from embedsearch.network.resnet import load
from embedsearch.network.weights import resolve, weights_path
from tests.support.training import (
    SMALL,
)


@pytest.mark.parametrize(("loss", "wanted"), [("proxy", 7.0), ("cross-entropy", 0.0)])
def test_the_margin_reaches_the_loss_as_scores(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, wanted: float
) -> None:
    """0.35 of a cosine is 7 of a score, which is a cosine over the temperature of 0.05."""
    seen: list[float] = []

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(arguments[4])
        return total_loss(*arguments)

    monkeypatch.setattr("embedsearch.learning.trainer.total_loss", watched)
    with contextlib.suppress(TrainingFailed):
        train(patterns, tmp_path / "o.safetensors", epochs=1, holdout=0.5, loss=loss, **SMALL)
    assert seen and seen == pytest.approx([wanted] * len(seen))


def test_guessing_is_the_loss_of_knowing_nothing() -> None:
    """Of a head that always says the shares of the classes, or the mean of numbers."""
    counts = np.repeat(np.arange(3), [50, 30, 20])
    classes = LabelColumn("c", counts, ("a", "b", "c"))
    shares = torch.tensor([0.5, 0.3, 0.2])
    truth = torch.from_numpy(counts)
    for smoothing, margin in itertools.product((0.0, 0.1), (0.0, 7.0)):
        guessing = health.guessing_loss([classes], smoothing, margin)

        def loss(scores: torch.Tensor, with_: tuple[float, float] = (smoothing, margin)) -> float:
            return float(total_loss([scores.expand(100, 3)], [truth], [classes], *with_))

        nearest = min(loss(shares.log() * stretch) for stretch in np.arange(0.0, 16.0, 0.02))
        assert guessing <= nearest + 1e-5 and guessing > 0.98 * nearest
        if not margin and not smoothing:
            assert guessing == pytest.approx(loss(shares.log()), abs=1e-5)
    alone = LabelColumn("c", np.repeat(np.arange(2), [90, 10]), ("a", "b"))
    assert health.guessing_loss([alone], 0.0, 7.0) == pytest.approx(1.71, abs=0.01)
    assert health.stuck_warnings(1.02, 1.0297, 2)["stuck"].startswith(
        "after epoch 2 the loss is 1.0"
    )
    assert health.stuck_warnings(0.9, 1.0297, 2) == {}
    numbers = LabelColumn("n", np.linspace(-1, 1, 50, dtype=np.float32), ())
    values = torch.from_numpy(standardized(numbers).values)
    of_the_mean = torch.nn.functional.smooth_l1_loss(torch.zeros(50), values)
    assert float(of_the_mean) <= health.guessing_loss([numbers], 0.0, 0.0)


def test_views_are_seeded_and_in_range() -> None:
    pixels = torch.randint(0, 256, (64, 40, 40, 3), dtype=torch.uint8)

    def views(seed: int) -> torch.Tensor:
        return random_views(pixels, 32, torch.Generator().manual_seed(seed))

    assert views(1).shape == (64, 3, 32, 32)
    assert torch.equal(views(1), views(1)) and not torch.equal(views(1), views(2))
    assert views(1).min() >= 0 and views(1).max() <= 255
    # A ramp from left to right: views go up, or down where mirrored, about half of them each.
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).view(1, 1, 40, 1).expand(64, 40, 40, 3)
    found = random_views(ramp, 32, torch.Generator().manual_seed(3)).mean(dim=(1, 2))
    rising = (found[:, -1] > found[:, 0]).sum()
    assert 16 <= rising <= 48
    spans = (found[:, -1] - found[:, 0]).abs()
    assert spans.min() < 150 < spans.max()  # cut tightly and widely


def test_missing_values_teach_nothing() -> None:
    classes = LabelColumn("c", np.array([0, 1]), ("a", "b"))
    numbers = LabelColumn("n", np.array([0.5, 1.0], np.float32), ())
    scores = [torch.randn(2, 2, requires_grad=True), torch.randn(2, 1, requires_grad=True)]
    wanted = [torch.tensor([-1, 1]), torch.tensor([0.5, float("nan")])]
    torch.autograd.backward(total_loss(scores, wanted, [classes, numbers], 0.0, 0.0))
    assert scores[0].grad is not None and scores[1].grad is not None
    assert torch.all(scores[0].grad[0] == 0) and torch.any(scores[0].grad[1] != 0)
    assert scores[1].grad[1] == 0 and scores[1].grad[0] != 0
    nothing = [torch.tensor([-1, -1]), torch.tensor([float("nan")] * 2)]
    assert total_loss(scores, nothing, [classes, numbers], 0.0, 4.0) == 0.0


def test_a_margin_is_taken_from_the_right_class_alone() -> None:
    classes = LabelColumn("c", np.array([1, 0]), ("a", "b"))
    numbers = LabelColumn("n", np.array([0.5, 1.0], np.float32), ())
    right, number = torch.tensor([1, 0]), torch.tensor([0.5, 1.0])
    scores, guess = torch.tensor([[3.0, 5.0], [1.0, -1.0]]), torch.zeros(2, 1)
    less = torch.tensor([[3.0, 1.0], [-3.0, -1.0]])
    with_margin = total_loss([scores], [right], [classes], 0.1, 4.0)
    assert with_margin == pytest.approx(total_loss([less], [right], [classes], 0.1, 0.0))
    of_numbers = total_loss([guess], [number], [numbers], 0.1, 4.0)
    assert of_numbers == total_loss([guess], [number], [numbers], 0.1, 0.0)


def test_what_is_learnt_is_what_is_searched() -> None:
    """The vectors that proxies pull at are the extractor's, from about a store's center."""
    from embedsearch.network.extractor import Extractor

    spec = resolve("packaged", Session())
    network = load(spec.architecture, load_file(weights_path(spec)))
    target = LabelColumn("t", np.array([0, 1]), ("a", "b"))
    trainee = TrainingModel(network, spec, [target], "proxy").eval()
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    extractor = Extractor(network, replace(spec, center=EXPECTED_SHARE))
    x = (pixels.permute(0, 3, 1, 2).float() - extractor.mean) / extractor.deviation
    with torch.inference_mode():
        vectors = trainee.vectors(trainee.features(x))
        assert torch.allclose(vectors, extractor(pixels), atol=1e-5)
        other = Extractor(network, spec)  # the mutant: no center
        assert not torch.allclose(vectors, other(pixels), atol=1e-2)
