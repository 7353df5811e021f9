"""Transfer learning: what is frozen stays, a break is resumed, what got worse is not written."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import embedsearch
from embedsearch.core.config import FREEZABLE
from embedsearch.core.errors import (
    Interrupted,
    StorageError,
    StoreLocked,
    TrainingFailed,
    UsageError,
)
from embedsearch.core.records import Epoch, ModelSpec, StagePlan, TrainReport
from embedsearch.core.session import Session
from embedsearch.learning import health, schedule
from embedsearch.learning import train as training
from embedsearch.learning.augment import random_views
from embedsearch.learning.labels import Labels, Target, read_labels, standardised
from embedsearch.learning.train import train
from embedsearch.learning.trainee import Trainee, set_learning, stage_modules, total_loss
from embedsearch.network.resnet import STAGES, ResNet, build, load
from embedsearch.network.tensors import load_tensors
from embedsearch.network.weights import resolve, weights_path
from tests.support.library import SAMPLES, run_cli

SMALL = {"model": "packaged", "input_side": 64, "precision": "fp32", "device": "cpu"}


def pattern(path: Path, kind: int, seed: int) -> None:
    """Write stripes, checks, spots or clouds, of any colour, size and direction."""
    rng = np.random.default_rng(1000 * kind + seed)
    y, x = np.mgrid[:48, :48]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
    u = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + seed)
    v = np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    clouds = np.asarray(
        Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize((48, 48))
    )
    wave = [u, np.sign(u * v), np.where(u + v > 1, 1.0, -1.0), clouds / 127.5 - 1.0][kind]
    low, high = rng.integers(0, 120, 3), rng.integers(135, 256, 3)
    pixels = low + (high - low) * ((wave + 1) / 2)[..., None] + rng.normal(0, 40, (48, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of twelve pictures each; no colour, size or direction tells them apart."""
    folder = tmp_path_factory.mktemp("patterns")
    for kind in range(4):
        for seed in range(12):
            pattern(folder / f"c{kind}" / f"{seed:02d}.png", kind, seed)
    return folder


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
    assert spec.center == 0.6 and "Tiny ImageNet" in spec.licence
    indexed = embedsearch.index(patterns, store=tmp_path / "s.es", model=str(out))
    assert indexed.model == "better" and indexed.added == 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["better.safetensors", "s.es"]


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(path)


def changes(out: Path) -> set[str]:
    """Return the parameters and statistics in which a file differs from the packaged weights."""
    before, after = state(weights_path(resolve("packaged", Session()))), state(out)
    return {name for name in before if not torch.equal(after[name].float(), before[name].float())}


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
    assert not torch.equal(network.bn1.running_mean, old["bn1.running_mean"])


