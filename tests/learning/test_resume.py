"""A training that breaks off goes on: interrupted, killed, without room, beside another."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from embedsearch.core.errors import (
    Interrupted,
    StorageError,
    StoreLocked,
    TrainingFailed,
    UsageError,
)
from embedsearch.core.session import Session
from embedsearch.learning.reports import TrainReport
from embedsearch.learning.train import train
from tests.support.training import (
    SMALL,
    Stop,
    state,
    train_until,
    training_folder,
)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    patterns: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**SMALL, "epochs": 4, "holdout": 0.5, "batch": 4}
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
    options: dict[str, Any] = {**SMALL, "epochs": 4, "holdout": 0.5, "batch": 4}
    with pytest.raises(Interrupted):
        train_until(Stop(after=5), patterns, out, **options)
    with pytest.raises(UsageError, match="belongs to a training with other lr: delete it"):
        train(patterns, out, **{**options, "lr": 0.01})
    (patterns / "c3" / "11.png").touch()  # one that is held out, perhaps: all of them count
    with pytest.raises(UsageError, match="belongs to a training with other pictures"):
        train(patterns, out, **options)
    checkpoint = training_folder(out) / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"cannot be read .* delete it"):
        train(patterns, out, **options)


def test_a_resume_may_change_its_precision(patterns: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    options: dict[str, Any] = {**SMALL, "epochs": 2, "holdout": 0.5, "batch": 4}
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
    with pytest.raises(UsageError, match=r"holds c\d: give another out"):
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
    settings: dict[str, Any] = {"model": "packaged", "input_side": 64, "epochs": 30, "holdout": 0.5}
    with pytest.raises(Interrupted):
        train(patterns, out, session=session, on_plan=stop.begin, **settings)
    assert any("going on from" in line and "epoch 1," not in line for line in said)
    assert [path.name for path in training_folder(out).iterdir()] == ["checkpoint"]
