"""Indexes of every kind over the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embedsearch
from embedsearch.core.records import Hit
from embedsearch.store.current import read_current
from embedsearch.store.manifest import Manifest

KINDS = ["exact", "IVF12,SQ8", "HNSW16,SQ8", "IVF8,RaBitQ4", "IVF8,SQfp16", "PCA64,IVF8,SQ8", "SQ8"]


COUNT = 600


def index(store: Path, folder: Path, **options: Any) -> Manifest:
    """Bring a store into step without a network; return its manifest."""

    def nothing_new(*_: object) -> Any:
        raise AssertionError("there is nothing to embed")

    embedsearch.index(folder, store=store, extractor_factory=nothing_new, **options)
    return read_current(store)


def keys(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]
