"""Transfer learning; in: labelled pictures and a model, out: a better model's file.

decode once (pixels.py) → random views (augment.py) → network and heads (trainee.py) → held-out
recall@1 and mAP after every epoch → the best weights, with their own model record, for
`index --model`. A model that got worse is not written.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedsearch.config import STAGES, TrainConfig
from embedsearch.errors import Interrupted, StorageError, TrainingFailed, UsageError
from embedsearch.learning import health
from embedsearch.learning.augment import random_views
from embedsearch.learning.labels import Labels, Target, read_labels
from embedsearch.learning.metrics import measure, rank_others
from embedsearch.learning.pixels import decode_all
from embedsearch.learning.trainee import ProxyHead, Trainee, set_learning, stage_modules, total_loss
from embedsearch.network.catalog import AUTO, file_spec
from embedsearch.network.extractor import normalisation
from embedsearch.network.prepare import MODEL_RECORD
from embedsearch.network.resnet import ResNet, build, float_pixels, load
from embedsearch.network.tensors import dump_tensors, load_tensors
from embedsearch.network.torch_runtime import DTYPES, pick_device, training_precision
from embedsearch.network.weights import resolve, weights_path
from embedsearch.records import Epoch, ModelSpec, Progress, Quality, StagePlan, TrainReport
from embedsearch.session import Session
from embedsearch.writing import write_atomically

# Discriminative learning rates (Howard & Ruder, ACL 2018): early stages are general, and learn
# a fraction of what the heads do.
STAGE_LR = dict(zip(STAGES, (0.03, 0.05, 0.1, 0.2, 0.3), strict=True))
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-5  # not of biases, BatchNorm and proxies
WARM_UP = 0.05  # of all steps, rising; then a cosine down to 0
AVERAGING = 0.999  # of the weights, over the last thousand steps; fewer at the beginning
LARGEST_GRADIENT = 5.0  # a longer one is cut to this norm
PICTURES_FOR_STATISTICS = 10_000  # fewer do not improve on those that the weights came with
UNFREEZE_SHARE = 12  # another stage learns after each 12th of the epochs
SCRATCH_ARCHITECTURE = "resnet18"  # of --weights none, where --model says nothing
# Views cut from a picture show its objects larger than they are searched at. Smaller views
# bring them back to size, and train faster (Touvron et al., "FixRes", NeurIPS 2019).
VIEW_SHARE = 0.75
_WATCH_STEPS = 20  # the loss is looked at so often: each look waits for the device
_EMBED_BATCH = 64
_IMPRINTED = 16  # pictures a class make its proxy at the beginning
_NAMED = 5  # so many pictures that cannot be read are named


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
    UsageError for what cannot be learnt from, TrainingFailed, and Interrupted.
    """
    config = replace(config or TrainConfig(), **options)
    session = session or Session()
    file = _writable(Path(out))
    labels = read_labels(folder, targets, classify, regress, session.notice)
    run = _Run(labels, file, config, session)
    return run.train(on_plan, on_epoch, on_progress)


