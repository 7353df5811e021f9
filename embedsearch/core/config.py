"""All settings, each default written once; checked on construction, which raises UsageError."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from embedsearch.core.errors import UsageError
from embedsearch.core.field_types import settle_types
from embedsearch.core.scores import BOTH, RANKINGS
from embedsearch.core.system import available_processors, max_workers
from embedsearch.core.unknown_fields import replaced
from embedsearch.core.walks import Excludes

STORE_NAME = ".embedsearch"
DEVICES = ("auto", "cpu", "cuda", "mps")  # or cuda:N
FREEZABLE = ("stem", "layer1", "layer2", "layer3")  # stages of a network; the last one must learn
LOSSES = ("proxy", "cross-entropy")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")  # int8: only for embedding on a CPU
DEFAULT_K = 10
DIVERSE_POOL = 256  # diverse hits are chosen among this many nearest
MAX_EXPAND = 100
AUTO_ANN, EXACT_ANN = "auto", "exact"
BENCH_IMAGES = 256
QUIET_S = 2.0  # without changes before a watched folder is indexed again
MAP_IMAGES = 3000  # each adds a thumbnail of about 3 kB
MIN_SIDE, MAX_SIDE = 32, 1024  # a network halves its input five times
# Keeps a worker at about 1 GB. JPEGs count by what their reduced scale leaves, a quarter at least:
# those of phones, of 108 and 200 megapixels, fit.
DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 512 << 20


@runtime_checkable
class ArrowTable(Protocol):
    """A table in memory: a DataFrame of pandas or Polars, a table of Arrow or DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the columns over, as Arrow's PyCapsule interface says."""


