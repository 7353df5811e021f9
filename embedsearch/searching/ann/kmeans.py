"""Vectors to clusters, and to a plane; in: float16 (n, D), unit rows, out: numbers, points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedsearch.searching.ann.kernels import faiss
from embedsearch.searching.ann.search import Vectors

_ROUNDS = 25
_SEED = 1
_TRAIN_ROWS = 256  # a cluster
_BLOCK = 16_384


def spherical_kmeans(
    vectors: Vectors, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the cluster of each vector, int64 (n,), and its cosine with the center, float32 (n,).

    The same vectors always give the same clusters.
    """
    means = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=_ROUNDS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAIN_ROWS,
    )
    rows = np.random.default_rng(_SEED).permutation(len(vectors))[: k * _TRAIN_ROWS]
    means.train(vectors[np.sort(rows)].astype(np.float32))
    found = np.empty(len(vectors), np.int64)
    cosines = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        scores, clusters = means.index.search(block, 1)
        found[start : start + len(block)] = clusters[:, 0]
        cosines[start : start + len(block)] = scores[:, 0]
    return found, cosines


def principal_plane(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Return vectors along the two directions in which they vary most, float32 (n, 2)."""
    dim = vectors.shape[1]
    rows = np.random.default_rng(_SEED).permutation(len(vectors))[: 64 * dim]
    pca = faiss.PCAMatrix(dim, 2)
    pca.train(vectors[np.sort(rows)].astype(np.float32))
    parts = [
        pca.apply(vectors[start : start + _BLOCK].astype(np.float32))
        for start in range(0, len(vectors), _BLOCK)
    ]
    return np.concatenate(parts)
