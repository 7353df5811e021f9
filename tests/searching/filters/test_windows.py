"""Columns that other processes map: whole, in order, and no more of them than may be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedsearch.core.session import Session
from embedsearch.searching.filters import windows
from embedsearch.searching.filters.where import Filters
from embedsearch.searching.filters.windows import Windows

PART = 1_000


def table(rows: int) -> pa.Table:
    """Return rows of which some have texts that are larger than a window."""
    wide = ["w" * 40_000 if n % 997 == 0 else str(n) for n in range(rows)]
    return pa.table({"row": np.arange(rows), "number": np.arange(rows) % 7, "text": wide})


class Source:
    """A table that counts how often it is read."""

    def __init__(self, rows: int) -> None:
        self.table = table(rows)
        self.reads = 0

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        self.reads += 1
        for start in range(0, len(self.table), PART):
            yield start, self.table.select(names).slice(start, PART)


@pytest.mark.parametrize("kept", [96 << 20, 1_000])
@pytest.mark.parametrize("size", [1 << 14, 16 << 20])
@pytest.mark.parametrize("most", [1 << 17, 1_500, 100])
def test_a_mask_is_that_of_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, kept: int, size: int, most: int
) -> None:
    monkeypatch.setattr(windows, "_KEPT_BYTES", kept)
    monkeypatch.setattr(windows, "_BYTES", size)
    monkeypatch.setattr(windows, "_ROWS", most)
    source = Source(5_432)
    filters = Filters(source.table.schema, source.read, len(source.table))
    rows = np.arange(len(source.table))
    for limit in (5, 4):
        text = f"number > {limit} or length(text) > 1000"
        wanted = (rows % 7 > limit) | (rows % 997 == 0)
        assert np.array_equal(filters.mask(text, Session()), wanted)
    assert source.reads == (1 if kept > 1_000 else 2)
    assert filters.mask("true", Session()).all() and not filters.mask("null", Session()).any()
    filters.close()


def test_no_more_is_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_KEPT_BYTES", 300_000)
    source, made = Source(3_000), Windows()
    before = len(list(Path("/dev/fd").iterdir()))
    for key in range(20):
        names = ["row"] if key % 2 else ["row", "number"]
        assert sum(each.rows for each in made.of(key, partial(source.read, names))) == 3_000
        assert sum(each.size for kept in made._kept.values() for each in kept.windows) <= 300_000
    assert 0 < len(made.numbers()) < 20
    made.clear()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_condition_that_asks_the_clock_is_asked_again() -> None:
    source = Source(2_000)
    filters = Filters(source.table.schema, source.read, 2_000)
    for text in ("number < 3 and now() > timestamp '2024-01-01'", "current_date > '2024-01-01'"):
        first = filters.mask(text, Session())
        assert filters.mask(text, Session()) is not first
    assert filters.mask("number < 3", Session()) is filters.mask("number < 3", Session())
    filters.close()
