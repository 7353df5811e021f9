"""Memory of `index` over the number of images: what one image more costs.

In: folders of tiny images, a few pictures under many names; out: peak memory, and its slope.
The short form lies within the first shard, whose vectors are in memory: it allows for them.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Report, forked
from tests.soak.scenes import indexing
from tests.support.library import paint

_COUNTS = (100_000, 400_000)
_ALLOWED = 250  # bytes an image: its key, and its place in a plan
_SHORT = (2_000, 12_000)
_ALLOWED_SHORT = 9_000  # vectors of the first shard, twice, and what is warm only by then


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Index two folders; small ones if `share` is less than 1."""
    peaks = []
    counts, allowed = (_COUNTS, _ALLOWED) if trial.share >= 1 else (_SHORT, _ALLOWED_SHORT)
    for count in counts:
        photos = _many(folder / f"{count}", count)

        def peak(_: Report, photos: Path = photos) -> object:
            return _peak(photos, folder / f"{photos.name}.es", trial.mutant)

        ended = forked(peak, 1200)
        if ended.has_failed:
            finding.accuse(f"{count:,} images: {ended.words} {ended.trace}")
            return
        peaks.append((count, ended.value))
        finding.count(f"peak MiB at {count:,} images", ended.value >> 20)
    (few, low), (many, high) = peaks[0], peaks[-1]
    finding.count("bytes an image", (high - low) // (many - few))
    if high - low > allowed * (many - few):
        finding.accuse(f"{(high - low) // (many - few)} bytes an image, {allowed} are allowed")


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
    mutants.apply(mutant)
    indexing(photos, checkpoint_images=20_000, workers=2, ann="exact")(store)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