@dataclass(frozen=True)
class DecodeLimits:
    """The limits of one image. A file above a limit becomes a failure; the run continues."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_bytes: int = DEFAULT_MAX_BYTES
    image_timeout_s: float = 20.0  # wall-clock time of one image, then its worker is replaced
    worker_memory_bytes: int = 2 << 30  # address space of a worker, enforced on Linux
    allow_truncated: bool = False  # accept truncated pictures; marked in the row

    def __post_init__(self) -> None:
        settle_types(self)
        if self.max_pixels < 1 or self.max_bytes < 1:
            raise UsageError("max_pixels and max_bytes must be above 0", "max_pixels", "max_bytes")
        if self.image_timeout_s <= 0:
            raise UsageError("image_timeout_s must be above 0 seconds", "image_timeout_s")

    def verdict_key(self) -> dict[str, Any]:
        """Return the fields on which a recorded failure depends; it is retried if one changes."""
        values = asdict(self)
        return {name: values[name] for name in ("max_pixels", "max_bytes", "allow_truncated")}


@dataclass(frozen=True)
class SearchBudget:
    """Maximum cost and minimum recall of a search; each store keeps its own budget."""

    recall: float = 0.98  # fraction of the exact 10 nearest that must be found
    latency_s: float = 0.01  # of one query to an open store, without the network
    memory_bytes: int = 4 << 30  # of the index that is searched; it is mapped, not loaded
    # A FAISS factory string, "exact" for no index, or "auto" to choose one by measuring.
    factory: str = AUTO_ANN

    def __post_init__(self) -> None:
        settle_types(self)
        if not 0.0 < self.recall <= 1.0:
            raise UsageError("recall must be above 0 and at most 1", "recall")
        if not self.latency_s > 0.0:
            raise UsageError("latency_s must be above 0", "latency_s")
        if self.memory_bytes < 1:
            raise UsageError("memory_bytes must be above 0", "memory_bytes")


STORE_CENTER, MODEL_CENTER, NO_CENTER = "store", "model", "none"
CENTERS = (STORE_CENTER, MODEL_CENTER, NO_CENTER)


@dataclass(frozen=True)
class IndexConfig:
    """How one `index` run works. Only the first three change vectors beyond rounding."""

    model: str = "auto"  # a catalog entry, a file of weights or a folder of ONNX files
    # Side of the network's input in pixels: smaller is faster; vectors of two sides do not compare.
    input_side: int | None = None  # None is the model's own
    flip: bool = False  # also embed the mirror image and average: twice the time
    device: str = "auto"
    precision: str = "auto"  # auto takes bf16 on CPUs where it was measured to be faster
    tune: bool = True  # measure once how the network runs fastest here, if many images are worth it
    workers: int | None = None  # decoding processes; None: as many as keep the network busy
    # What vectors are measured from when they are compared: the mean of the store's images, its
    # estimate from the model's weights, or none; None keeps the store's choice, first "store".
    center: str | None = None
    # Of queries to the store, see SearchBudget; None keeps the store's value.
    recall: float | None = None
    latency_s: float | None = None
    memory_bytes: int | None = None
    ann: str | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    checkpoint_s: float = 60.0  # a killed run loses at most this much work ...
    checkpoint_images: int = 100_000  # ... or this many images
    # The user's columns: a file, see images/tables/table.py, or from Python a table in memory.
    metadata: str | ArrowTable | None = None
    sidecars: bool = False  # columns from files beside the images, see images/sources/sidecars.py
    # Links to files and folders, inside the folders that are walked; None keeps the store's choice,
    # first True.
    follow_links: bool | None = None
    # Patterns as in .gitignore, of what walks leave out. The store keeps them: () takes the kept
    # ones, others replace them, and ("",) is none.
    exclude: tuple[str, ...] = ()
    # Leave out @eaDir, #recycle, __MACOSX and the like; None keeps the store's choice, first True.
    default_excludes: bool | None = None
    poll_s: float | None = None  # watching: seconds between looks; None suits the file system
    files: str | None = None  # a file with the paths of images, or - for the standard input
    wait_s: float = 0.0  # how long to wait for another writer of the store
    rebuild: bool = False  # re-embed everything; required to change a store's model
    allow_empty: bool = False  # accept that a root has vanished or holds no image any more
    dry_run: bool = False

    def __post_init__(self) -> None:
        settle_types(self)
        check_device(self.device)
        check_precision(self.precision)
        _check_side(self.input_side)
        check_center(self.center)
        if self.workers is not None and self.workers < 1:
            raise UsageError("workers must be at least 1", "workers")
        if self.wait_s < 0:
            raise UsageError("wait_s must not be negative", "wait_s")
        if self.poll_s is not None and not self.poll_s > 0:
            raise UsageError("poll_s must be above 0 seconds", "poll_s")
        if self.files is not None and self.rebuild:
            raise UsageError(
                "files names some images, rebuild embeds all: give one of them", "files", "rebuild"
            )
        if self.metadata is not None and self.sidecars:
            raise UsageError("metadata and sidecars exclude each other", "metadata", "sidecars")
        self.budget(SearchBudget())

    def budget(self, before: SearchBudget) -> SearchBudget:
        """Return the budget with the requested values; other values are kept."""
        asked: dict[str, Any] = {"recall": self.recall, "latency_s": self.latency_s}
        asked |= {"memory_bytes": self.memory_bytes, "factory": self.ann}
        return replaced(before, **{name: v for name, v in asked.items() if v is not None})

    def excludes(self, before: Excludes) -> Excludes:
        """Return what walks leave out, with the requested values; other values are kept."""
        patterns = tuple(filter(None, self.exclude)) if self.exclude else before.patterns
        defaults = before.defaults if self.default_excludes is None else self.default_excludes
        return replaced(before, patterns=patterns, defaults=defaults)

    def worker_range(self, *, on_gpu: bool) -> tuple[int, int]:
        """Return how many decoding processes to start, and how many at most.

        A requested number is used, up to twice the processors. Else with a GPU there is one per
        processor, since the GPU is nearly always faster; without a GPU a run starts with one and
        adds more while the network waits for pictures.
        """
        if self.workers is not None:
            requested = min(self.workers, max(2 * available_processors(), 2))
            return requested, requested
        limit = max_workers()
        return (limit if on_gpu else 1), limit


@dataclass(frozen=True)
class SearchConfig:
    """What a query returns."""

    k: int = DEFAULT_K
    offset: int = 0  # skip this many of the nearest hits, for paging
    where: str | None = None  # SQL condition on the columns of a row: only rows that meet it
    min_score: float | None = None  # leave out hits with a lower cosine
    # Leave out hits whose cosine with a better hit reaches this: copies, bursts.
    collapse: float | None = None
    # How much hits should differ from each other: 0 not at all, 1 as much as possible.
    diverse: float | None = None
    expand: int = 0  # query again with the mean of the query and this many neighbors
    rerank: bool = False  # re-rank the 100 nearest: hits that resemble other near hits move up
    by: str = BOTH  # which rankings count where a query has an image and a text; see RANKINGS
    # NAME=NUMBER: what a ranking (picture, words) or the words of a column count, else 1; of path
    # and camera 0.5.
    weight: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_types(self)
        if self.k < 1:
            raise UsageError(f"k must be at least 1, not {self.k}", "k")
        if self.offset < 0:
            raise UsageError(f"offset must be at least 0, not {self.offset}", "offset")
        if self.min_score is not None and not -1.0 <= self.min_score <= 1.0:
            raise UsageError(
                f"min_score must be a cosine between -1 and 1, not {self.min_score}", "min_score"
            )
        if self.collapse is not None and not 0.0 < self.collapse <= 1.0:
            raise UsageError(
                f"collapse must be a cosine above 0 and at most 1, not {self.collapse}", "collapse"
            )
        if self.diverse is not None and not 0.0 <= self.diverse <= 1.0:
            raise UsageError(f"diverse must be between 0 and 1, not {self.diverse}", "diverse")
        if self.diverse is not None and self.offset + self.k > DIVERSE_POOL:
            raise UsageError(f"diverse hits are chosen among the {DIVERSE_POOL} nearest")
        if self.diverse is not None and self.rerank:
            raise UsageError("diverse and rerank are two orders: choose one", "diverse", "rerank")
        if self.by not in RANKINGS:
            raise UsageError(f"by must be one of {', '.join(RANKINGS)}, not {self.by!r}", "by")
        _ = self.weights
        if not 0 <= self.expand <= MAX_EXPAND:
            raise UsageError(
                f"expand must be between 0 and {MAX_EXPAND}, not {self.expand}", "expand"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Return what rankings and columns count, by their names. Raises UsageError."""
        found = {}
        for item in self.weight:
            name, _, number = item.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not name or not 0.0 <= value <= 1000.0:
                raise UsageError(
                    f"weight is NAME=NUMBER, from 0 to 1000, as caption=2, not {item!r}", "weight"
                )
            found[name] = value
        return found


