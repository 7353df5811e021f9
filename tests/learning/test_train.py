"""Transfer learning: what is frozen stays, it helps, what got worse is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import embedsearch
from embedsearch.core.config import FREEZABLE
from embedsearch.core.errors import (
    Interrupted,
    TrainingFailed,
    UsageError,
)
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.learning import schedule, train as training
from embedsearch.learning.reports import Epoch, StagePlan, TrainReport
from embedsearch.learning.train import train
from embedsearch.learning.training_model import set_learning, stage_modules
from embedsearch.network.resnet import STAGES, build
from embedsearch.network.weights import resolve
from tests.support.library import SAMPLES, run_cli
from tests.support.training import (
    SMALL,
    Stop,
    changes,
    train_until,
    training_folder,
)


def test_training_helps_and_the_result_is_a_model(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "better.safetensors"
    plans: list[list[StagePlan]] = []
    epochs: list[Epoch] = []
    report = train(
        patterns,
        out,
        epochs=8,
        holdout=0.5,
        on_plan=plans.append,
        on_epoch=epochs.append,
        **SMALL,
    )
    assert report.after.mean_ap is not None and report.before.mean_ap is not None
    assert report.after.mean_ap >= report.before.mean_ap + 0.02
    assert report.images == 24 and report.held_out == 24
    assert [epoch.number for epoch in epochs] == list(range(1, 9)) and report.epochs == epochs
    assert [(p.name, p.first_epoch) for p in plans[0]] == [
        ("stem", 4),
        ("layer1", 3),
        ("layer2", 3),
        ("layer3", 2),
        ("layer4", 1),
        ("heads", 1),
    ]
    assert sum(p.parameters for p in plans[0][:-1]) == 11_176_512  # ResNet-18 without classifier
    spec = resolve(str(out), Session())
    assert (spec.name, spec.architecture, spec.input_side) == ("better", "resnet18", 64)
    assert spec.center == 0.0 and "Tiny ImageNet" in spec.licence
    indexed = embedsearch.index(patterns, store=tmp_path / "s.es", model=str(out))
    assert indexed.model == "better" and indexed.added == 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["better.safetensors", "s.es"]


@pytest.mark.parametrize("many", [False, True])
def test_frozen_stages_stay_to_the_bit(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Weights and BatchNorm's running statistics: both, or a frozen stage is not frozen."""
    if many:
        monkeypatch.setattr(schedule, "MANY_PICTURES", 20)
    out = tmp_path / "o.safetensors"
    train(patterns, out, epochs=3, holdout=0.5, frozen="layer3", **SMALL)
    changed = changes(out)
    assert {name.split(".")[0] for name in changed} == {"layer4"}
    # With few pictures the statistics of learning stages stay, too; with many they move.
    assert any("running_mean" in name for name in changed) == many
    assert "layer4.0.conv1.weight" in changed and "layer4.1.bn2.bias" in changed


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
def test_what_learns_and_what_moves(weights: bool, statistics: bool) -> None:
    torch.manual_seed(0)
    network = build("resnet18")
    x = torch.randn(8, 3, 32, 32) * 3 + 1
    old = {name: value.clone() for name, value in network.named_buffers()}
    for modules in stage_modules(network).values():
        set_learning(modules, weights=weights, statistics=statistics)
    network.stages(x)
    moved = [n for n, value in network.named_buffers() if not torch.equal(value, old[n])]
    assert bool(moved) == (weights and statistics)
    assert {p.requires_grad for p in network.parameters()} == {weights}
    assert [*stage_modules(network)] == [*FREEZABLE, STAGES[-1]]
    network.train()  # the mutant, and the trap: weights frozen, but in training mode
    network.stages(x)
    mean = network.bn1.running_mean
    assert mean is not None and not torch.equal(mean, old["bn1.running_mean"])


def test_what_got_worse_is_not_written(tmp_path: Path) -> None:
    """Classes that are told apart perfectly before: nothing can be better."""
    for number, colour in enumerate(["red", "blue"]):
        for seed in range(6):
            path = tmp_path / "photos" / colour / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + seed, 40), (255 * (1 - number), 0, 255 * number)).save(path)
    out = tmp_path / "o.safetensors"
    out.write_bytes(b"an older model")
    with pytest.raises(TrainingFailed, match=r"no epoch made the model better.*was not written"):
        train(tmp_path / "photos", out, epochs=1, holdout=0.5, **SMALL)
    assert out.read_bytes() == b"an older model"


def test_several_targets_at_once(patterns: Path, tmp_path: Path) -> None:
    lines = ["path,kind,width,unused"]
    for path in sorted(patterns.rglob("*.png")):
        number = int(path.parent.name[1])
        missing = path.stem == "03"  # no value: counts for nothing, and the picture still teaches
        width = "" if missing else f"{10 * number}"
        lines.append(f"{path.relative_to(patterns)},{path.parent.name},{width},x")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    out = tmp_path / "o.safetensors"
    report = train(
        patterns,
        out,
        targets=table,
        classify=["kind"],
        regress=["width"],
        epochs=8,
        holdout=0.5,
        **SMALL,
    )
    best = report.epochs[report.best_epoch - 1].quality
    assert set(best.targets) == {"kind", "width"}
    assert best.targets["kind"] > 0.5  # 0.25 by guessing
    assert best.targets["width"] < 9  # 10 by guessing the mean
    numbers_only = tmp_path / "n.safetensors"
    report = train(
        patterns,
        numbers_only,
        targets=table,
        regress=["width"],
        epochs=8,
        holdout=0.5,
        **SMALL,
    )
    assert report.after.recall_1 is None and report.after.score > 0


