"""Lists in an order: as Python sorts the records, page by page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.core.records import ImageRecord
from embedsearch.searching.browsing.order import ORDERS
from tests.support.library import paint


def modified(record: ImageRecord) -> int | None:
    return os.stat(record.full_path).st_mtime_ns if os.path.exists(record.full_path) else None


def home(record: ImageRecord) -> str:
    return record.full_path.removesuffix(record.key)


VALUES: dict[str, Callable[[ImageRecord], Any]] = {
    "taken_at": lambda record: record.taken_at,
    "path": lambda record: (home(record), record.key),
    "size": lambda record: record.size_bytes or None,
    "modified": modified,
    "row": lambda record: record.row,
}


def sorted_by_hand(records: list[ImageRecord], order: str) -> list[int]:
    """Return the rows of records, sorted by hand: those without a value last."""
    value = VALUES[order.removeprefix("-")]
    known = [record for record in records if value(record) is not None]
    if order.startswith("-"):  # a reversed sort keeps ties in order, too
        known.sort(key=value, reverse=True)
    else:
        known.sort(key=value)
    return [r.row for r in [*known, *(r for r in records if value(r) is None)]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", [None, "stars > 1", "camera = 'Zeiss'", "width < 0"])
def test_an_order_is_that_of_the_records(
    searcher: embedsearch.Searcher, order: str, where: str | None
) -> None:
    stored = searcher.images(100, where=where)
    wanted = sorted_by_hand(stored.images, order)
    assert len(wanted) == stored.total == {None: 42, "width < 0": 0}.get(where, stored.total)
    found = searcher.images(100, where=where, order=order)
    assert [record.row for record in found.images] == wanted
    assert sorted(found.images, key=lambda r: r.row) == sorted(stored.images, key=lambda r: r.row)
    pages = [searcher.images(5, where=where, order=order, offset=n) for n in range(0, 50, 5)]
    assert [record.row for page in pages for record in page.images] == wanted
    assert {page.total for page in pages} == {stored.total}


def test_the_store_tells_orders_apart(searcher: embedsearch.Searcher) -> None:
    """Else a wrong order would pass: values tie, some are missing, and no two orders agree."""
    records = searcher.images(100).images
    for value in VALUES.values():
        values = [value(record) for record in records]
        assert len(set(values)) > 5
    assert sum(record.taken_at is None for record in records) > 5
    assert len({tuple(sorted_by_hand(records, order)) for order in ORDERS}) == len(ORDERS)
    assert sorted_by_hand(records, "row") == [record.row for record in records]


@pytest.mark.parametrize("order", ["", "-", "camera", "PATH", " path", "--row", "path, row", "é"])
def test_orders_that_cannot_be(searcher: embedsearch.Searcher, order: str) -> None:
    with pytest.raises(UsageError, match="order is one of taken_at, path, size") as caught:
        searcher.images(order=order)
    assert caught.value.fields == ("order",)


def test_a_list_beyond_the_end_is_empty(searcher: embedsearch.Searcher) -> None:
    for order in (None, *ORDERS):
        for offset in (42, 10**6, 10**30):
            found = searcher.images(5, order=order, offset=offset)
            assert (found.images, found.total) == ([], 42)


def test_of_an_empty_store(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    photo = paint(tmp_path / "photos" / "a.png", 1)
    options: dict[str, Any] = {"store": tmp_path / "s.es", "extractor_factory": extractor}
    embedsearch.index(tmp_path / "photos", model="packaged", **options)
    photo.unlink()
    with pytest.raises(embedsearch.NothingIndexed):
        embedsearch.index(tmp_path / "photos", allow_empty=True, **options)
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        for order in (None, *ORDERS):
            assert searcher.images(order=order).images == []