@dataclass(frozen=True)
class TrainConfig:
    """How one `train` run works."""

    model: str = "auto"  # to start from: a catalog entry or a file of weights
    from_scratch: bool = False  # only that model's architecture, with random weights
    input_side: int | None = None  # in pixels; None is the model's own
    epochs: int = 20
    batch: int = 64
    # Of the heads, and of all stages from scratch or with many pictures; else stages use less.
    lr: float = 0.1
    loss: str = "proxy"  # of classes; see LOSSES
    margin: float = 0.35  # for proxies: how much nearer, as a cosine, a picture must be to its own
    label_smoothing: float = 0.0  # for cross-entropy; it makes neighbors worse
    # This stage and all before it are frozen: faster, and safer with few pictures.
    frozen: str | None = None
    holdout: float = 0.2  # fraction of each class for measuring instead of training
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # of the forward pass; auto takes what is fast on the device
    checkpoint_s: float = 120.0  # a killed run loses at most this much work

    def __post_init__(self) -> None:
        settle_types(self)
        check_device(self.device)
        check_precision(self.precision)
        if self.precision == "int8":
            raise UsageError("precision=int8 is only for embedding: use another one", "precision")
        _check_side(self.input_side)
        if self.epochs < 1 or self.batch < 2:
            raise UsageError("epochs must be at least 1 and batch at least 2", "epochs", "batch")
        if not 0.0 < self.lr <= 10.0:
            raise UsageError("lr must be above 0 and at most 10", "lr")
        if self.loss not in LOSSES:
            raise UsageError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}", "loss")
        if not 0.0 <= self.margin < 1.0:
            raise UsageError("margin must be at least 0 and below 1", "margin")
        if self.loss != "proxy" and self.margin != TrainConfig.margin:
            raise UsageError("margin needs loss=proxy", "margin", "loss")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UsageError("label_smoothing must be at least 0 and below 1", "label_smoothing")
        if self.frozen is not None and self.frozen not in FREEZABLE:
            raise UsageError(
                f"frozen must be one of {', '.join(FREEZABLE)}, not {self.frozen!r}", "frozen"
            )
        if self.frozen is not None and self.from_scratch:
            raise UsageError(
                "frozen keeps learned weights, and from_scratch has none", "frozen", "from_scratch"
            )
        if not 0.0 < self.holdout < 1.0:
            raise UsageError("holdout must be above 0 and below 1", "holdout")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError("seed must be at least 0 and below 2^32", "seed")


