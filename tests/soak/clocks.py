"""Times of files that lie: in the future, in 1970, equal, gone back. None missed, none for ever.

In: nothing; out: runs over files whose times are strange.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Report, forked
from tests.soak.scenes import indexing
from tests.soak.witness import read
from tests.support.extractor import CountingExtractor
from tests.support.library import paint

_NOW = 1_790_000_000 * 10**9
_TIMES = {
    "1970": 0,
    "before 1970": -(10**18),
    "now": _NOW,
    "in a hundred years": _NOW + 100 * 365 * 86400 * 10**9,
    "an hour ago, as summer time ends": _NOW - 3600 * 10**9,
    "a nanosecond later": _NOW + 1,
}


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Change a file from every time to every other time, content and length changing or not."""
    for before, first in _TIMES.items():
        for after, second in _TIMES.items():
            if before != after:
                where = f"from {before} to {after}"
                at = folder / where.replace(" ", "_")
                _change(finding, at, first, second, where, trial.mutant)


def _change(
    finding: Finding, at: Path, first: int, second: int, where: str, mutant: str | None
) -> None:
    photos, store = at / "photos", at / "s.es"
    still, other = photos / "still.bmp", photos / "other.bmp"
    for seed, path in enumerate((still, other)):
        os.utime(paint(path, seed), ns=(first, first))

    def work(report: Report) -> list[int]:
        mutants.apply(mutant)
        embedded = [_embedded(photos, store)]
        size = other.stat().st_size
        paint(other, 99)  # as long as before, and from another time
        assert other.stat().st_size == size, "a BMP's length is that of its size"
        for path in (still, other):
            os.utime(path, ns=(second, second))
        embedded += [_embedded(photos, store), _embedded(photos, store)]
        return embedded

    ended = forked(work)
    finding.count("changes of time")
    if ended.has_failed:
        finding.accuse(f"{where}: {ended.words} {ended.trace}")
    elif ended.value != [2, 1, 0]:
        finding.accuse(f"{where}: {ended.value} images were embedded, not 2, 1 and 0")
    elif (account := read(store)) is None or len(account.rows) != 2:
        finding.accuse(f"{where}: a row is missing")


def _embedded(photos: Path, store: Path) -> int:
    CountingExtractor.embedded = 0
    indexing(photos)(store)
    return CountingExtractor.embedded
