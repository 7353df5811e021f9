"""Clusters of similar images, and outliers; in: a store, out: rows in order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedsearch.core.arguments import checked
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.core.names import path_fields, unicode_text
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
    paths: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {
            "cluster": self.number,
            "images": len(self.rows),
            "cohesion": round(self.cohesion, 4),
            "representatives": [unicode_text(path) for path in self.paths[:REPRESENTATIVES]],
            "rows": self.rows,
        }


@dataclass(frozen=True)
class Outlier:
    """An image, and its mean cosine with its ten nearest neighbors: the lowest is the oddest."""

    score: float
    row: int
    path: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {
            "score": round(self.score, 4),
            "row": self.row,
            **path_fields(self.path),
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
        count = len(collection)
        if k is None:
            k = max(1, round(math.sqrt(count / 2)))
        if not 1 <= k <= count:
            raise UsageError(f"-k is from 1 to {count:,}, the number of images")
        found, cosines = spherical_kmeans(collection.vectors(), k)
        described = []
        for number in range(k):
            mine = np.flatnonzero(found == number)
            if len(mine):
                mine = mine[np.argsort(-cosines[mine], kind="stable")]
                pictures = collection.pictures(mine)
                rows, paths = [p.row for p in pictures], [p.path for p in pictures]
                described.append(Cluster(number, float(cosines[mine].mean()), rows, paths))
    described.sort(key=lambda cluster: (-len(cluster.rows), cluster.paths[0]))
    return [replace(cluster, number=n) for n, cluster in enumerate(described, start=1)]


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
        raise UsageError("-n is at least 1")
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        session = session or Session()
        collection = _not_empty(Collection(snapshot, session, where))
        vectors = collection.vectors()
        near = NearGraph(vectors, session.check).pairs(vectors, _NEIGHBORS + 1, -1.0)
        near = near.where(near.first != near.second)
        sums = np.bincount(near.first, near.scores, len(vectors))
        scores = sums / np.maximum(1, np.bincount(near.first, minlength=len(vectors)))
        oddest = np.argsort(scores, kind="stable")[:count]
        pictures = collection.pictures(oddest)
        return [
            Outlier(float(scores[position]), picture.row, picture.path)
            for position, picture in zip(oddest, pictures, strict=True)
        ]


def _not_empty(collection: Collection) -> Collection:
    if not len(collection):
        raise NothingIndexed("the store holds no such image")
    return collection
