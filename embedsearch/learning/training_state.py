"""The progress of a training and its checkpoint; in: state and tensors, out: a file, and back."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from embedsearch.core.atomic import write_atomically
from embedsearch.core.config import TrainConfig
from embedsearch.core.errors import StorageError, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.learning.labels import Labels
from embedsearch.learning.reports import Epoch, Quality

VERSION = 1  # of the checkpoint's layout
# These may differ when a training is resumed: it may move to another machine.
_MACHINE_FIELDS = ("device", "precision", "checkpoint_s")


@dataclass
class TrainingState:
    """The progress of a training, and the best result so far."""

    epoch: int = 0  # full passes done
    step: int = 0  # of the current pass
    loss_sum: float = 0.0  # of its steps
    best_epoch: int = 0  # 0: what training began with
    before: Quality | None = None
    best: Quality | None = None
    dead: dict[str, float] = field(default_factory=dict)  # share of channels a stage, before
    epochs: list[Epoch] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)  # messages by kind


def identity_of(config: TrainConfig, spec: ModelSpec) -> dict[str, Any]:
    """Return what a run must have in common with a checkpoint to resume it.

    The images must be the same, too; they are known later: see `digest_of`.
    """
    own = {name: v for name, v in asdict(config).items() if name not in _MACHINE_FIELDS}
    return {"version": VERSION, **own, **spec.identity()}


def digest_of(parts: Iterable[Labels]) -> str:
    """Return a digest of the images and their targets."""
    digest = hashlib.sha256()
    for labels in parts:
        for ref in labels.refs:
            line = f"{ref.key}\0{ref.size}\0{ref.mtime_ns}\0"
            digest.update(line.encode(errors="surrogateescape"))
        for target in labels.targets:
            digest.update(f"{target.name}\0{target.classes}".encode(errors="surrogateescape"))
            digest.update(target.values.tobytes())
    return digest.hexdigest()


def save(
    file: Path,
    identity: dict[str, Any],
    images: str,
    state: TrainingState,
    tensors: Mapping[str, Any],
) -> None:
    """Write a checkpoint; one that is there is replaced in one step. Raises StorageError."""
    data = io.BytesIO()
    notes = {"identity": json.dumps(identity), "course": json.dumps(asdict(state))}
    torch.save({**notes, "pictures": images, **tensors}, data)
    try:
        write_atomically(file, data.getvalue())
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint."""

    state: TrainingState
    images: str  # digest of the images and their targets
    tensors: Mapping[str, Any]  # on the CPU: the state of the network, its average, the optimizer


def read_checkpoint(file: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """Return what a checkpoint holds, None where there is none.

    Raises UsageError for one that is of another training, or damaged, and StorageError.
    """
    if not file.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        theirs = json.loads(content["identity"])
        if theirs.get("version") == VERSION:
            state = _state_from(json.loads(content["course"]))
            found = Checkpoint(state, content["pictures"], content)
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a cut or foreign file makes torch raise
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{file} cannot be read ({message}): delete it to start again") from error
    ours = json.loads(json.dumps(identity))
    names = ours.keys() | theirs.keys()
    differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
    if differing:
        raise UsageError(
            f"{file} belongs to a training with other {', '.join(differing)}: delete it, or give "
            "another out",
            "out",
        )
    return found


def _state_from(values: dict[str, Any]) -> TrainingState:
    """Rebuild a state from its JSON."""
    epochs = [Epoch(**{**e, "quality": Quality(**e["quality"])}) for e in values["epochs"]]
    ends = {name: values[name] and Quality(**values[name]) for name in ("before", "best")}
    return TrainingState(**{**values, **ends, "epochs": epochs})
