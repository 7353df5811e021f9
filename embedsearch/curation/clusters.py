"""Clusters of similar images, and outliers; in: a store, out: rows in order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.core.names import HasKey, path_fields, unicode_text
from embedsearch.core.session import Session
from embedsearch.curation.collection import Collection
from embedsearch.searching.ann.graph import NearGraph
from embedsearch.searching.ann.kmeans import spherical_kmeans
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.snapshot import open_snapshot

REPRESENTATIVES = 5
_NEIGHBORS = 10  # an outlier is far from all of them


@dataclass(frozen=True)
class Cluster:
    """Images that are near the same center, the most typical first.

    `cohesion` is their mean cosine with the center.
    """

    number: int
    cohesion: float
    rows: list[int]
    keys: list[str]
    full_paths: list[str]

    @property
    def paths(self) -> list[str]:
        """Return the path of each image inside its folder, archive or bucket."""
        return [unicode_text(key) for key in self.keys]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {
            "cluster": self.number,
            "images": len(self.rows),
            "cohesion": round(self.cohesion, 4),
            "representatives": self.members()[:REPRESENTATIVES],
            "rows": self.rows,
        }

    def members(self) -> list[dict[str, Any]]:
        """Return JSON-ready values of each image: its row and its paths."""
        return [
            {"row": row, **path_fields(key, full_path)}
            for row, key, full_path in zip(self.rows, self.keys, self.full_paths, strict=True)
        ]


@dataclass(frozen=True)
class Outlier(HasKey):
    """An image, and its mean cosine with its ten nearest neighbors: the lowest is the oddest."""

    score: float
    row: int
    key: str
    full_path: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {
            "score": round(self.score, 4),
            "row": self.row,
            **path_fields(self.key, self.full_path),
        }


@checked
def clusters(
    store: StorePath = None,
    k: int | None = None,
    *,
    where: str | None = None,
    session: Session | None = None,
) -> list[Cluster]:
    """Return the images of a store in k clusters, the largest first; without k, some √(n/2).

    Spherical k-means over the embeddings: Dhillon and Modha, "Concept decompositions for large
    sparse text data using clustering" (2001). Raises UsageError and the store's errors.
    """
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        collection = _not_empty(Collection(snapshot, session or Session(), where))
        described = []
        for number, group in enumerate(gathered(collection, k), start=1):
            pictures = collection.pictures(group.positions)
            rows, keys = [p.row for p in pictures], [p.key for p in pictures]
            full_paths = [p.full_path for p in pictures]
            described.append(Cluster(number, group.cohesion, rows, keys, full_paths))
        return described


@checked
def outliers(
    store: StorePath = None,
    count: int = 20,
    *,
    where: str | None = None,
    session: Session | None = None,
) -> list[Outlier]:
    """Return the images that are least like their nearest neighbors, the oddest first.

    Raises UsageError and the store's errors.
    """
    if count < 1:
        raise UsageError(f"count must be at least 1, not {count}", "count")
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        collection = _not_empty(Collection(snapshot, session or Session(), where))
        found, scores = oddest(collection, count)
        pictures = collection.pictures(found)
        return [
            Outlier(float(score), picture.row, picture.key, picture.full_path)
            for score, picture in zip(scores, pictures, strict=True)
        ]


@dataclass(frozen=True)
class Gathered:
    """A cluster by positions of a collection, int64 (n,), the most typical first."""

    cohesion: float
    positions: npt.NDArray[np.int64]


def gathered(collection: Collection, k: int | None) -> list[Gathered]:
    """Return images in k clusters, the largest first, as `clusters` does. Raises UsageError."""
    count = len(collection)
    if k is None:
        k = max(1, round(math.sqrt(count / 2)))
    if not 1 <= k <= count:
        raise UsageError(f"k is from 1 to {count:,}, the number of images", "k")
    vectors = collection.vectors()
    collection.session.at(f"grouping {count:,} images")
    found, cosines = spherical_kmeans(vectors, k)
    groups = []
    for number in range(k):
        mine = np.flatnonzero(found == number)
        if len(mine):
            mine = mine[np.argsort(-cosines[mine], kind="stable")]
            groups.append(Gathered(float(cosines[mine].mean()), mine))
    firsts = collection.pictures(np.array([group.positions[0] for group in groups]))
    order = sorted(
        zip(groups, firsts, strict=True), key=lambda one: (-len(one[0].positions), one[1].full_path)
    )
    return [group for group, _ in order]


def oddest(
    collection: Collection, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the positions, int64 (n,), of the `count` oddest images, and their scores (n,)."""
    vectors = collection.vectors()
    near = NearGraph(vectors, collection.session).pairs(vectors, _NEIGHBORS + 1, -1.0)
    near = near.where(near.first != near.second)
    sums = np.bincount(near.first, near.scores, len(vectors))
    scores = sums / np.maximum(1, np.bincount(near.first, minlength=len(vectors)))
    found = np.argsort(scores, kind="stable")[:count]
    return found, scores[found]


def _not_empty(collection: Collection) -> Collection:
    if not len(collection):
        raise NothingIndexed("no image of the store matches")
    return collection
