"""Memory of `index` over the number of images: what one image more costs.

In: ten and a hundred thousand tiny images, a few pictures under many names; out: peak memory, and
its slope. Shards are small, so that the slope is not that of the first one being filled.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from embedsearch import ledger
from embedsearch.store import merge
from tests.conftest import paint
from tests.soak import mutants
from tests.soak.finding import Finding, Trial, workshop
from tests.soak.forge import forked
from tests.soak.scenes import indexing

_COUNTS = (10_000, 100_000)
_LEAST = 25_000
_SHARD_BYTES = 1 << 20  # so that the first count already fills several
_ALLOWED = 250  # bytes an image: its key, and its place in a plan


def run(trial: Trial) -> Finding:
    """Index two folders, the larger one by `share` of its length."""
    finding = Finding(trial.mutant is not None)
    peaks = []
    with workshop() as folder:
        for count in (_COUNTS[0], max(_LEAST, trial.count(_COUNTS[1]))):
            photos = _many(folder / f"{count}", count)
            ended = forked(
                lambda report, at=photos: _peak(at, folder / f"{at.name}.es", trial.mutant), 1200
            )
            if ended.error is not None:
                finding.accuse(ended.trace)
                return finding
            peaks.append((count, ended.value))
            finding.count(f"peak MiB at {count:,} images", ended.value >> 20)
    (few, low), (many, high) = peaks[0], peaks[-1]
    finding.count("bytes an image", (high - low) // (many - few))
    if (high - low) > _ALLOWED * (many - few) + (8 << 20):  # what one batch more or less is
        finding.accuse(f"{(high - low) // (many - few)} bytes an image, {_ALLOWED} are allowed")
    return finding


def _many(folder: Path, count: int) -> Path:
    """Make a folder of so many names for a few pictures."""
    pictures = [paint(folder / "0" / f"p{seed}.png", seed) for seed in range(20)]
    for number in range(count - len(pictures)):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(exist_ok=True)
        os.link(pictures[number % len(pictures)], place / f"{number:07d}.png")
    return folder


def _peak(photos: Path, store: Path, mutant: str | None) -> int:
    """In a child: index, and return the bytes that it took more than before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merge.SHARD_BYTES = ledger.EXACT_FILE_BYTES = _SHARD_BYTES
    mutants.apply(mutant)
    indexing(photos, checkpoint_images=2_000, workers=2, ann="exact")(store)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