class Stop:
    """Asks a run to stop after a number of steps; decoding, whose looks vary, does not count."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.learning = False

    def begin(self, _: object) -> None:
        self.learning = True

    def __call__(self) -> int:
        self.left -= self.learning
        return 2 if self.left <= 0 else 0


def train_until(stop: Stop, *arguments: Any, **options: Any) -> TrainReport:
    return train(*arguments, session=Session(stop=stop), on_plan=stop.begin, **options)


def training_folder(out: Path) -> Path:
    return out.with_suffix(".training")


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    patterns: Path, tmp_path: Path
) -> None:
    options = {**SMALL, "epochs": 4, "holdout": 0.5, "batch": 4}
    whole = train(patterns, tmp_path / "whole.safetensors", **options)
    out = tmp_path / "broken.safetensors"
    stops = 0
    report: TrainReport | None = None
    while report is None:
        try:
            report = train_until(Stop(after=5), patterns, out, **options)
        except Interrupted as error:
            stops += 1
            assert "goes on from" in str(error)
            assert not out.exists() and (training_folder(out) / "checkpoint").exists()
    assert stops == 4  # 24 steps
    assert not training_folder(out).exists()
    assert [e.loss for e in report.epochs] == pytest.approx(
        [e.loss for e in whole.epochs], abs=1e-5
    )
    one, other = state(tmp_path / "whole.safetensors"), state(out)
    assert all(torch.allclose(one[n].float(), other[n].float(), atol=1e-5) for n in one)


def test_a_checkpoint_of_another_training_is_refused(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    options = {**SMALL, "epochs": 4, "holdout": 0.5, "batch": 4}
    with pytest.raises(Interrupted):
        train_until(Stop(after=5), patterns, out, **options)
    with pytest.raises(UsageError, match="of a training with other lr: delete it"):
        train(patterns, out, **{**options, "lr": 0.01})
    (patterns / "c3" / "11.png").touch()  # one that is held out, perhaps: all of them count
    with pytest.raises(UsageError, match="of a training with other pictures"):
        train(patterns, out, **options)
    checkpoint = training_folder(out) / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"cannot be read .* delete it"):
        train(patterns, out, **options)


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
    options = {**SMALL, "precision": "fp16", "epochs": 4, "holdout": 0.5, "batch": 4}
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
    options = {**SMALL, "model": "resnet18-leaky_relu", "input_side": 32}
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


def write(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("path,a\nc0/00.png,x\nc1/00.png,x\n", {"classify": ["a"]}, "only 'x': two classes"),
        ("path,a\nc0/00.png,\nc1/00.png,nan\n", {"classify": ["a"]}, "has no value"),
        ("path,a\nc0/00.png,\nc1/00.png,NaN\n", {"regress": ["a"]}, "has no value"),
        ("path,a\nc0/00.png,3\nc1/00.png,3\n", {"regress": ["a"]}, "only the value 3"),
        ("path,a\nc0/00.png,3\nc1/00.png,old\n", {"regress": ["a"]}, "line 3: a is 'old'"),
        ("path,a\nc0/00.png,3\nc1/00.png,inf\n", {"regress": ["a"]}, "not finite"),
        ("path,a\nc0/no.png,3\nc1/no.png,4\n", {"regress": ["a"]}, "none of its files"),
        ("path,a\nc0/00.png,3\nc0/00.png,4\n", {"regress": ["a"]}, "lines 2 and 3"),
        ("file,a\nc0/00.png,3\n", {"regress": ["a"]}, "no column 'path'; it has file, a"),
        ("path,a\nc0/00.png,3\n", {"regress": ["b"]}, "no column 'b'"),
        ("path,a\nc0/00.png,3\n", {}, "which columns"),
        ("", {"regress": ["a"]}, "no column 'path'"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_learnt_from(
    patterns: Path, tmp_path: Path, text: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train(patterns, tmp_path / "o.safetensors", targets=write(tmp_path, text), **options)
    assert not (tmp_path / "o.safetensors").exists()


def test_rows_of_absent_files_are_named_and_left_out(patterns: Path, tmp_path: Path) -> None:
    said: list[str] = []
    text = "path,a\nc0/00.png,x\nc1/00.png,y\nc9/no.png,z\n"
    labels = read_labels(patterns, write(tmp_path, text), ["a"], [], said.append)
    assert [ref.key for ref in labels.refs] == ["c0/00.png", "c1/00.png"]
    assert labels.targets[0].classes == ("x", "y")
    assert "c9/no.png (line 4)" in said[0] and "46 pictures have no row" in said[1]


@pytest.mark.parametrize("how", ["one class", "no class", "no picture", "no folder"])
def test_folders_that_cannot_be_learnt_from(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "photos"
    if how != "no folder":
        folder.mkdir()
    for seed in range(3):
        if how == "one class":
            pattern(folder / "a" / f"{seed}.png", 0, seed)
        elif how == "no class":
            pattern(folder / f"{seed}.png", 0, seed)
    words = {"one class": "only 'a': two classes", "no folder": "is no folder"}
    with pytest.raises(UsageError, match=words.get(how, "one folder a class is needed")):
        train(folder, tmp_path / "o.safetensors", **SMALL)


def test_classes_called_none_are_classes(patterns: Path, tmp_path: Path) -> None:
    """In a table an empty cell may be spelt `none`; a folder's name means what it says."""
    for name, kind in (("none", "c0"), ("nan", "c1")):
        shutil.copytree(patterns / kind, tmp_path / name)
    labels = read_labels(tmp_path, None, [], [], print)
    assert labels.targets[0].classes == ("nan", "none") and labels.targets[0].known.all()


