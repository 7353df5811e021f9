"""Precision at 1 and mAP of a model, leave one out: `python -m benchmarks.quality FOLDER MODEL…`

FOLDER holds one folder a class. The images go through `index`, the rankings through `query`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import embedsearch


def evaluate(folder: Path, model: str) -> tuple[float, float, int]:
    """Return (precision at 1, mean average precision, images)."""
    with tempfile.TemporaryDirectory() as base:
        store = Path(base) / "q.es"
        report = embedsearch.index(folder, store=store, model=model)
        with embedsearch.open_store(store) as searcher:
            paths = sorted(path for path in folder.rglob("*.jpg"))
            answers = searcher.query_batch(paths, k=report.images)
    firsts, averages = [], []
    for path, hits in zip(paths, answers, strict=True):
        label = path.parent.name
        others = [hit.key.split("/")[0] == label for hit in hits if hit.path != str(path)]
        relevant = np.array(others)
        precision = relevant.cumsum() / np.arange(1, len(relevant) + 1)
        firsts.append(relevant[0])
        averages.append((precision * relevant).sum() / relevant.sum())
    return float(np.mean(firsts)), float(np.mean(averages)), len(paths)


def main() -> None:
    """Print a Markdown table."""
    folder = Path(sys.argv[1]).resolve()
    print("| model | P@1 | mAP | images |\n|---|---|---|---|")
    for model in sys.argv[2:]:
        first, average, count = evaluate(folder, model)
        print(f"| {Path(model).stem} | {first:.3f} | {average:.3f} | {count} |")


if __name__ == "__main__":
    main()
