"""Transfer learning; in: labeled images and a model, out: a better model's file.

Images are decoded once (training_images.py). Random views of them (augment.py) train the network
and its heads (training_model.py, trainer.py), stage after stage (schedule.py). After every epoch
recall@1 and mAP are measured on held-out images (held_out.py). The best weights are written with
their own model record, for `index --model`; a model that got worse is not written.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from embedsearch.core.arguments import checked
from embedsearch.core.config import TrainConfig
from embedsearch.core.errors import Interrupted, TrainingFailed, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.options import TrainOptions, configured
from embedsearch.core.paths import local_path, printable
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.images.output_files import output_files
from embedsearch.learning import health
from embedsearch.learning.augment import import_transforms
from embedsearch.learning.held_out import evaluate_held_out
from embedsearch.learning.held_out_pictures import HELD_OUT_RECORD, HeldOut
from embedsearch.learning.labels import Labels, main_of, read_labels
from embedsearch.learning.reports import Epoch, Quality, StagePlan, TrainReport
from embedsearch.learning.trainer import Trainer
from embedsearch.learning.training_folder import TrainingFolder
from embedsearch.learning.training_images import decode_training_images
from embedsearch.learning.training_state import (
    Checkpoint,
    TrainingState,
    digest_of,
    identity_of,
    read_checkpoint,
    save,
)
from embedsearch.network.catalog import AUTO, file_spec
from embedsearch.network.from_torch import MODEL_RECORD
from embedsearch.network.resnet import ResNet, build, load
from embedsearch.network.torch_runtime import pick_device
from embedsearch.network.weights import resolve, weights_path

# With few images, smaller batches: this many steps an epoch, of at least that many images.
STEPS_AN_EPOCH, SMALLEST_BATCH = 16, 16
SCRATCH_ARCHITECTURE = "resnet18"  # of --weights none, where --model says nothing
_WATCH_STEPS = 20  # between checks of the loss: each check waits for the device
_STEPS_TO_LEARN = 100  # after which a warning is given for heads that still guess


@checked
def train(
    folder: str | Path,
    out: str | Path,
    *,
    targets: str | Path | None = None,
    classify: Sequence[str] = (),
    regress: Sequence[str] = (),
    config: TrainConfig | None = None,
    session: Session | None = None,
    on_plan: Callable[[list[StagePlan]], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[TrainOptions],
) -> TrainReport:
    """Make a model better on labeled pictures and write it to `out`, a .safetensors file.

    `options` are fields of TrainConfig. An interrupted run is resumed by the same call. Raises
    UsageError for unusable labels, TrainingFailed, StoreLocked where another run
    makes the same file, StorageError, and Interrupted.
    """
    config = configured(config or TrainConfig(), options)
    session = session or Session()
    labels = read_labels(folder, targets, classify, regress, session.notice)
    with TrainingFolder(Path(local_path(out))) as training_folder:
        try:
            run = _TrainingRun(labels, training_folder, config, session)
        except torch.OutOfMemoryError as error:
            raise TrainingFailed(
                "the device has no memory for the network: another program may use it"
            ) from error
        try:
            return run.train(on_plan, on_epoch, on_progress)
        except torch.OutOfMemoryError as error:
            batch = run.trainer.batch
            smaller = f"batch={batch // 2}" if batch > 3 else "a smaller input_side"
            again = f", once {training_folder.checkpoint} is deleted"
            raise TrainingFailed(
                f"{run.trainer.device} has no memory for {batch} pictures at once: {smaller}"
                f"{again if training_folder.checkpoint.exists() else ''}"
            ) from error


def batch_size(pictures: int, asked: int) -> int:
    """Return the images of a step: at most `asked`, at least two.

    Steps are of equal size, so that few images are left over at an epoch's end.
    """
    enough = max(min(SMALLEST_BATCH, pictures), pictures // STEPS_AN_EPOCH)
    return max(2, pictures // math.ceil(pictures / min(asked, enough)))


class _TrainingRun:
    """One training: its pictures, its epochs and its checkpoint."""

    def __init__(
        self, labels: Labels, folder: TrainingFolder, config: TrainConfig, session: Session
    ) -> None:
        self.out = folder.out
        self.checkpoint = folder.checkpoint
        self.config = config
        self.session = session
        self.started = self.saved_at = time.monotonic()
        device = pick_device(config.device)
        import_transforms()  # refused here, before the images are decoded
        self.spec, network = _start(config, session)
        self.identity = identity_of(config, self.spec)
        self.found = read_checkpoint(self.checkpoint, self.identity)
        self.pictures = decode_training_images(
            labels, self.spec, config.holdout, config.seed, folder.pixels, session
        )
        self.digest = digest_of((self.pictures.train.labels, self.pictures.held.labels))
        batch = batch_size(len(self.pictures.train), config.batch)
        self.trainer = Trainer(network, self.spec, self.pictures.train, config, batch, device)
        self.best: dict[str, Tensor] = {}
        self.state = TrainingState()

    def train(
        self,
        on_plan: Callable[[list[StagePlan]], None] | None,
        on_epoch: Callable[[Epoch], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> TrainReport:
        """Run the epochs that are left, and write the best weights."""
        if on_plan is not None:
            on_plan(self.trainer.schedule.plans(self.trainer.model))
        steps, batch = self.trainer.steps, self.trainer.batch
        self.session.notice(f"an epoch is {steps} steps of {batch} pictures")
        if self.found is not None:
            self._resume(self.found)
        elif not self.config.from_scratch:
            self.trainer.imprint()
        if self.state.before is None:
            before, self.state.dead = self._quality(heads=())
            self._check_held_out(before)
            self.state.before = self.state.best = before
            self.session.notice(f"before: {printable(before.words)}")
            self._save()
        while self.state.epoch < self.config.epochs:
            rate = self._one_epoch(on_progress)
            loss = self.state.loss_sum / self.trainer.steps
            quality, dead = self._quality(heads=self.trainer.average.heads)
            done = Epoch(self.state.epoch + 1, loss, quality, round(rate, 1))
            self._record(done, dead)
            if on_epoch is not None:
                on_epoch(done)
            self._save()
        return self._finish()

    def _check_held_out(self, before: Quality) -> None:
        """Raise UsageError where no held-out image can show progress."""
        more = f"a higher holdout than {self.config.holdout:g}, or more pictures"
        if main_of(self.trainer.targets) is None:
            if not any(target.known.any() for target in self.pictures.held.labels.targets):
                raise UsageError(f"no picture held out has a number to judge by: {more} with one")
        elif before.recall_1 is None:
            raise UsageError(
                f"no class has two pictures held out, so none can find another: {more} a class"
            )

    def _one_epoch(self, on_progress: Callable[[Progress], None] | None) -> float:
        """Learn from all images once, from the current step on; return images/s."""
        self.session.keep()
        state, steps, batch = self.state, self.trainer.steps, self.trainer.batch
        order = self.trainer.begin_epoch(state.epoch, is_resumed=bool(state.step))
        started, begun = time.monotonic(), state.step
        losses: list[Tensor] = []
        while state.step < steps:
            indices = np.sort(order[state.step * batch : (state.step + 1) * batch])
            losses.append(self.trainer.step(indices, state.epoch * steps + state.step))
            state.step += 1
            stopped = self.session.stop()
            due = time.monotonic() - self.saved_at > self.config.checkpoint_s
            if len(losses) == _WATCH_STEPS or state.step == steps or stopped or due:
                loss = float(torch.stack(losses).sum())
                if not math.isfinite(loss):
                    raise self._diverged()
                state.loss_sum += loss
                losses = []
                step_s = (time.monotonic() - started) / (state.step - begun)
                self._report_progress(on_progress, step_s)
                if stopped or due:
                    self._save()
            if stopped:
                raise Interrupted(
                    f"interrupted in epoch {state.epoch + 1}; the same command goes on from "
                    f"{self.checkpoint}",
                    stopped,
                )
        return batch * (state.step - begun) / max(time.monotonic() - started, 1e-9)

    def _diverged(self) -> TrainingFailed:
        return TrainingFailed(
            f"the numbers are not finite any more in epoch {self.state.epoch + 1}: a lower lr "
            f"than {self.config.lr:g} may help; {self.checkpoint} holds the last good state; "
            "delete it to start again",
            "lr",
        )

    def _report_progress(
        self, on_progress: Callable[[Progress], None] | None, step_s: float
    ) -> None:
        if on_progress is None:
            return
        state = self.state
        done = state.epoch * self.trainer.steps + state.step
        note = f"epoch {state.epoch + 1}, loss {state.loss_sum / state.step:.3f}"
        if state.epochs and (last := state.epochs[-1].quality).recall_1 is not None:
            note += f", held-out recall@1 {last.recall_1:.3f}"
        total = self.config.epochs * self.trainer.steps * self.trainer.batch
        seconds = done * step_s  # at the rate of this epoch
        on_progress(Progress(done * self.trainer.batch, total, self.pictures.failed, seconds, note))

    def _quality(self, heads: Iterable[nn.Module]) -> tuple[Quality, dict[str, float]]:
        """Return the averaged weights' quality on held-out images, and dead shares by stage."""
        held = self.pictures.held
        with health.DeadShares(self.trainer.average.network) as dead:
            features, vectors = self.trainer.embed(self.trainer.average, held, np.arange(len(held)))
        if not torch.isfinite(vectors).all():
            raise self._diverged()
        learned = self.pictures.train.labels.targets
        truth = held.labels.targets
        return evaluate_held_out(features, vectors, truth, learned, list(heads)), dead.shares

    def _record(self, done: Epoch, dead: dict[str, float]) -> None:
        """Record an epoch: warnings and the best weights; the next one begins."""
        state = self.state
        found = health.dead_channel_warnings(state.dead, dead)
        if done.number * self.trainer.steps >= _STEPS_TO_LEARN:
            smoothing, margin = self.config.label_smoothing, self.trainer.score_margin
            guessing = health.guessing_loss(self.trainer.targets, smoothing, margin)
            found |= health.stuck_warnings(done.loss, guessing, done.number)
        for kind, message in found.items():
            if kind not in state.warnings:
                self.session.notice(message)
                state.warnings[kind] = message
        assert state.best is not None
        if done.quality.score > state.best.score:
            state.best, state.best_epoch = done.quality, done.number
            weights = self.trainer.average.network.state_dict()
            self.best = {
                name: tensor.clone(memory_format=torch.contiguous_format).cpu()
                for name, tensor in weights.items()
            }
        state.epochs.append(done)
        state.epoch, state.step, state.loss_sum = done.number, 0, 0.0

    def _save(self) -> None:
        tensors = {**self.trainer.state(), "best": self.best}
        save(self.checkpoint, self.identity, self.digest, self.state, tensors)
        self.saved_at = time.monotonic()

    def _resume(self, found: Checkpoint) -> None:
        """Resume from a checkpoint. Raises UsageError where the images are others."""
        if found.images != self.digest:
            raise UsageError(
                f"{self.checkpoint} belongs to a training with other pictures or labels: delete "
                "it, or choose another out",
                "out",
            )
        self.state = found.state
        self.trainer.resume(found.tensors)
        self.best = found.tensors["best"]
        self.found = None  # frees its memory
        self.session.notice(
            f"going on from {self.checkpoint}: epoch {self.state.epoch + 1}, "
            f"{self.state.step} of {self.trainer.steps} steps done"
        )

    def _finish(self) -> TrainReport:
        """Write the best weights with their record. Raises TrainingFailed if none is better."""
        state = self.state
        assert state.before is not None and state.best is not None
        if not state.best_epoch:
            self.checkpoint.unlink(missing_ok=True)
            raise TrainingFailed(
                "no epoch made the model better on the pictures held out "
                f"({printable(state.epochs[-1].quality.words)}; before: "
                f"{printable(state.before.words)}): {self.out} was not written"
            )
        report = TrainReport(
            model=self.config.model,
            out=str(self.out),
            device=str(self.trainer.device),
            precision=self.trainer.precision,
            images=len(self.pictures.train),
            held_out=len(self.pictures.held),
            failed=self.pictures.failed,
            before=state.before,
            after=state.best,
            best_epoch=state.best_epoch,
            epochs=state.epochs,
            warnings=list(state.warnings.values()),
            elapsed_s=round(time.monotonic() - self.started, 1),
        )
        held = self.pictures.held
        record = {**self.spec.to_dict(), "name": self.out.stem, "weights_sha256": ""}
        metadata = {
            MODEL_RECORD: json.dumps(record),
            "embedsearch_training": json.dumps(report.to_dict()),
            HELD_OUT_RECORD: HeldOut.of(held.labels, held.digests).to_json(),
        }
        with output_files([self.out]) as (temporary,):
            temporary.write_bytes(safetensors.torch.save(self.best, metadata))
        self.checkpoint.unlink(missing_ok=True)
        return report


def _start(config: TrainConfig, session: Session) -> tuple[ModelSpec, ResNet]:
    """Return the record and the network that training starts from."""
    if config.from_scratch:
        torch.manual_seed(config.seed)
        name = SCRATCH_ARCHITECTURE if config.model == AUTO else config.model
        try:
            network = build(name)
        except ValueError as error:
            raise UsageError(str(error)) from error
        spec = file_spec(name, name, network.kind.dim, "", "")
        if not spec.is_of_pooled_maps:
            raise UsageError(f"model={name} is trained with captions, not with labels", "model")
        spec = replace(spec, licence="that of the pictures it was trained on")
    else:
        spec = resolve(config.model, session)
        if not spec.is_of_pooled_maps:
            words = "gives vectors of its own: training starts from a residual network"
            raise UsageError(f"model={config.model}: {spec.name} {words}", "model")
        network = load(spec.architecture, safetensors.torch.load_file(weights_path(spec)))
    return spec.asked(config.input_side), network
