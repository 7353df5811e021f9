"""A decoding process that was started before anything was asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedsearch.cli.entry import run
from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import StorageError
from embedsearch.images.decode import child
from embedsearch.images.decode.child import Child, started_ahead
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.shared import ImageFile, SharedDecoder
from tests.support.library import CLOCK, Library


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that were started."""
    made: list[Child] = []

    class Noted(Child):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(child, "Child", Noted)
    return made


def test_the_first_pool_uses_it(children: list[Child]) -> None:
    decoder = SharedDecoder(32, DecodeLimits(), max_files=1)
    with started_ahead(True):
        assert len(children) == 1
        (outcome,) = decoder([ImageFile.at(str(CLOCK), "a clock")])
        assert not isinstance(outcome, Exception) and outcome.pixels.shape == (32, 32, 3)
        assert len(children) == 1
    assert children[0].process.poll() is None, "it is the pool's now"
    decoder.close()
    assert children[0].process.poll() is not None


def test_one_that_nobody_used_is_ended(children: list[Child]) -> None:
    with pytest.raises(KeyError), started_ahead(True):
        raise KeyError
    assert children[0].process.poll() is not None and children[0].errors.closed


def test_one_that_died_meanwhile_costs_nothing(children: list[Child]) -> None:
    decoder = SharedDecoder(32, DecodeLimits(), max_files=1)
    with started_ahead(True):
        children[0].process.kill()
        children[0].process.wait()
        (outcome,) = decoder([ImageFile.at(str(CLOCK), "a clock")])
        assert not isinstance(outcome, Exception)
    decoder.close()
    assert [each.process.poll() is None for each in children] == [False, False]


def test_what_the_system_refuses_is_said_by_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Child:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(child, "Child", refused)
    with (
        started_ahead(True),
        pytest.raises(StorageError, match="Resource temporarily unavailable"),
    ):
        DecodePool(32, DecodeLimits())


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (["--text", "clocks"], 0),
        (["--key", "a/01.png"], 0),
        ([str(CLOCK)], 1),
        (["--like", str(CLOCK), "--text", "clocks"], 1),
        ([str(CLOCK), "--store", "nowhere.es"], 1),
    ],
)
def test_a_query_starts_one_for_images_only(
    asked: list[str], count: int, children: list[Child], library: Library, photos: Path
) -> None:
    library.index(photos)
    children.clear()
    run(["query", "--store", str(library.store), *asked])
    assert [each.process.poll() is None for each in children] == [False] * count
