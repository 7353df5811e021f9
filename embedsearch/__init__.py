"""Find images by image. Importing this loads neither torch nor faiss; names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "index": "embedsearch.indexing",
    "open_store": "embedsearch.searching",
    "Searcher": "embedsearch.searching",
    "IndexConfig": "embedsearch.config",
    "DecodeLimits": "embedsearch.config",
    "Hit": "embedsearch.records",
    "IndexReport": "embedsearch.records",
    "Failure": "embedsearch.records",
    "ModelSpec": "embedsearch.records",
    "EmbedSearchError": "embedsearch.errors",
}

__all__ = [
    "DecodeLimits",
    "EmbedSearchError",
    "Failure",
    "Hit",
    "IndexConfig",
    "IndexReport",
    "ModelSpec",
    "Searcher",
    "__version__",
    "index",
    "open_store",
]

if TYPE_CHECKING:
    from embedsearch.config import DecodeLimits, IndexConfig
    from embedsearch.errors import EmbedSearchError
    from embedsearch.indexing import index
    from embedsearch.records import Failure, Hit, IndexReport, ModelSpec
    from embedsearch.searching import Searcher, open_store


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