def test_tables_as_spreadsheets_write_them(patterns: Path, tmp_path: Path) -> None:
    """With a byte order mark, quoted cells, spaces, carriage returns, and an empty last line."""
    text = '\ufeffpath,a,b\r\n"c0/00.png", x ,1\r\nc1/00.png,y,\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    labels = read_labels(patterns, tmp_path / "t.csv", ["a"], [], lambda _: None)
    assert labels.targets[0].classes == ("x", "y") and len(labels.refs) == 2


def test_too_few_to_judge_is_said_before_the_work(tmp_path: Path) -> None:
    for kind in range(3):
        for seed in range(2):
            pattern(tmp_path / "photos" / f"c{kind}" / f"{seed}.png", kind, seed)
    with pytest.raises(UsageError, match="no class has two pictures held out"):
        train(tmp_path / "photos", tmp_path / "o.safetensors", **SMALL)
    for kind in range(3):
        for seed in range(2, 6):
            pattern(tmp_path / "photos" / f"c{kind}" / f"{seed}.png", kind, seed)
    said: list[str] = []
    with contextlib.suppress(TrainingFailed):
        session = Session(notice=said.append)
        train(tmp_path / "photos", tmp_path / "o.safetensors", epochs=1, session=session, **SMALL)
    assert any("12 pictures to learn from, 6 held out" in line for line in said)


