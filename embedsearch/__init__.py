"""Find images by image. Importing this loads neither torch nor faiss; names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embedsearch._version import __version__

_HOMES = {
    "bench": "embedsearch.indexing.bench",
    "index": "embedsearch.indexing.sync",
    "watch": "embedsearch.indexing.watch",
    "plan": "embedsearch.indexing.sync",
    "run_units": "embedsearch.indexing.distributed.run",
    "commit": "embedsearch.indexing.distributed.run",
    "duplicates": "embedsearch.curation.duplicates",
    "clusters": "embedsearch.curation.clusters",
    "outliers": "embedsearch.curation.clusters",
    "picture_map": "embedsearch.curation.picture_map",
    "open_store": "embedsearch.searching.searcher",
    "pull": "embedsearch.exchange.pull",
    "Searcher": "embedsearch.searching.searcher",
    "Crop": "embedsearch.searching.queries",
    "Key": "embedsearch.searching.queries",
    "Mix": "embedsearch.searching.queries",
    "evaluate": "embedsearch.learning.evaluate",
    "train": "embedsearch.learning.train",
    "DuplicateConfig": "embedsearch.core.config",
    "IndexConfig": "embedsearch.core.config",
    "SearchConfig": "embedsearch.core.config",
    "TrainConfig": "embedsearch.core.config",
    "DecodeLimits": "embedsearch.core.config",
    "ImageEmbedder": "embedsearch.searching.embedder",
    "Hit": "embedsearch.core.records",
    "ImageRecord": "embedsearch.core.records",
    "IndexReport": "embedsearch.core.records",
    "UnitsReport": "embedsearch.core.records",
    "CommitReport": "embedsearch.core.records",
    "BenchReport": "embedsearch.core.records",
    "PullReport": "embedsearch.core.records",
    "Evaluation": "embedsearch.core.records",
    "TrainReport": "embedsearch.core.records",
    "Failure": "embedsearch.core.records",
    "ModelSpec": "embedsearch.core.records",
    "EmbedSearchError": "embedsearch.core.errors",
    "ImageNotFound": "embedsearch.core.errors",
}

__all__ = [
    "BenchReport",
    "CommitReport",
    "Crop",
    "DecodeLimits",
    "DuplicateConfig",
    "EmbedSearchError",
    "Evaluation",
    "Failure",
    "Hit",
    "ImageEmbedder",
    "ImageNotFound",
    "ImageRecord",
    "IndexConfig",
    "IndexReport",
    "Key",
    "Mix",
    "ModelSpec",
    "PullReport",
    "SearchConfig",
    "Searcher",
    "TrainConfig",
    "TrainReport",
    "UnitsReport",
    "__version__",
    "bench",
    "clusters",
    "commit",
    "duplicates",
    "evaluate",
    "index",
    "open_store",
    "outliers",
    "picture_map",
    "plan",
    "pull",
    "run_units",
    "train",
    "watch",
]

if TYPE_CHECKING:
    from embedsearch.core.config import (
        DecodeLimits,
        DuplicateConfig,
        IndexConfig,
        SearchConfig,
        TrainConfig,
    )
    from embedsearch.core.errors import EmbedSearchError, ImageNotFound
    from embedsearch.core.records import (
        BenchReport,
        CommitReport,
        Evaluation,
        Failure,
        Hit,
        ImageRecord,
        IndexReport,
        ModelSpec,
        PullReport,
        TrainReport,
        UnitsReport,
    )
    from embedsearch.curation.clusters import clusters, outliers
    from embedsearch.curation.duplicates import duplicates
    from embedsearch.curation.picture_map import picture_map
    from embedsearch.exchange.pull import pull
    from embedsearch.indexing.bench import bench
    from embedsearch.indexing.distributed.run import commit, run_units
    from embedsearch.indexing.sync import index, plan
    from embedsearch.indexing.watch import watch
    from embedsearch.learning.evaluate import evaluate
    from embedsearch.learning.train import train
    from embedsearch.searching.embedder import ImageEmbedder
    from embedsearch.searching.queries import Crop, Key, Mix
    from embedsearch.searching.searcher import Searcher, open_store


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
