"""Stores of captions, and BM25 as a textbook has it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import embedsearch

DIM = 16


def captioned(folder: Path, rows: Mapping[str, Mapping[str, Any]], store: str = "s.es") -> Path:
    """Add images with columns, by their keys, to a store of random vectors; return the store."""
    names = sorted({name for columns in rows.values() for name in columns})
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *names])
        writer.writerows([key, *(row.get(n, "") for n in names)] for key, row in rows.items())
    vectors = np.random.default_rng(len(rows)).standard_normal((len(rows), DIM))
    np.save(folder / "v.npy", vectors.astype(np.float32))
    embedsearch.import_vectors(
        folder / "v.npy",
        paths=folder / "rows.csv",
        root=folder,
        model="elsewhere",
        store=folder / store,
    )
    return folder / store


def bm25(
    documents: Mapping[str, Mapping[str, Sequence[str]]],
    terms: Sequence[str],
    weights: Mapping[str, float],
) -> dict[str, float]:
    """Return the score of each document that has a term; documents are words by column by key."""
    counts = {
        key: {column: Counter(words) for column, words in columns.items()}
        for key, columns in documents.items()
    }
    lengths = {key: sum(map(len, columns.values())) for key, columns in documents.items()}
    mean = sum(lengths.values()) / len(lengths)
    found: dict[str, float] = {}
    for term in dict.fromkeys(terms):
        having = {
            key: sum(weights[c] * counted[term] for c, counted in columns.items())
            for key, columns in counts.items()
            if any(counted[term] for counted in columns.values())
        }
        number = len(having)
        if not number:
            continue
        idf = max(1e-6, math.log((len(documents) - number + 0.5) / (number + 0.5)))
        for key, often in having.items():
            norm = 1.2 * (1 - 0.75 + 0.75 * lengths[key] / mean)
            found[key] = found.get(key, 0.0) + idf * often * 2.2 / (often + norm)
    return found