@pytest.mark.scale
def test_half_precision_scales_its_loss(patterns: Path, tmp_path: Path) -> None:
    """As on a GPU without bf16: gradients too small for fp16 are scaled up, and the scale kept."""
    out = tmp_path / "o.safetensors"
    options: dict[str, Any] = {
        **SMALL,
        "precision": "fp16",
        "epochs": 4,
        "holdout": 0.5,
        "batch": 4,
    }
    report: TrainReport | None = None
    scales = []
    while report is None:
        try:
            report = train_until(Stop(after=10), patterns, out, **options)
        except Interrupted:
            saved = torch.load(training_folder(out) / "checkpoint", weights_only=True)
            scales.append(saved["scaler"]["scale"])
    assert report.precision == "fp16" and report.after.score > report.before.score
    assert scales and min(scales) > 1.0


def test_from_scratch_all_stages_learn_at_once(patterns: Path, tmp_path: Path) -> None:
    plans: list[list[StagePlan]] = []
    out = tmp_path / "o.safetensors"
    options: dict[str, Any] = {**SMALL, "model": "resnet18-leaky_relu", "input_side": 32}
    report = train(
        patterns,
        out,
        from_scratch=True,
        epochs=10,
        holdout=0.5,
        loss="cross-entropy",
        label_smoothing=0.1,
        on_plan=plans.append,
        **options,
    )
    assert {p.first_epoch for p in plans[0]} == {1}
    assert report.after.score > report.before.score
    assert resolve(str(out), Session()).architecture == "resnet18-leaky_relu"
    with pytest.raises(UsageError, match="no architecture"):
        train(patterns, out, from_scratch=True, **{**SMALL, "model": "resnet19"})


def test_unreadable_pictures_are_counted(patterns: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for path in patterns.rglob("*.png"):
        target = folder / path.relative_to(patterns)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if path.stem != "05" else b"no picture")
    said: list[str] = []
    report = train(
        folder,
        tmp_path / "o.safetensors",
        epochs=3,
        holdout=0.5,
        session=Session(notice=said.append),
        **SMALL,
    )
    assert report.failed == 4 and report.images + report.held_out == 44
    assert sum("left out: c" in line and "not_an_image" in line for line in said) == 4


@pytest.mark.parametrize(
    ("pictures", "asked", "size"),
    [(1500, 64, 62), (500, 128, 29), (24, 64, 12), (14, 10, 7), (11, 2, 2), (2, 64, 2)],
)
def test_a_step_has_at_most_the_batch_asked_for(pictures: int, asked: int, size: int) -> None:
    assert training.batch_size(pictures, asked) == size <= asked
    assert pictures % size < max(2, pictures // size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "o.pth"], "ends in .safetensors"),
        (["--out", "."], "ends in .safetensors"),
        (["--out", "no/such/o.safetensors"], "cannot be made"),
        (["--out", "o.safetensors", "--seed", "-1"], "--seed"),
        (["--out", "o.safetensors", "--frozen", "layer4"], "--frozen must be one of stem"),
        (["--out", "o.safetensors", "--epochs", "0"], "--epochs"),
        (["--out", "o.safetensors", "--lr", "nan"], "--lr"),
        (["--out", "o.safetensors", "--margin", "1"], "--margin"),
        (["--out", "o.safetensors", "--loss", "hinge"], "--loss must be one of"),
        (["--out", "o.safetensors", "--frozen", "layer9"], "--frozen must be one of"),
        (["--out", "o.safetensors", "--holdout", "1"], "--holdout"),
        (["--out", "o.safetensors", "--weights", "some"], "--weights must be model or none"),
        (["--out", "o.safetensors", "--classify", "a"], "name columns of a CSV file"),
        (["--out", "o.safetensors", "--targets", "no.csv", "--classify", "a"], "cannot be read"),
    ],
)
def test_arguments_that_cannot_be_used(
    tmp_path: Path, arguments: list[str], words: str, in_process: Callable[..., tuple[int, str]]
) -> None:
    code, said = in_process(["train", str(SAMPLES), *arguments], tmp_path)
    assert code == (4 if "no/such/o.safetensors" in arguments else 2)
    assert words in said and "Traceback" not in said


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process, in a folder; return its code and what it said."""
    from embedsearch.cli.entry import run

    def call(arguments: list[str], folder: Path) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        return run(arguments), capsys.readouterr().err

    return call


def test_the_command_prints_and_reports(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    options = ["--model", "packaged", "--input-side", "64", "--epochs", "4", "--holdout", "0.5"]
    done = run_cli("train", patterns, "--out", out, *options, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["after"]["mean_ap"] > report["before"]["mean_ap"]
    assert "layer4" in done.stderr and "epoch   4  loss" in done.stderr
    spec = ModelSpec.from_dict(json.loads(json.dumps(resolve(str(out), Session()).to_dict())))
    assert spec.input_side == 64
