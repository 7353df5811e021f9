"""Transfer learning; in: labelled pictures and a model, out: a better model's file.

decode once (pictures.py) → random views (augment.py) → network and heads (trainee.py), stage
after stage (schedule.py) → held-out recall@1 and mAP after every epoch (judging.py) → the best
weights, with their own model record, for `index --model`. A model that got worse is not written.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedsearch.core.atomic import write_atomically
from embedsearch.core.config import TrainConfig
from embedsearch.core.errors import Interrupted, StorageError, TrainingFailed, UsageError
from embedsearch.core.paths import printable
from embedsearch.core.records import Epoch, ModelSpec, Progress, Quality, StagePlan, TrainReport
from embedsearch.core.session import Session
from embedsearch.learning import health
from embedsearch.learning.augment import random_views
from embedsearch.learning.course import (
    Checkpoint,
    Course,
    digest_of,
    identity,
    read_checkpoint,
    save,
)
from embedsearch.learning.judging import judge
from embedsearch.learning.labels import Labels, main_of, read_labels, standardised
from embedsearch.learning.pictures import Part, take_pictures
from embedsearch.learning.schedule import Schedule
from embedsearch.learning.trainee import (
    TEMPERATURE,
    ProxyHead,
    Trainee,
    set_learning,
    stage_modules,
    total_loss,
)
from embedsearch.learning.workplace import Workplace
from embedsearch.network.catalog import AUTO, file_spec
from embedsearch.network.extractor import normalisation
from embedsearch.network.prepare import MODEL_RECORD
from embedsearch.network.resnet import ResNet, build, float_pixels, load
from embedsearch.network.tensors import dump_tensors, load_tensors
from embedsearch.network.torch_runtime import DTYPES, memory_format, pick_device, training_precision
from embedsearch.network.weights import resolve, weights_path

AVERAGING = 0.999  # of the weights, over the last thousand steps; fewer at the beginning
LARGEST_GRADIENT = 5.0  # a longer one is cut to this norm
# With few pictures, smaller batches: so many steps an epoch, if each has so many pictures.
STEPS_AN_EPOCH, SMALLEST_BATCH = 16, 16
SCRATCH_ARCHITECTURE = "resnet18"  # of --weights none, where --model says nothing
# Views cut from a picture show its objects larger than they are searched at. Smaller views
# bring them back to size, and train faster (Touvron et al., "FixRes", NeurIPS 2019).
VIEW_SHARE = 0.75
_WATCH_STEPS = 20  # the loss is looked at so often: each look waits for the device
_STEPS_TO_LEARN = 100  # after which heads that still guess are said to be stuck
_IMPRINTED = 16  # pictures a class make its proxy at the beginning


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
    **options: Any,
) -> TrainReport:
    """Make a model better on labelled pictures and write it to `out`, a .safetensors file.

    `options` are fields of TrainConfig. An interrupted run goes on when called again. Raises
    UsageError for what cannot be learnt from, TrainingFailed, StoreLocked where another run
    makes the same file, StorageError, and Interrupted.
    """
    config = replace(config or TrainConfig(), **options)
    session = session or Session()
    labels = read_labels(folder, targets, classify, regress, session.notice)
    with Workplace(Path(out)) as workplace:
        run = _Run(labels, workplace, config, session)
        try:
            return run.train(on_plan, on_epoch, on_progress)
        except torch.OutOfMemoryError as error:
            smaller = f"--batch {run.batch // 2}" if run.batch > 3 else "a smaller --input-side"
            again = f", once {workplace.checkpoint} is deleted"
            raise TrainingFailed(
                f"{run.device} has no memory for {run.batch} pictures at once: {smaller}"
                f"{again if workplace.checkpoint.exists() else ''}"
            ) from error


def batch_size(pictures: int, asked: int) -> int:
    """Return how many of the pictures make a step: at most as many as asked, two at least.

    They are spread evenly, so that few are left over at an epoch's end.
    """
    enough = max(min(SMALLEST_BATCH, pictures), pictures // STEPS_AN_EPOCH)
    return max(2, pictures // math.ceil(pictures / min(asked, enough)))


class _Run:
    """One training: holds the network, its average, the pictures and the course."""

    def __init__(
        self, labels: Labels, workplace: Workplace, config: TrainConfig, session: Session
    ) -> None:
        self.out = workplace.out
        self.checkpoint = workplace.checkpoint
        self.config = config
        self.session = session
        self.started = self.saved_at = time.monotonic()
        self.device = pick_device(config.device)
        self.precision = training_precision(config.precision, self.device)
        self.layout = memory_format(self.device)
        self.spec, network = self._start()
        self.mean, self.deviation = (t.to(self.device) for t in normalisation(self.spec))
        self.identity = identity(config, self.spec)
        self.found = read_checkpoint(self.checkpoint, self.identity)
        self.pictures = take_pictures(
            labels, self.spec.input_side, config.holdout, config.seed, workplace.pixels, session
        )
        self.digest = digest_of((self.pictures.train.labels, self.pictures.held.labels))
        self.targets = [standardised(target) for target in self.pictures.train.labels.targets]
        self.wanted = [torch.from_numpy(target.values).to(self.device) for target in self.targets]
        count = len(self.pictures.train)
        self.batch = batch_size(count, config.batch)
        self.steps = count // self.batch  # an epoch; the pictures left over wait for the next
        is_proxy = config.loss == "proxy"
        self.score_margin = config.margin / TEMPERATURE if is_proxy else 0.0
        torch.manual_seed(config.seed)
        trainee = Trainee(network, self.spec, self.targets, config.loss).to(self.device)
        self.trainee = trainee.to(memory_format=self.layout)
        self.average = copy.deepcopy(self.trainee).eval()
        self.best: dict[str, Tensor] = {}
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.schedule = Schedule(config, count)
        self.optimizer = self.schedule.optimizer(self.trainee)
        self.course = Course()

    def train(
        self,
        on_plan: Callable[[list[StagePlan]], None] | None,
        on_epoch: Callable[[Epoch], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> TrainReport:
        """Run the epochs that are left, and write the best weights."""
        if on_plan is not None:
            on_plan(self.schedule.plans(self.trainee))
        self.session.notice(f"an epoch is {self.steps} steps of {self.batch} pictures")
        if self.found is not None:
            self._resume(self.found)
        elif not self.config.from_scratch:
            self._imprint()
        if self.course.before is None:
            before, self.course.dead = self._quality(heads=())
            self._check_judgeable(before)
            self.course.before = self.course.best = before
            self.session.notice(f"before: {printable(before.words)}")
            self._save()
        while self.course.epoch < self.config.epochs:
            rate = self._one_epoch(on_progress)
            loss = self.course.loss_sum / self.steps
            quality, dead = self._quality(heads=self.average.heads)
            done = Epoch(self.course.epoch + 1, loss, quality, round(rate, 1))
            self._enter(done, dead)
            if on_epoch is not None:
                on_epoch(done)
            self._save()
        return self._finish()

    def _check_judgeable(self, before: Quality) -> None:
        """Raise UsageError where no picture held out says whether anything was learnt."""
        more = f"a higher --holdout than {self.config.holdout:g}, or more pictures"
        if main_of(self.targets) is None:
            if not any(target.known.any() for target in self.pictures.held.labels.targets):
                raise UsageError(f"no picture held out has a number to judge by: {more} with one")
        elif before.recall_1 is None:
            raise UsageError(
                "no class has two pictures held out, and one alone has no other to find: "
                f"{more} a class"
            )

    def _start(self) -> tuple[ModelSpec, ResNet]:
        """Return the record and the network that training starts from."""
        config = self.config
        if config.from_scratch:
            torch.manual_seed(config.seed)
            name = SCRATCH_ARCHITECTURE if config.model == AUTO else config.model
            try:
                network = build(name)
            except ValueError as error:
                raise UsageError(str(error)) from error
            spec = file_spec(name, name, network.kind.dim, "", "")
            spec = replace(spec, licence="that of the pictures it was trained on")
        else:
            spec = resolve(config.model, self.session)
            network = load(spec.architecture, load_tensors(weights_path(spec)))
        return spec.asked(config.input_side), network

    def _imprint(self) -> None:
        """Begin each class's proxy at the mean of its pictures' vectors, of a few of them.

        Qi et al., "Low-Shot Learning with Imprinted Weights", CVPR 2018.
        """
        for target, head in zip(self.targets, self.trainee.heads, strict=True):
            if not isinstance(head, ProxyHead):
                continue
            chosen = [
                np.flatnonzero(target.values == number)[:_IMPRINTED]
                for number in range(len(target.classes))
            ]
            places = np.sort(np.concatenate(chosen))
            _, vectors = self._embed(self.trainee.eval(), self.pictures.train, places)
            labels = torch.from_numpy(target.values[places]).to(self.device)
            sums = torch.zeros_like(head.proxies).index_add_(0, labels, vectors)
            seen = sums.norm(dim=1) > 0  # a class may have all its pictures held out or unreadable
            with torch.no_grad():
                head.proxies[seen] = nn.functional.normalize(sums[seen], dim=1)
        self.average.load_state_dict(self.trainee.state_dict())

    @property
    def _view_side(self) -> int:
        """Return pixels, a side, of a view: a multiple of what the network divides by."""
        return max(32, round(self.spec.input_side * VIEW_SHARE / 32) * 32)

    def _one_epoch(self, on_progress: Callable[[Progress], None] | None) -> float:
        """Learn from the pictures once, from where the course stands; return images/s."""
        course, count = self.course, len(self.pictures.train)
        for stage, modules in stage_modules(self.trainee.network).items():
            first = self.schedule.first_epoch(stage)
            learns = first is not None and course.epoch >= first
            set_learning(modules, weights=learns, statistics=not self.schedule.is_gentle)
        if not course.step:  # gone on from a checkpoint, the centre is the one it held
            self.trainee.measure_center()
        order = np.random.default_rng((self.config.seed, course.epoch)).permutation(count)
        started, begun = time.monotonic(), course.step
        losses: list[Tensor] = []
        while course.step < self.steps:
            start = course.step * self.batch
            losses.append(self._step(np.sort(order[start : start + self.batch])))
            course.step += 1
            stopped = self.session.stop()
            due = time.monotonic() - self.saved_at > self.config.checkpoint_s
            if len(losses) == _WATCH_STEPS or course.step == self.steps or stopped or due:
                self._look_at(losses)
                losses = []
                self._tell(on_progress, (time.monotonic() - started) / (course.step - begun))
                if stopped or due:
                    self._save()
            if stopped:
                raise Interrupted(
                    f"interrupted in epoch {course.epoch + 1}; the same command goes on from "
                    f"{self.checkpoint}",
                    stopped,
                )
        return self.batch * (course.step - begun) / max(time.monotonic() - started, 1e-9)

    def _step(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Learn from one batch; return its loss, still on the device."""
        number = self.course.epoch * self.steps + self.course.step
        chance = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        pixels = torch.from_numpy(self.pictures.train.pixels[places])
        at = torch.from_numpy(places).to(self.device)
        views = random_views(pixels.to(self.device), self._view_side, chance)
        with self._autocast():
            scores = self.trainee(self._normalised(views))
        wanted = [values[at] for values in self.wanted]
        smoothing = self.config.label_smoothing
        loss = total_loss(scores, wanted, self.targets, smoothing, self.score_margin)
        self.schedule.set_rates(self.optimizer, number / (self.steps * self.config.epochs))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trainee.parameters(), LARGEST_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._take_average(number)
        return loss.detach()

    def _take_average(self, number: int) -> None:
        """Move the averaged weights towards the new ones; both begin equal."""
        share = 1 - min(AVERAGING, (1 + number) / (10 + number))
        with torch.no_grad():
            for mine, new in zip(
                self.average.state_dict().values(), self.trainee.state_dict().values(), strict=True
            ):
                if mine.is_floating_point():
                    mine.lerp_(new, share)
                else:
                    mine.copy_(new)

    def _look_at(self, losses: Sequence[Tensor]) -> None:
        """Add up the losses. Raises TrainingFailed for NaN or infinity."""
        loss = float(torch.stack(list(losses)).sum())
        if not math.isfinite(loss):
            raise self._diverged()
        self.course.loss_sum += loss

    def _diverged(self) -> TrainingFailed:
        return TrainingFailed(
            f"the numbers are not finite any more in epoch {self.course.epoch + 1}: a lower --lr "
            f"than {self.config.lr:g} may help; {self.checkpoint} holds what came before, delete "
            "it to start anew"
        )

    def _tell(self, on_progress: Callable[[Progress], None] | None, step_s: float) -> None:
        if on_progress is None:
            return
        course = self.course
        done = course.epoch * self.steps + course.step
        note = f"epoch {course.epoch + 1}, loss {course.loss_sum / course.step:.3f}"
        if course.epochs and (last := course.epochs[-1].quality).recall_1 is not None:
            note += f", held-out recall@1 {last.recall_1:.3f}"
        total = self.config.epochs * self.steps * self.batch
        seconds = done * step_s  # at the rate of this epoch
        on_progress(Progress(done * self.batch, total, self.pictures.failed, seconds, note))

    def _normalised(self, x: Tensor) -> Tensor:
        """Return float pixels (B, 3, S, S) in 0 to 255 as the network wants them."""
        x = (x - self.mean) / self.deviation
        return x.contiguous(memory_format=self.layout)

    def _autocast(self) -> torch.autocast:
        lower = None if self.precision == "fp32" else DTYPES[self.precision]
        return torch.autocast(self.device.type, lower, enabled=lower is not None)

    def _embed(
        self, model: Trainee, part: Part, places: npt.NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return features and vectors, float32 (n, D) both, of the pictures at `places`."""
        model.measure_center()
        features = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(places), self.batch):
                batch = torch.from_numpy(part.pixels[places[start : start + self.batch]])
                x = self._normalised(float_pixels(batch.to(self.device)))
                features.append(model.features(x))
        joined = torch.cat(features)
        return joined, model.vectors(joined)

    def _quality(self, heads: Iterable[nn.Module]) -> tuple[Quality, dict[str, float]]:
        """Return how the averaged weights do on the pictures held out, and dead shares by stage."""
        held = self.pictures.held
        with health.DeadShares(self.average.network) as dead:
            features, vectors = self._embed(self.average, held, np.arange(len(held)))
        if not torch.isfinite(vectors).all():
            raise self._diverged()
        learnt = self.pictures.train.labels.targets
        return judge(features, vectors, held.labels.targets, learnt, list(heads)), dead.shares

    def _enter(self, done: Epoch, dead: dict[str, float]) -> None:
        """Note an epoch: warnings, the best weights, and that the next one begins."""
        course = self.course
        found = health.dead_words(course.dead, dead)
        if done.number * self.steps >= _STEPS_TO_LEARN:
            smoothing = self.config.label_smoothing
            guessing = health.guessing_loss(self.targets, smoothing, self.score_margin)
            found |= health.stuck_words(done.loss, guessing, done.number)
        for kind, words in found.items():
            if kind not in course.warnings:
                self.session.notice(words)
                course.warnings[kind] = words
        assert course.best is not None
        if done.quality.score > course.best.score:
            course.best, course.best_epoch = done.quality, done.number
            weights = self.average.network.state_dict()
            self.best = {name: tensor.clone().cpu() for name, tensor in weights.items()}
        course.epochs.append(done)
        course.epoch, course.step, course.loss_sum = done.number, 0, 0.0

    def _save(self) -> None:
        state = {
            "trainee": self.trainee.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save(self.checkpoint, self.identity, self.digest, self.course, state)
        self.saved_at = time.monotonic()

    def _resume(self, found: Checkpoint) -> None:
        """Go on from a checkpoint. Raises UsageError where the pictures are others."""
        if found.pictures != self.digest:
            raise UsageError(
                f"{self.checkpoint} is of a training with other pictures or labels: delete it, or "
                "give another --out"
            )
        self.course, state = found.course, found.state
        self.trainee.load_state_dict(state["trainee"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # the precision may be another one now
            self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.found = None  # and its memory
        self.session.notice(
            f"going on from {self.checkpoint}: epoch {self.course.epoch + 1}, "
            f"{self.course.step} of {self.steps} steps done"
        )

    def _finish(self) -> TrainReport:
        """Write the best weights with their record. Raises TrainingFailed if none is better."""
        course = self.course
        assert course.before is not None and course.best is not None
        if not course.best_epoch:
            self.checkpoint.unlink(missing_ok=True)
            raise TrainingFailed(
                "no epoch made the model better on the pictures held out "
                f"({printable(course.epochs[-1].quality.words)}; before: "
                f"{printable(course.before.words)}): {self.out} was not written"
            )
        report = TrainReport(
            model=self.config.model,
            out=str(self.out),
            device=str(self.device),
            precision=self.precision,
            images=len(self.pictures.train),
            held_out=len(self.pictures.held),
            failed=self.pictures.failed,
            before=course.before,
            after=course.best,
            best_epoch=course.best_epoch,
            epochs=course.epochs,
            warnings=list(course.warnings.values()),
            elapsed_s=round(time.monotonic() - self.started, 1),
        )
        record = {**self.spec.to_dict(), "name": self.out.stem, "weights_sha256": ""}
        metadata = {
            MODEL_RECORD: json.dumps(record),
            "embedsearch_training": json.dumps(report.to_dict()),
        }
        try:
            write_atomically(self.out, dump_tensors(self.best, metadata))
        except OSError as error:
            raise StorageError(f"{self.out}: {error.strerror or error}") from error
        self.checkpoint.unlink(missing_ok=True)
        return report