def check_center(center: str | None) -> None:
    """Raise UsageError for what is no kind of center."""
    if center is not None and center not in CENTERS:
        raise UsageError(f"center must be one of {', '.join(CENTERS)}, not {center!r}", "center")


def _check_side(side: int | None) -> None:
    if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
        raise UsageError(
            f"input_side must be between {MIN_SIDE} and {MAX_SIDE} pixels, not {side}", "input_side"
        )


def check_device(device: str) -> None:
    """Raise UsageError unless `device` is auto, cpu, cuda, cuda:N or mps."""
    if device not in DEVICES and not re.fullmatch(r"cuda:[0-9]{1,3}", device):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}", "device")


def check_precision(precision: str) -> None:
    """Raise UsageError unless `precision` is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}", "precision"
        )


KEEP_WISHES = ("largest", "oldest", "newest", "format=", "folder=")


@dataclass(frozen=True)
class DuplicateConfig:
    """What counts as a copy, and which picture of a group is kept."""

    # Minimum correlation of two signatures. Copies scaled to a third, or compressed to a fifth,
    # have 0.998 and more, other pictures of the same thing 0.99 and less.
    threshold: float = 0.995
    similar: float | None = None  # compare embeddings instead, with this minimum cosine
    flips: bool = False  # also mirrored copies
    rotations: bool = False  # also copies turned by 90, 180 or 270 degrees
    crops: bool = False  # also crops of at least four fifths of each side
    where: str | None = None
    keep: tuple[str, ...] = ()  # preferences in order of priority; then largest, then oldest

    def __post_init__(self) -> None:
        settle_types(self)
        if not 0.5 <= self.threshold <= 1.0:
            raise UsageError("threshold must be a correlation from 0.5 to 1", "threshold")
        if self.similar is not None and not 0.0 < self.similar <= 1.0:
            raise UsageError("similar must be a cosine above 0 and at most 1", "similar")
        if self.similar is not None and (self.flips or self.rotations or self.crops):
            raise UsageError("similar compares embeddings, which see no flips and crops", "similar")
        for wish in self.keep:
            name, is_named, value = wish.partition("=")
            if name + is_named not in KEEP_WISHES or (is_named and not value):
                raise UsageError(f"keep is one of {', '.join(KEEP_WISHES)}…, not {wish!r}", "keep")

    @property
    def least(self) -> float:
        """Return the minimum correlation or cosine of a group."""
        return self.threshold if self.similar is None else self.similar
