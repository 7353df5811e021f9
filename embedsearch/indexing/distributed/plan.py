"""What is to be embedded, cut into units that processes share; in: sorted refs, out: a UnitPlan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedsearch.core.records import ImageRef, Kind, Root
from embedsearch.store.manifest import Manifest
from embedsearch.store.merge import rows_per_shard
from embedsearch.store.units import (
    Unit,
    UnitPlan,
    make_folder,
    new_plan_id,
    write_plan,
    write_refs,
)


def cut_plan(
    store: Path,
    refs: Iterable[tuple[ImageRef, int]],
    count: int,
    shares: int,
    base: Manifest,
    *,
    roots: tuple[Root, ...],
    limits: Mapping[str, Any],
    run: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
) -> UnitPlan:
    """Write the plan of `count` refs, each with the row that it replaces, or -1.

    It adds to the generation `base`, and is open when this returns. Raises StorageError.
    """
    most = unit_images(count, shares, rows_per_shard(base.model.dim))
    packed = {root.id for root in roots if root.kind not in {Kind.FOLDER, Kind.LIST}}
    make_folder(store)
    units: list[Unit] = []
    row = base.next_row
    for some in cut(refs, most, packed):
        check()
        units.append(write_refs(store, len(units), row, some))
        row += len(some)
    plan = UnitPlan(
        id=new_plan_id(),
        base=base.generation,
        model=base.model,
        roots=roots,
        limits=limits,
        run=run,
        units=tuple(units),
    )
    write_plan(store, plan)
    return plan


def unit_images(count: int, shares: int, most: int) -> int:
    """Return of how many images a unit is to be, at most `most`, so that shares are equal."""
    rounds = math.ceil(count / (shares * most))
    return max(1, math.ceil(count / (shares * rounds)))


def cut(
    refs: Iterable[tuple[ImageRef, int]], most: int, packed: set[int]
) -> Iterator[list[tuple[ImageRef, int]]]:
    """Yield units of at most `most` refs.

    A unit that is half full ends with an archive, one of the roots `packed`: whoever works on the
    next one need not open this.
    """
    unit: list[tuple[ImageRef, int]] = []
    for ref, replaced in refs:
        is_end = unit and unit[-1][0].root != ref.root and unit[-1][0].root in packed
        if len(unit) == most or (is_end and 2 * len(unit) >= most):
            yield unit
            unit = []
        unit.append((ref, replaced))
    if unit:
        yield unit