@dataclass
class _Course:
    """How far a training is, and the best so far: what a checkpoint holds beside the weights."""

    epoch: int = 0  # full passes done
    step: int = 0  # of the pass under way
    loss_sum: float = 0.0
    best_epoch: int = 0
    before: Quality | None = None
    best: Quality | None = None
    dead: dict[str, float] = field(default_factory=dict)  # share of channels a stage, before
    epochs: list[Epoch] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Run:
    """One training: holds the network, its average, the pictures and the course."""

    def __init__(self, labels: Labels, out: Path, config: TrainConfig, session: Session) -> None:
        self.out = out
        self.checkpoint = out.with_suffix(".checkpoint")
        self.config = config
        self.session = session
        self.started = time.monotonic()
        self.saved_at = self.started
        self.course = _Course()
        self.device = pick_device(config.device)
        self.precision = training_precision(config.precision, self.device)
        self.spec, network = self._start()
        self.mean, self.deviation = (t.to(self.device) for t in normalisation(self.spec))
        self._take_pictures(labels)
        torch.manual_seed(config.seed)
        trainee = Trainee(network, self.spec, self.targets, config.loss).to(self.device)
        self.trainee = trainee.to(memory_format=torch.channels_last)
        if not config.from_scratch:
            self._imprint()
        self.average = copy.deepcopy(self.trainee).eval()
        self.best: dict[str, Tensor] = {}
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.optimizer = self._optimizer()

    def train(
        self,
        on_plan: Callable[[list[StagePlan]], None] | None,
        on_epoch: Callable[[Epoch], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> TrainReport:
        """Run the epochs that are left, and write the best weights."""
        if on_plan is not None:
            on_plan(self._plan())
        self._resume()
        if self.course.before is None:
            self.course.before = self.course.best = self._quality(with_heads=False)
            self.course.dead = health.dead_shares(self.average.network, self._held_out)
        while self.course.epoch < self.config.epochs:
            self._one_epoch(on_progress)
            loss = self.course.loss_sum / self._steps
            rate = self.epoch_images / max(time.monotonic() - self.epoch_started, 1e-9)
            quality = self._quality(with_heads=True)
            done = Epoch(self.course.epoch + 1, loss, quality, round(rate, 1))
            self._warn(done)
            self.course.epochs.append(done)
            assert self.course.best is not None
            if quality.score > self.course.best.score:
                self.course.best, self.course.best_epoch = quality, done.number
                weights = self.average.network.state_dict()
                self.best = {name: tensor.clone().cpu() for name, tensor in weights.items()}
            if on_epoch is not None:
                on_epoch(done)
            self.course.epoch, self.course.step, self.course.loss_sum = done.number, 0, 0.0
            self._save()
        return self._finish()

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
        return replace(spec, input_side=config.input_side or spec.input_side), network

    def _take_pictures(self, labels: Labels) -> None:
        """Decode the pictures as `index` would, and settle the targets."""
        side = self.spec.input_side
        train, held = (labels.keep(p) for p in labels.split(self.config.holdout, self.config.seed))
        self.session.notice(
            f"{len(train.refs)} pictures to learn from, {len(held.refs)} held out; decoding"
        )
        pieces = []
        self.failed = 0
        with tempfile.TemporaryDirectory(prefix=".embedsearch-", dir=self.out.parent) as folder:
            for part in (train, held):
                pixels, places, failures = decode_all(
                    labels.folder, part.refs, side, Path(folder) / "pixels", self.session
                )
                for failure in failures[:_NAMED]:
                    self.session.notice(f"left out: {failure.key}: {failure.reason}")
                self.failed += len(failures)
                pieces.append((pixels, part.keep(places)))
        (self.pixels, train), (self.held_pixels, held) = pieces
        if len(train.refs) < 2 or not len(held.refs):
            raise UsageError(f"{len(train.refs)} + {len(held.refs)} pictures are too few to train")
        self.labels = train
        self.held = held.targets
        self.targets = [_standardised(target) for target in train.targets]
        self.wanted = [torch.from_numpy(target.values).to(self.device) for target in self.targets]
        # At least eight steps an epoch, but never fewer pictures than BatchNorm can do with.
        enough = max(min(8, len(train.refs)), len(train.refs) // 8)
        self.batch = min(self.config.batch, enough)

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
            _, vectors = self._embed(self.trainee.eval(), self.pixels, places)
            labels = torch.from_numpy(target.values[places]).to(self.device)
            sums = torch.zeros_like(head.proxies).index_add_(0, labels, vectors)
            seen = sums.norm(dim=1) > 0  # a class may have all its pictures held out or unreadable
            with torch.no_grad():
                head.proxies[seen] = nn.functional.normalize(sums[seen], dim=1)

    @property
    def _view_side(self) -> int:
        """Return pixels, a side, of a view: a multiple of what the network divides by."""
        return max(32, round(self.spec.input_side * VIEW_SHARE / 32) * 32)

    @property
    def _steps(self) -> int:
        """Return steps an epoch; what is left over after whole batches waits for the next."""
        return len(self.labels.refs) // self.batch

    def _optimizer(self) -> torch.optim.SGD:
        """Return the optimizer: two groups a stage, with and without weight decay, and heads'."""
        groups: list[dict[str, Any]] = []
        for stage, modules in stage_modules(self.trainee.network).items():
            lr = self._lr(stage)
            parameters = [p for module in modules for p in module.parameters()]
            for decay, chosen in (
                (WEIGHT_DECAY, [p for p in parameters if p.ndim > 1]),
                (0.0, [p for p in parameters if p.ndim <= 1]),
            ):
                groups.append({"params": chosen, "weight_decay": decay, "base": lr})
        heads = list(self.trainee.heads.parameters())
        groups.append({"params": heads, "weight_decay": 0.0, "base": self.config.lr})
        return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)

    def _lr(self, stage: str) -> float:
        return self.config.lr * (1.0 if self.config.from_scratch else STAGE_LR[stage])

    def _first_epoch(self, stage: str) -> int | None:
        """Return from which epoch, counted from 0, a stage learns: the last one first.

        Heads that know nothing yet would wreck what the stages know.
        """
        frozen, place = self.config.frozen, STAGES.index(stage)
        if frozen is not None and place <= STAGES.index(frozen):
            return None
        if self.config.from_scratch:
            return 0
        return (len(STAGES) - place) * self.config.epochs // UNFREEZE_SHARE

    def _plan(self) -> list[StagePlan]:
        plans = []
        for stage, modules in stage_modules(self.trainee.network).items():
            count = sum(p.numel() for module in modules for p in module.parameters())
            first = self._first_epoch(stage)
            plans.append(
                StagePlan(stage, count, None if first is None else first + 1, self._lr(stage))
            )
        heads = sum(p.numel() for p in self.trainee.heads.parameters())
        return [*plans, StagePlan("heads", heads, 1, self.config.lr)]

    def _one_epoch(self, on_progress: Callable[[Progress], None] | None) -> None:
        """Learn from every picture once, from where the course stands."""
        course = self.course
        many = len(self.labels.refs) >= PICTURES_FOR_STATISTICS
        statistics = self.config.from_scratch or many
        for stage, modules in stage_modules(self.trainee.network).items():
            first = self._first_epoch(stage)
            learns = first is not None and course.epoch >= first
            set_learning(modules, weights=learns, statistics=statistics)
        if not course.step:  # gone on from a checkpoint, the centre is the one it held
            self.trainee.measure_center()
        order = np.random.default_rng((self.config.seed, course.epoch)).permutation(
            len(self.labels.refs)
        )
        self.epoch_started, self.epoch_images = time.monotonic(), 0
        losses: list[Tensor] = []
        while course.step < self._steps:
            start = course.step * self.batch
            losses.append(self._step(np.sort(order[start : start + self.batch])))
            course.step += 1
            self.epoch_images += self.batch
            stopped = self.session.stop()
            if len(losses) == _WATCH_STEPS or course.step == self._steps or stopped:
                self._look_at(losses)
                losses = []
                self._tell(on_progress)
                if stopped or time.monotonic() - self.saved_at > self.config.checkpoint_s:
                    self._save()
            if stopped:
                raise Interrupted(
                    f"interrupted in epoch {course.epoch + 1}; the same command goes on from "
                    f"{self.checkpoint}",
                    stopped,
                )

    def _step(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Learn from one batch; return its loss, still on the device."""
        number = self.course.epoch * self._steps + self.course.step
        chance = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        pixels = torch.from_numpy(self.pixels[places]).to(self.device, non_blocking=True)
        views = random_views(pixels, self._view_side, chance)
        x = self._normalised(views)
        with self._autocast():
            scores = self.trainee(x)
        at = torch.from_numpy(places).to(self.device)
        wanted = [values[at] for values in self.wanted]
        loss = total_loss(scores, wanted, self.targets, self.config.label_smoothing)
        share = _schedule(number / (self._steps * self.config.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * share
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
            raise TrainingFailed(
                f"the loss is no finite number any more in epoch {self.course.epoch + 1}: a lower "
                f"--lr than {self.config.lr:g} may help; {self.checkpoint} holds what came before, "
                "delete it to start anew"
            )
        self.course.loss_sum += loss

    def _tell(self, on_progress: Callable[[Progress], None] | None) -> None:
        if on_progress is None:
            return
        course = self.course
        done = (course.epoch * self._steps + course.step) * self.batch
        total = self.config.epochs * self._steps * self.batch
        note = f"epoch {course.epoch + 1}, loss {course.loss_sum / course.step:.3f}"
        if course.epochs and (last := course.epochs[-1].quality).recall_1 is not None:
            note += f", held-out recall@1 {last.recall_1:.3f}"
        elapsed = time.monotonic() - self.epoch_started
        seconds = done * elapsed / self.epoch_images  # at the rate of this epoch
        on_progress(Progress(done, total, self.failed, seconds, note))

    def _normalised(self, x: Tensor) -> Tensor:
        """Return float pixels (B, 3, S, S) in 0 to 255 as the network wants them."""
        x = (x - self.mean) / self.deviation
        return x.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        lower = None if self.precision == "fp32" else DTYPES[self.precision]
        return torch.autocast(self.device.type, lower, enabled=lower is not None)

    def _embed(
        self, model: Trainee, pixels: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return features and vectors, float32 (n, D) both, of the pictures at `places`."""
        model.measure_center()
        features = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(places), _EMBED_BATCH):
                batch = torch.from_numpy(pixels[places[start : start + _EMBED_BATCH]])
                x = self._normalised(float_pixels(batch.to(self.device)))
                features.append(model.features(x))
        joined = torch.cat(features)
        return joined, model.vectors(joined)

    def _held_out(self) -> tuple[Tensor, Tensor]:
        """Return features and vectors of the pictures held out, by the averaged weights."""
        return self._embed(self.average, self.held_pixels, np.arange(len(self.held_pixels)))

    def _quality(self, *, with_heads: bool) -> Quality:
        """Return how the averaged weights do on the pictures held out."""
        features, vectors = self._held_out()
        errors, shown = [], {}
        for target, held, head in zip(
            self.labels.targets, self.held, self.average.heads, strict=True
        ):
            known = torch.from_numpy(held.known)
            if not with_heads or not known.any():
                continue
            with torch.inference_mode():
                scores = head(features, vectors).cpu()[known]
            truth = torch.from_numpy(held.values)[known]
            if target.classes:
                shown[target.name] = float((scores.argmax(dim=1) == truth).float().mean())
            else:
                mean, deviation = _scale(target)
                error = float((scores[:, 0] * deviation + mean - truth).abs().mean())
                shown[target.name] = error
                errors.append(1 - error / max(float((truth - mean).abs().mean()), 1e-12))
        recall, mean_ap = self._retrieval(vectors.float().cpu().numpy())
        score = mean_ap if mean_ap is not None else float(np.mean(errors)) if errors else 0.0
        return Quality(recall, mean_ap, shown, score)

    def _retrieval(self, vectors: npt.NDArray[np.float32]) -> tuple[float | None, float | None]:
        """Return recall@1 and mAP, leave one out, among the pictures held out."""
        main = next((target for target in self.held if target.classes), None)
        if main is None:
            return None, None
        known = np.flatnonzero(main.known)
        labels, vectors = main.values[known], vectors[known]
        counts = np.unique_counts(labels)
        wanted = dict(zip(counts.values.tolist(), (counts.counts - 1).tolist(), strict=True))
        others = np.array([wanted[label] for label in labels.tolist()], dtype=np.int64)
        queries = np.flatnonzero(others)
        if not len(queries):
            return None, None
        order = rank_others(vectors, queries)
        values = measure(labels[order] == labels[queries][:, None], others[queries])
        return float(values["recall@1"].mean()), float(values["mAP"].mean())

    def _warn(self, epoch: Epoch) -> None:
        """Say what looks wrong, once a sentence."""
        guessing = health.guessing_loss(self.targets, self.config.label_smoothing)
        steps = epoch.number * self._steps
        found = health.stuck_words(epoch.loss, guessing, epoch.number) if steps >= 100 else []
        network = self.average.network
        found += health.dead_words(self.course.dead, health.dead_shares(network, self._held_out))
        said = {words.partition(":")[0] for words in self.course.warnings}
        for words in found:
            if words.partition(":")[0] not in said:
                self.session.notice(words)
                self.course.warnings.append(words)

    def _identity(self) -> str:
        """Return what a checkpoint must have in common with a run that goes on from it."""
        own = asdict(self.config)
        for name in ("device", "precision", "checkpoint_s"):
            del own[name]
        digest = hashlib.sha256(json.dumps([own, self.spec.identity()], sort_keys=True).encode())
        for ref in self.labels.refs:
            digest.update(
                f"{ref.key}\0{ref.size}\0{ref.mtime_ns}\0".encode(errors="surrogateescape")
            )
        for target in self.labels.targets:
            digest.update(f"{target.name}\0{target.classes}".encode(errors="surrogateescape"))
            digest.update(target.values.tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        data = io.BytesIO()
        content = {
            "identity": self._identity(),
            "course": json.dumps(asdict(self.course)),
            "trainee": self.trainee.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        torch.save(content, data)
        write_atomically(self.checkpoint, data.getvalue())
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one. Raises UsageError for another training's."""
        if not self.checkpoint.exists():
            return
        try:
            content = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            same = content["identity"] == self._identity()
        except Exception as error:  # whatever a cut or foreign file makes torch raise
            raise UsageError(
                f"{self.checkpoint} cannot be read ({_one_line(error)}): delete it to start anew"
            ) from error
        if not same:
            raise UsageError(
                f"{self.checkpoint} belongs to a training with other pictures or options: delete "
                "it, or give another --out"
            )
        self.trainee.load_state_dict(content["trainee"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.best = {name: tensor.cpu() for name, tensor in content["best"].items()}
        self.course = _course(json.loads(content["course"]))
        self.session.notice(
            f"going on from {self.checkpoint}: epoch {self.course.epoch + 1}, "
            f"step {self.course.step + 1} of {self._steps}"
        )

    def _finish(self) -> TrainReport:
        """Write the best weights with their record. Raises TrainingFailed if none is better."""
        course = self.course
        assert course.before is not None and course.best is not None
        if not course.best_epoch:
            self.checkpoint.unlink(missing_ok=True)
            last = course.epochs[-1].quality
            raise TrainingFailed(
                f"no epoch made the model better on the pictures held out ({_words(last)}; before: "
                f"{_words(course.before)}): {self.out} was not written"
            )
        report = TrainReport(
            model=self.config.model,
            out=str(self.out),
            device=str(self.device),
            precision=self.precision,
            images=len(self.labels.refs),
            held_out=len(self.held_pixels),
            failed=self.failed,
            before=course.before,
            after=course.best,
            best_epoch=course.best_epoch,
            epochs=course.epochs,
            warnings=course.warnings,
            elapsed_s=round(time.monotonic() - self.started, 1),
        )
        record = {**self.spec.to_dict(), "name": self.out.stem, "weights_sha256": ""}
        metadata = {
            MODEL_RECORD: json.dumps(record),
            "embedsearch_training": json.dumps(report.to_dict()),
        }
        write_atomically(self.out, dump_tensors(self.best, metadata))
        self.checkpoint.unlink(missing_ok=True)
        return report


def _writable(out: Path) -> Path:
    """Return `out`, checked before hours of work. Raises UsageError and StorageError."""
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: give a name that ends in .safetensors")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder")
    if not os.access(out.parent, os.W_OK):
        raise StorageError(f"--out {out}: {out.parent} is no folder that can be written to")
    return out.resolve()


def _schedule(progress: float) -> float:
    """Return the share of the learning rate, with `progress` from 0 to 1."""
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return min(1.0, (progress + 1e-3) / WARM_UP) * cosine


def _scale(target: Target) -> tuple[float, float]:
    """Return mean and deviation of a target's known numbers."""
    known = target.values[target.known]
    return float(known.mean()), max(float(known.std()), 1e-12)


def _standardised(target: Target) -> Target:
    """Return a target of numbers with mean 0 and deviation 1; classes as they are."""
    if target.classes:
        return target
    mean, deviation = _scale(target)
    return replace(target, values=((target.values - mean) / deviation).astype(np.float32))


def _course(values: dict[str, Any]) -> _Course:
    """Rebuild a course from its JSON."""

    def quality(found: dict[str, Any] | None) -> Quality | None:
        return None if found is None else Quality(**found)

    epochs = [Epoch(**{**e, "quality": Quality(**e["quality"])}) for e in values["epochs"]]
    ends = {name: quality(values[name]) for name in ("before", "best")}
    return _Course(**{**values, **ends, "epochs": epochs})


def _words(quality: Quality) -> str:
    parts = [f"{name} {value:.3f}" for name, value in quality.targets.items()]
    if quality.recall_1 is not None and quality.mean_ap is not None:
        parts = [f"recall@1 {quality.recall_1:.3f}", f"mAP {quality.mean_ap:.3f}", *parts]
    return ", ".join(parts) or "nothing learnt"


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
