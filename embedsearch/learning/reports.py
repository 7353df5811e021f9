"""What `evaluate` and `train` return: measures with their intervals, epochs, reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from embedsearch.core.config import NO_CENTER
from embedsearch.core.names import HasKey, unicode_text
from embedsearch.core.records import Hit, JsonRecord


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % confidence interval, by bootstrap over queries."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupMeasure:
    """The mAP of the queries that have `least` to `most` images to find; None is no limit."""

    least: int
    most: int | None
    queries: int
    mean_ap: Estimate


@dataclass(frozen=True)
class ClassMeasure(JsonRecord):
    """The measures of the queries of one class; None where none of its images was a query."""

    name: str
    images: int
    recall_1: float | None
    mean_ap: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, called as the measures are."""
        name = unicode_text(self.name)
        return {
            "name": name,
            "images": self.images,
            "recall@1": _rounded(self.recall_1),
            "mAP": _rounded(self.mean_ap),
        }


@dataclass(frozen=True)
class WorstQuery(HasKey):
    """A query of low average precision, with its first hits in the order that was measured."""

    key: str
    full_path: str
    average_precision: float
    hits: list[Hit]


@dataclass(frozen=True)
class Evaluation(JsonRecord):
    """The measures of one model on one set of pictures."""

    model: str
    precision: str
    images: int
    queries: int  # images that have anything to find
    classes: list[ClassMeasure]  # none where a CSV says what is relevant
    failed: int
    images_per_s: float  # of indexing; 0 where the store was there before
    measures: dict[str, Estimate]
    served_recall: float  # of the 10 nearest by exact search, the share that `query` returns
    worst: list[WorstQuery]
    center: str = NO_CENTER  # that vectors were measured from, see IndexConfig
    expand: int = 0  # neighbors that each query was expanded by
    rerank: bool = False
    gain: Estimate | None = None  # of mAP over the first Evaluation, query by query
    by_group: list[GroupMeasure] = field(default_factory=list)  # by number of images to find

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {**super().to_dict(), "classes": [one.to_dict() for one in self.classes]}


@dataclass(frozen=True)
class TextEvaluation(JsonRecord):
    """How well the pictures of captions are found by them, by words, pictures or both."""

    model: str
    by: str  # words, picture or both
    images: int
    queries: int  # captions whose picture is in the store
    measures: dict[str, Estimate]  # recall@1, 5 and 10, and MRR, of the first 100 hits


@dataclass(frozen=True)
class StagePlan:
    """What becomes of a stage: it learns from an epoch on, counted from 1, or never (None)."""

    name: str
    parameters: int
    first_epoch: int | None
    lr: float


@dataclass(frozen=True)
class Quality:
    """Measures on the held-out pictures; recall and mAP are None without a target of classes."""

    recall_1: float | None
    mean_ap: float | None
    targets: dict[str, float]  # accuracy of classes, mean absolute error of numbers
    score: float  # what training is to raise: mAP, else 1 - error / error of guessing

    @property
    def words(self) -> str:
        """Return the measures on one line."""
        parts = [f"{name} {value:.3f}" for name, value in self.targets.items()]
        if self.recall_1 is not None and self.mean_ap is not None:
            parts = [f"recall@1 {self.recall_1:.3f}", f"mAP {self.mean_ap:.3f}", *parts]
        return ", ".join(parts) or "nothing learned yet"


@dataclass(frozen=True)
class Epoch:
    """One pass over the pictures, numbered from 1."""

    number: int
    loss: float
    quality: Quality
    images_per_s: float


@dataclass(frozen=True)
class TrainReport(JsonRecord):
    """What one `train` run did.

    `before` and `after` are of the pictures held out. They chose `best_epoch`, which flatters.
    """

    model: str  # where it started
    out: str
    device: str
    precision: str
    images: int
    held_out: int
    failed: int
    before: Quality
    after: Quality
    best_epoch: int
    epochs: list[Epoch]
    warnings: list[str]
    elapsed_s: float  # of this process; a resumed run had others


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
