"""The keyword options of public functions, one TypedDict per config, for completion in editors.

Names and types are those of the dataclasses in config.py, which document and check them; a test
compares both. `configured` makes a config of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from embedsearch.core.errors import UsageError

if TYPE_CHECKING:
    from embedsearch.core.config import (
        ArrowTable,
        DecodeLimits,
        DuplicateConfig,
        IndexConfig,
        SearchConfig,
        TrainConfig,
    )

    Config = TypeVar("Config", IndexConfig, SearchConfig, TrainConfig, DuplicateConfig)


class IndexOptions(TypedDict, total=False):
    """Fields of IndexConfig, and those of its DecodeLimits that a user sets."""

    model: str
    input_side: int | None
    flip: bool
    device: str
    precision: str
    tune: bool
    workers: int | None
    center: str | None
    recall: float | None
    latency_s: float | None
    memory_bytes: int | None
    ann: str | None
    limits: DecodeLimits
    max_pixels: int
    max_bytes: int
    allow_truncated: bool
    checkpoint_s: float
    checkpoint_images: int
    metadata: str | ArrowTable | None
    sidecars: bool
    follow_links: bool | None
    exclude: tuple[str, ...]
    default_excludes: bool | None
    poll_s: float | None
    files: str | None
    wait_s: float
    rebuild: bool
    allow_empty: bool
    dry_run: bool


class SearchOptions(TypedDict, total=False):
    """Fields of SearchConfig, except `k`."""

    offset: int
    where: str | None
    min_score: float | None
    collapse: float | None
    diverse: float | None
    expand: int
    rerank: bool
    by: str
    weight: tuple[str, ...]


class TrainOptions(TypedDict, total=False):
    """Fields of TrainConfig."""

    model: str
    from_scratch: bool
    input_side: int | None
    epochs: int
    batch: int
    lr: float
    loss: str
    margin: float
    label_smoothing: float
    frozen: str | None
    holdout: float
    seed: int
    device: str
    precision: str
    checkpoint_s: float


class DuplicateOptions(TypedDict, total=False):
    """Fields of DuplicateConfig."""

    threshold: float
    similar: float | None
    flips: bool
    rotations: bool
    crops: bool
    where: str | None
    keep: tuple[str, ...]


def configured(config: Config, options: Mapping[str, Any]) -> Config:
    """Return a config with fields replaced by options; fields of its limits are replaced there.

    Raises UsageError for an unknown option, with the nearest name.
    """
    names = {field.name for field in fields(config)}
    limits = getattr(config, "limits", None)
    inner = set() if limits is None else {field.name for field in fields(limits)}
    for name in options:
        if name not in names | inner:
            near = get_close_matches(name, names | inner, 1)
            hint = (
                f": did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(names))}"
            )
            raise UsageError(f"there is no option {name}{hint}")
    values = {name: value for name, value in options.items() if name in names}
    nested = {name: value for name, value in options.items() if name not in names}
    if limits is not None and nested:
        values["limits"] = replace(values.get("limits", limits), **nested)
    return replace(config, **values)
