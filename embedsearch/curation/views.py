"""What a server shows of a whole collection; in: a store's folder, out: rows and places.

Each view is of one generation, and tells its number. It is a result that can be kept: arrays, and
the facts of those images that are shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DuplicateConfig
from embedsearch.core.session import Session
from embedsearch.curation.clusters import gathered, oddest
from embedsearch.curation.collection import Collection, Picture
from embedsearch.curation.copies import DuplicateReport
from embedsearch.curation.duplicates import duplicates_of
from embedsearch.curation.picture_map import LEAST_IMAGES, places
from embedsearch.store.snapshot import open_snapshot

MAX_OUTLIERS = 200
_REPRESENTATIVES = 4


@dataclass(frozen=True)
class CopiesView:
    """The copies among all images."""

    report: DuplicateReport
    generation: int


@dataclass(frozen=True)
class Group:
    """Similar images: their rows, int64 (n,), the most typical first, and the first of them.

    `cohesion` is their mean cosine with the center.
    """

    cohesion: float
    rows: npt.NDArray[np.int64]
    representatives: list[Picture]


@dataclass(frozen=True)
class GroupsView:
    """All images in groups, the largest first."""

    groups: list[Group]
    generation: int


@dataclass(frozen=True)
class OutliersView:
    """The oddest images: rows int64 (n,), the oddest first, and their scores (n,)."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    generation: int


@dataclass(frozen=True)
class MapView:
    """Rows, int64 (n,), their places on a plane, (n, 2), 0 to 1, and the number of all images."""

    rows: npt.NDArray[np.int64]
    plane: npt.NDArray[np.float32]
    images: int
    generation: int


def copies_view(store: Path, config: DuplicateConfig, session: Session) -> CopiesView:
    """Return the copies. Raises UsageError and the store's errors."""
    with open_snapshot(store) as snapshot:
        report = duplicates_of(Collection(snapshot, session, config.where), config)
        return CopiesView(report, snapshot.manifest.generation)


def groups_view(store: Path, k: int | None, session: Session) -> GroupsView:
    """Return k groups; without k, some √(n/2). Raises UsageError and the store's errors."""
    with open_snapshot(store) as snapshot:
        collection = Collection(snapshot, session)
        rows = collection.rows()
        groups = [
            Group(
                group.cohesion,
                rows[group.positions],
                collection.pictures(group.positions[:_REPRESENTATIVES]),
            )
            for group in (gathered(collection, k) if len(collection) else ())
        ]
        return GroupsView(groups, snapshot.manifest.generation)


def outliers_view(store: Path, session: Session) -> OutliersView:
    """Return the `MAX_OUTLIERS` oddest images. Raises the store's errors."""
    with open_snapshot(store) as snapshot:
        collection = Collection(snapshot, session)
        generation = snapshot.manifest.generation
        if not len(collection):
            return OutliersView(np.empty(0, np.int64), np.empty(0, np.float64), generation)
        found, scores = oddest(collection, MAX_OUTLIERS)
        return OutliersView(collection.rows()[found], scores, generation)


def map_view(store: Path, max_images: int, session: Session) -> MapView:
    """Return a map of `max_images` images, without any where there are fewer than three.

    Raises the store's errors.
    """
    with open_snapshot(store) as snapshot:
        collection = Collection(snapshot, session)
        images, generation = len(collection), snapshot.manifest.generation
        if images < LEAST_IMAGES:
            none = np.empty((0, 2), np.float32)
            return MapView(np.empty(0, np.int64), none, images, generation)
        found = places(collection, max_images)
        return MapView(collection.rows()[found.positions], found.plane, images, generation)