def test_vectors_that_are_no_numbers_are_never_best(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a last step to infinity: the loss was finite, the weights are not."""
    whole = training._Run._one_epoch

    def spoilt(self: Any, *arguments: Any) -> float:
        rate = whole(self, *arguments)
        with torch.no_grad():
            self.average.network.conv1.weight[0] = float("nan")
        return rate

    monkeypatch.setattr(training._Run, "_one_epoch", spoilt)
    with pytest.raises(TrainingFailed, match="not finite any more"):
        train(patterns, tmp_path / "o.safetensors", epochs=1, holdout=0.5, **SMALL)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_resume_may_change_its_precision(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    options = {**SMALL, "epochs": 2, "holdout": 0.5, "batch": 4}
    for precision in ("fp32", "fp16", "bf16"):
        with pytest.raises(Interrupted):
            train_until(Stop(after=2), patterns, out, **{**options, "precision": precision})
    said: list[str] = []
    with contextlib.suppress(TrainingFailed):
        train(patterns, out, session=Session(notice=said.append), **options)
    assert not training_folder(out).exists()
    checkpoint = training_folder(out) / "checkpoint"
    assert f"going on from {checkpoint}: epoch 1, 6 of 6 steps done" in said


def test_a_folder_with_the_name_of_the_workplace_is_left_alone(
    patterns: Path, tmp_path: Path
) -> None:
    """Of pictures, even: the labelled ones themselves."""
    patterns = Path(shutil.copytree(patterns, tmp_path / "animals.training"))
    before = sorted(patterns.rglob("*"))
    with pytest.raises(UsageError, match=r"holds c\d: give another --out"):
        train(patterns, tmp_path / "animals.safetensors", epochs=1, holdout=0.5, **SMALL)
    assert before and sorted(patterns.rglob("*")) == before


def test_two_trainings_do_not_share_a_file(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"

    def second(_: object) -> None:
        with pytest.raises(StoreLocked, match="another training is making"):
            train(patterns, out, epochs=1, holdout=0.5, **SMALL)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(patterns, out, epochs=1, holdout=0.5, on_plan=second, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_not_a_crash(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "o.safetensors"
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match=r"no room for .* another disk"):
        train(patterns, out, epochs=1, holdout=0.5, **SMALL)
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        train(patterns, out, epochs=1, holdout=0.5, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_goes_on(patterns: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "o.safetensors"
    options = ["--model", "packaged", "--input-side", "64", "--epochs", "30", "--holdout", "0.5"]
    command = [sys.executable, "-m", "embedsearch", "train", str(patterns), "--out", str(out)]
    child = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("epoch   2"):
            child.send_signal(number)
            break
    child.communicate(timeout=60)
    assert child.returncode == (143 if number == signal.SIGTERM else -9)
    assert (training_folder(out) / "checkpoint").exists() and not out.exists()
    (training_folder(out) / "tmp-0123456789abcdef-checkpoint").write_bytes(
        b"of a write that was killed"
    )
    stop = Stop(after=3)
    said: list[str] = []
    session = Session(stop=stop, notice=said.append)
    settings = {"model": "packaged", "input_side": 64, "epochs": 30, "holdout": 0.5}
    with pytest.raises(Interrupted):
        train(patterns, out, session=session, on_plan=stop.begin, **settings)
    assert any("going on from" in line and "epoch 1," not in line for line in said)
    assert [path.name for path in training_folder(out).iterdir()] == ["checkpoint"]


def test_a_class_of_one_is_learnt_and_not_held_out() -> None:
    target = Target("t", np.array([0] * 10 + [1] + [2] * 2), ("a", "b", "c"))
    refs = tuple(range(13))
    train_places, held = Labels("", refs, (target,)).split(0.2, seed=0)  # type: ignore[arg-type]
    assert np.bincount(target.values[train_places]).tolist() == [8, 1, 1]
    assert np.bincount(target.values[held], minlength=3).tolist() == [2, 0, 1]
    assert sorted([*train_places, *held]) == list(range(13))


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


@pytest.mark.parametrize(("loss", "wanted"), [("proxy", 7.0), ("cross-entropy", 0.0)])
def test_the_margin_reaches_the_loss_as_scores(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, wanted: float
) -> None:
    """0.35 of a cosine is 7 of a score, which is a cosine over the temperature of 0.05."""
    seen: list[float] = []

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(arguments[4])
        return total_loss(*arguments)

    monkeypatch.setattr(training, "total_loss", watched)
    with contextlib.suppress(TrainingFailed):
        train(patterns, tmp_path / "o.safetensors", epochs=1, holdout=0.5, loss=loss, **SMALL)
    assert seen and seen == pytest.approx([wanted] * len(seen))


@pytest.mark.parametrize(
    ("pictures", "asked", "size"),
    [(1500, 64, 62), (500, 128, 29), (24, 64, 12), (14, 10, 7), (11, 2, 2), (2, 64, 2)],
)
def test_a_step_has_at_most_the_batch_asked_for(pictures: int, asked: int, size: int) -> None:
    assert training.batch_size(pictures, asked) == size <= asked
    assert pictures % size < max(2, pictures // size)


def test_numbers_are_held_out_or_it_is_said_at_once(patterns: Path, tmp_path: Path) -> None:
    paths = [str(path.relative_to(patterns)) for path in sorted(patterns.rglob("*.png"))]
    few = "\n".join(["path,age", *(f"{p},{i if i < 4 else ''}" for i, p in enumerate(paths))])
    labels = read_labels(patterns, write(tmp_path, few), [], ["age"], print)
    for seed in range(8):  # in any split there are numbers on both sides
        parts = [labels.keep(places).targets[0].known.sum() for places in labels.split(0.2, seed)]
        assert parts == [2, 2]
    _, held = labels.split(0.2, 0)
    for place in held[labels.targets[0].known[held]]:
        (patterns / labels.refs[place].key).write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no picture held out has a number to judge by"):
        train(
            patterns,
            tmp_path / "o.safetensors",
            targets=tmp_path / "t.csv",
            regress=["age"],
            epochs=1,
            holdout=0.2,
            **SMALL,
        )


def test_a_loss_that_is_no_number_ends_the_training(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = total_loss(*arguments)
        return loss * float("nan") if calls > 5 else loss

    monkeypatch.setattr(training, "total_loss", poisoned)
    with pytest.raises(TrainingFailed, match="not finite any more in epoch 1: a lower --lr"):
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
    assert health.dead_words(alive, alive) == {}
    with torch.no_grad():  # as after a step that was much too large
        for block in network.layer3:
            block.last_norm.weight.fill_(1.0)
            block.last_norm.bias.fill_(-1e3)
    dead = dead_shares(network, x)
    assert dead["layer3"] == 1.0 and dead["layer2"] == alive["layer2"]
    assert health.dead_words(alive, dead)["layer3"].startswith("layer3: 100% of the channels")


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


def test_guessing_is_the_loss_of_knowing_nothing() -> None:
    """Of a head that always says the shares of the classes, or the mean of numbers."""
    counts = np.repeat(np.arange(3), [50, 30, 20])
    classes = Target("c", counts, ("a", "b", "c"))
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
    alone = Target("c", np.repeat(np.arange(2), [90, 10]), ("a", "b"))
    assert health.guessing_loss([alone], 0.0, 7.0) == pytest.approx(1.71, abs=0.01)
    assert health.stuck_words(1.02, 1.0297, 2)["stuck"].startswith("after epoch 2 the loss is 1.0")
    assert health.stuck_words(0.9, 1.0297, 2) == {}
    numbers = Target("n", np.linspace(-1, 1, 50, dtype=np.float32), ())
    values = torch.from_numpy(standardised(numbers).values)
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
    classes = Target("c", np.array([0, 1]), ("a", "b"))
    numbers = Target("n", np.array([0.5, 1.0], np.float32), ())
    scores = [torch.randn(2, 2, requires_grad=True), torch.randn(2, 1, requires_grad=True)]
    wanted = [torch.tensor([-1, 1]), torch.tensor([0.5, float("nan")])]
    total_loss(scores, wanted, [classes, numbers], 0.0, 0.0).backward()
    assert scores[0].grad is not None and scores[1].grad is not None
    assert torch.all(scores[0].grad[0] == 0) and torch.any(scores[0].grad[1] != 0)
    assert scores[1].grad[1] == 0 and scores[1].grad[0] != 0
    nothing = [torch.tensor([-1, -1]), torch.tensor([float("nan")] * 2)]
    assert total_loss(scores, nothing, [classes, numbers], 0.0, 4.0) == 0.0


def test_a_margin_is_taken_from_the_right_class_alone() -> None:
    classes = Target("c", np.array([1, 0]), ("a", "b"))
    numbers = Target("n", np.array([0.5, 1.0], np.float32), ())
    right, number = torch.tensor([1, 0]), torch.tensor([0.5, 1.0])
    scores, guess = torch.tensor([[3.0, 5.0], [1.0, -1.0]]), torch.zeros(2, 1)
    less = torch.tensor([[3.0, 1.0], [-3.0, -1.0]])
    with_margin = total_loss([scores], [right], [classes], 0.1, 4.0)
    assert with_margin == pytest.approx(total_loss([less], [right], [classes], 0.1, 0.0))
    of_numbers = total_loss([guess], [number], [numbers], 0.1, 4.0)
    assert of_numbers == total_loss([guess], [number], [numbers], 0.1, 0.0)


def test_what_is_learnt_is_what_is_searched() -> None:
    """The vectors that proxies pull at are the extractor's."""
    from embedsearch.network.extractor import Extractor

    spec = resolve("packaged", Session())
    network = load(spec.architecture, load_tensors(weights_path(spec)))
    target = Target("t", np.array([0, 1]), ("a", "b"))
    trainee = Trainee(network, spec, [target], "proxy").eval()
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    extractor = Extractor(network, spec)
    x = (pixels.permute(0, 3, 1, 2).float() - extractor.mean) / extractor.deviation
    with torch.inference_mode():
        vectors = trainee.vectors(trainee.features(x))
        assert torch.allclose(vectors, extractor(pixels), atol=1e-5)
    with torch.inference_mode():  # the mutant: another centre
        other = Trainee(network, replace(spec, center=0.0), [target], "proxy").eval()
        assert not torch.allclose(other.vectors(other.features(x)), extractor(pixels), atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "o.pth"], "ends in .safetensors"),
        (["--out", "."], "ends in .safetensors"),
        (["--out", "no/such/o.safetensors"], "cannot be made"),
        (["--out", "o.safetensors", "--seed", "-1"], "--seed"),
        (["--out", "o.safetensors", "--frozen", "layer4"], "--frozen is one of stem"),
        (["--out", "o.safetensors", "--epochs", "0"], "--epochs"),
        (["--out", "o.safetensors", "--lr", "nan"], "--lr"),
        (["--out", "o.safetensors", "--margin", "1"], "--margin"),
        (["--out", "o.safetensors", "--loss", "hinge"], "--loss is one of"),
        (["--out", "o.safetensors", "--frozen", "layer9"], "--frozen is one of"),
        (["--out", "o.safetensors", "--holdout", "1"], "--holdout"),
        (["--out", "o.safetensors", "--weights", "some"], "--weights is model or none"),
        (["--out", "o.safetensors", "--classify", "a"], "name columns of --targets"),
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
