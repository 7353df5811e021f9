"""A map with similar images near each other; in: a store, out: points with thumbnails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import MAP_IMAGES, DecodeLimits
from embedsearch.core.errors import MissingLibrary, NothingIndexed, UnreadableImage, UsageError
from embedsearch.core.install import install_command
from embedsearch.core.names import HasKey, unicode_text
from embedsearch.core.session import Session
from embedsearch.curation.collection import Collection, Picture
from embedsearch.curation.map_colors import Legend, column_values, legend_of
from embedsearch.images.thumbnails import Thumbnailer
from embedsearch.searching.ann.kmeans import principal_plane
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.snapshot import open_snapshot

METHODS = ("pca", "umap")
LEAST_IMAGES = 3
_SIDE = 96
_THREADS = 16
_SEED = 1
_FEW = 10


@dataclass(frozen=True)
class MapPoint(HasKey):
    """An image on a map: x and y from 0 to 1; no JPEG where its file cannot be read."""

    x: float
    y: float
    full_path: str
    key: str
    jpeg: bytes | None


@dataclass(frozen=True)
class PictureMap:
    """Points, the number of images that they are a sample of, and how they are colored."""

    points: list[MapPoint]
    images: int
    legend: Legend


@checked
def picture_map(
    store: StorePath = None,
    *,
    method: str = "pca",
    where: str | None = None,
    max_images: int = MAP_IMAGES,
    color: str | None = None,
    session: Session | None = None,
) -> PictureMap:
    """Return the images of a store, or `max_images` of them drawn at random, on a plane.

    `pca` shows the two directions in which they vary most, `umap` keeps neighbors together
    (McInnes, Healy and Melville, "UMAP" (2018)). `color` names the column that colors the points,
    without it the folders do. Raises UsageError, MissingLibrary and the store's errors.
    """
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(METHODS)}, not {method!r}", "method")
    session = session or Session()
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        collection = Collection(snapshot, session, where)
        found = places(collection, max_images, method)
        pictures = collection.pictures(found.positions)
        images = len(collection)
        if color is None:
            values = _folders(pictures, are_many=len(snapshot.manifest.roots) > 1)
        else:
            ordinals = collection.ordinals[found.positions]
            values = column_values(snapshot, color, ordinals, session)
    shown = zip(found.plane, pictures, _thumbnails(pictures, session), strict=True)
    points = [
        MapPoint(float(x), float(y), picture.full_path, picture.key, jpeg)
        for (x, y), picture, jpeg in shown
    ]
    return PictureMap(points, images, legend_of(values))


@dataclass(frozen=True)
class Places:
    """Positions of a collection, int64 (n,), and where they are on a plane, (n, 2), 0 to 1."""

    positions: npt.NDArray[np.int64]
    plane: npt.NDArray[np.float32]


def places(collection: Collection, max_images: int, method: str = "pca") -> Places:
    """Return where images are on a map, or `max_images` of them drawn at random.

    Raises NothingIndexed where there are fewer than three, and MissingLibrary.
    """
    if len(collection) < LEAST_IMAGES:
        raise NothingIndexed("a map needs at least three images")
    positions = np.sort(np.random.default_rng(_SEED).permutation(len(collection))[:max_images])
    vectors = collection.vectors()[positions]
    collection.session.at(f"placing {len(vectors):,} pictures by {method.upper()}")
    plane = principal_plane(vectors) if method == "pca" else _umap(vectors)
    low, high = plane.min(axis=0), plane.max(axis=0)
    return Places(positions, (plane - low) / np.maximum(high - low, 1e-9))


def _folders(pictures: list[Picture], *, are_many: bool) -> list[str]:
    """Return the folder of each image below its root, which is named where there `are_many`."""
    named = (
        os.path.join(os.path.basename(picture.root.rstrip("/")) if are_many else "", folder)
        for picture in pictures
        for folder in [os.path.dirname(picture.key)]
    )
    return [unicode_text(name.rstrip("/")) or "." for name in named]


def _umap(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    try:
        import umap
    except ImportError as error:
        message = f"method=umap needs umap-learn: {install_command('map')}"
        raise MissingLibrary(message, "method") from error
    neighbors = min(15, len(vectors) - 1)
    # Its own beginning takes eigenvectors, of which a few points have too few.
    init = "spectral" if len(vectors) > _FEW else "random"
    reducer = umap.UMAP(
        metric="cosine", random_state=_SEED, n_jobs=1, n_neighbors=neighbors, init=init
    )
    plane: npt.NDArray[np.float32] = reducer.fit_transform(vectors.astype(np.float32))
    return plane


def _thumbnails(pictures: list[Picture], session: Session) -> Iterator[bytes | None]:
    """Yield the thumbnail of each image, in order."""

    def made(picture: Picture) -> bytes | None:
        session.check()
        session.step("making thumbnails", next(done), len(pictures))
        try:
            return thumbnailer.jpeg(picture.root, picture.key, _SIDE, picture.digest)
        except UnreadableImage:
            return None

    done = count()
    with closing(Thumbnailer(DecodeLimits())) as thumbnailer, ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(made, pictures)
