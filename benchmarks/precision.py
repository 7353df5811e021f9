"""What a precision costs and brings: `python -m benchmarks.precision PHOTOS MODEL…`

PHOTOS holds one folder a class; MODEL is a name or a file that `--model` takes. Prints Markdown:
for each network and precision on a CPU the images/s of the network alone, the cosine with fp32,
the share of the ten nearest that are the same as in fp32, and leave-one-out quality.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measure import machine
from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.images.sources.folder import FolderScan
from embedsearch.indexing.bench import network_rate
from embedsearch.learning.metrics import measure_classes
from embedsearch.learning.ranking import Ranking
from embedsearch.network.feed import CPU_BATCH
from embedsearch.network.runtime import load_stream_extractor
from embedsearch.network.weights import resolve

PRECISIONS = ("fp32", "bf16", "int8")
Vectors = npt.NDArray[np.float32]


def main(folder: Path, models: list[str]) -> None:
    """Print the table."""
    print(f"{machine()}; {folder.name}\n")
    print(
        "| network | precision | images/s | cosine with fp32: mean, least | top 10 as in fp32 "
        "| fp32 queries, top 10 | recall@1 | mAP |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in models:
        spec = resolve(model, Session())
        pixels, labels = decoded(folder, spec)
        exact = np.empty((0, spec.dim), dtype=np.float32)
        for precision in PRECISIONS:
            extractor = load_stream_extractor(spec, "cpu", precision, Session())
            rate = network_rate(extractor, pixels[:CPU_BATCH], CPU_BATCH).images_per_s
            starts = range(0, len(pixels), CPU_BATCH)
            vectors = np.concatenate([extractor(pixels[s : s + CPU_BATCH]) for s in starts])
            exact = vectors if precision == "fp32" else exact
            cosines = np.einsum("nd,nd->n", exact, vectors)
            wanted = top_ten(exact, exact)
            recall, mean_ap = quality(vectors, labels)
            print(
                f"| {spec.name} | {precision} | {rate:.0f} "
                f"| {cosines.mean():.4f}, {cosines.min():.4f} "
                f"| {overlap(wanted, top_ten(vectors, vectors)):.3f} "
                f"| {overlap(wanted, top_ten(exact, vectors)):.3f} "
                f"| {recall:.3f} | {mean_ap:.3f} |",
                flush=True,
            )


def decoded(folder: Path, spec: ModelSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the pictures, uint8 (N, S, S, 3), and the number of each one's class."""
    scan = FolderScan(0, str(folder))
    jobs = [DecodeJob(ref, place) for ref, place in scan.places(list(scan))]
    workers = len(os.sched_getaffinity(0))
    pixels, names = [], []
    side, framing = spec.input_side, spec.framing
    with DecodePool(side, DecodeLimits(), workers=workers, framing=framing) as pool:
        for batch in pool.run(iter(jobs)):
            pixels.append(batch.images.pixels.copy())
            names += [ref.key.split("/")[0] for ref in batch.images.refs]
    return np.concatenate(pixels), np.unique(names, return_inverse=True)[1]


def quality(vectors: Vectors, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return recall@1 and mAP, each picture asking all others."""
    measured = measure_classes(labels, Ranking(vectors))
    return float(measured["recall@1"].mean()), float(measured["mAP"].mean())


def top_ten(queries: Vectors, vectors: Vectors) -> npt.NDArray[np.int64]:
    """Return the places of the ten nearest others of each query, int64 (N, 10)."""
    scores = queries @ vectors.T
    np.fill_diagonal(scores, -2.0)
    return np.argsort(-scores, axis=1)[:, :10]


def overlap(wanted: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> float:
    """Return the mean share of the wanted ten that were found."""
    shared = [len({*a} & {*b}) for a, b in zip(wanted.tolist(), found.tolist(), strict=True)]
    return float(np.mean(shared)) / 10


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
