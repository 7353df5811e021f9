"""What a run did; in: a Job, its Changes and Outcome, out: an IndexReport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedsearch.core.config import IndexConfig
from embedsearch.core.records import Failure, JsonRecord, Reason, Stage
from embedsearch.core.system import processor_share
from embedsearch.core.walks import Ignored
from embedsearch.indexing.bottleneck import (
    Setup,
    StageClock,
    advice,
    at_most,
    shares,
    slowest_stage,
)
from embedsearch.indexing.changes import Changes
from embedsearch.indexing.job import Request, verdict_key
from embedsearch.store.manifest import Manifest

_OVER_LIMITS = {Reason.TOO_LARGE, Reason.TOO_BIG}
_STAGES = ("scan", "load", "read", "decode", "embed", "write", "tune")


@dataclass(frozen=True)
class IndexReport(JsonRecord):
    """What one `index` run did: found = added + changed + moved + unchanged + failed."""

    store: str
    model: str
    device: str
    precision: str
    generation: int
    images: int  # rows of the store after the run
    found: int
    added: int
    changed: int
    moved: int
    unchanged: int
    failed: int
    deleted: int
    ignored: Ignored
    scan_failures: int  # folders, archives and names in them; known rows below them are kept
    embedded: int
    elapsed_s: float
    # Busy seconds, per worker or lane; `load` is loading or converting the network.
    stage_s: Mapping[str, float]
    stage_share: Mapping[str, float]  # of the time, 0 to 1; stages overlap
    stage_rate: Mapping[str, float]  # images/s that the stage alone would reach
    slowest_stage: str
    advice: str  # what would make the slowest stage faster
    workers: int  # decoding processes at the end
    committed: bool  # whether the run changed the store
    metadata: MetadataReport | None = None
    dry_run: bool = False
    left_out: int = 0  # of the deleted: files that patterns leave out now
    behind_links: int = 0  # of the deleted: files behind links, which are not followed now
    over_limits: int = 0  # of the failed: with more pixels or bytes than the limits allow
    images_per_s: float = 0.0  # from the first picture to the last
    images_per_s_at_most: float = 0.0  # that the processors allow; 0 where a GPU embeds
    network_share: float = 0.0  # of the processors' time

    def __post_init__(self) -> None:
        parts = self.added + self.changed + self.moved + self.unchanged + self.failed
        if self.found != parts:
            raise ValueError(f"accounting is off: found {self.found}, accounted for {parts}")


@dataclass(frozen=True)
class MetadataReport:
    """How a table or sidecars matched the images: rows = matched + unmatched."""

    source: str
    columns: list[str]
    rows: int
    matched: int
    unmatched: int
    images: int  # that have metadata now
    unmatched_names: list[str] = field(default_factory=list)  # the first of them
    unreadable: int = 0  # sidecars
    unreadable_names: list[str] = field(default_factory=list)
    unused: int = 0  # sidecars that are beside no image
    unused_names: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What embedding did so far; `embed` alone writes it."""

    embedded: int = 0
    added: int = 0
    changed: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped_by: int = 0  # the signal that ended the run early
    setup: Setup | None = None  # None where nothing was to be embedded
    streaming_s: float = 0.0  # from the first picture to the last
    cpu_s: Mapping[str, float] = field(default_factory=dict)  # of processors, by stage

    @property
    def handled(self) -> int:
        """Return the images that were embedded or failed."""
        return self.embedded + len(self.failures)


def run_record(request: Request, changes: Changes, outcome: Outcome) -> dict[str, Any]:
    """Return the manifest's record of a run."""
    base = None if request.config.rebuild else request.manifest
    verdicts: dict[str, Any] | None = verdict_key(request.config)
    if changes.failures_elsewhere and base is not None:
        verdicts = base.run.get("verdicts")  # failures from elsewhere keep their old limits
    return {
        "found": changes.found,
        **_counts(changes, outcome),
        "deleted": len(changes.deleted),
        "pending": len(changes.embed) - outcome.handled,
        "limits": _widest_limits(request.config, base),
        "verdicts": verdicts,
    }


def make_report(
    request: Request,
    changes: Changes,
    outcome: Outcome,
    clock: StageClock,
    *,
    model: str,
    manifest: Manifest | None,
    images: int,
    metadata: MetadataReport | None = None,
) -> IndexReport:
    """Return the report of a run after which `manifest` is current and holds `images`."""
    seconds = {stage: clock.seconds[stage] for stage in _STAGES}
    elapsed_s = clock.elapsed_s()
    slowest = slowest_stage(seconds)
    rates = {
        stage: (changes.found if stage == "scan" else outcome.handled) / value
        for stage, value in seconds.items()
        if value > 0 and stage not in {"load", "tune"}
    }
    setup = outcome.setup
    speed: dict[str, Any] = _speed(outcome)
    return IndexReport(
        store=str(request.store),
        model=model,
        device="" if setup is None else setup.device,
        precision="" if setup is None else setup.precision,
        generation=0 if manifest is None else manifest.generation,
        images=images,
        found=changes.found,
        **_counts(changes, outcome),
        deleted=len(changes.deleted),
        ignored=changes.ignored,
        scan_failures=changes.scan_failures,
        embedded=outcome.embedded,
        elapsed_s=round(elapsed_s, 3),
        stage_s={stage: round(value, 3) for stage, value in seconds.items()},
        stage_rate={stage: round(value, 1) for stage, value in rates.items()},
        stage_share=shares(seconds, elapsed_s),
        slowest_stage=slowest,
        advice="" if setup is None else advice(slowest, setup),
        workers=0 if setup is None else setup.workers,
        committed=manifest != request.manifest,
        metadata=metadata,
        dry_run=request.config.dry_run,
        left_out=changes.left_out,
        behind_links=changes.behind_links,
        over_limits=sum(failure.reason in _OVER_LIMITS for failure in outcome.failures),
        **speed,
    )


def _speed(outcome: Outcome) -> dict[str, float]:
    """Return how fast pictures were embedded, and how fast the processors allow."""
    if outcome.setup is None or not outcome.streaming_s:
        return {}
    found = {"images_per_s": round(outcome.handled / outcome.streaming_s, 1)}
    if outcome.setup.device == "cpu":
        found["images_per_s_at_most"] = round(at_most(outcome.handled, outcome.cpu_s), 1)
        available = outcome.streaming_s * processor_share()
        found["network_share"] = round(min(1.0, outcome.cpu_s[Stage.EMBED] / available), 3)
    return found


def _counts(changes: Changes, outcome: Outcome) -> dict[str, int]:
    return {
        "added": outcome.added,
        "changed": outcome.changed,
        "moved": len(changes.moved),
        "unchanged": changes.unchanged,
        "failed": changes.known_failed + len(outcome.failures),
    }


def _widest_limits(config: IndexConfig, base: Manifest | None) -> dict[str, Any]:
    """Return the widest limits under which a row of the store may have been accepted."""
    limits = config.limits.verdict_key()
    old = {} if base is None else base.run.get("limits", {})
    return {name: max(value, old.get(name, value)) for name, value in limits.items()}
