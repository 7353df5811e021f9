"""ANN indexes kept up to date: rows that came and went, files lost, builds broken off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import embedsearch
from embedsearch.core.config import SearchBudget
from embedsearch.core.errors import DamagedStore, Interrupted, UsageError
from embedsearch.core.session import Session
from embedsearch.indexing.repair import repair
from embedsearch.searching.ann.tuning_due import Due, due
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.manifest import Manifest
from tests.support.extractor import counting
from tests.support.indexes import index, keys
from tests.support.library import paint
from tests.support.oracle import oracle, unit


def test_rows_that_came_later_are_found_and_then_added(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(60):
        paint(photos / f"{seed:03d}.png", seed)
    embedsearch.index(
        photos, store=store, model="packaged", extractor_factory=extractor, ann="IVF4,SQ8"
    )
    first = read_current(store)
    assert first.ann is not None and first.ann.rows == 60
    paint(photos / "new.png", 999)
    embedsearch.index(photos, store=store, extractor_factory=extractor)
    manifest = read_current(store)
    assert manifest.ann is not None and manifest.ann.name == first.ann.name
    assert manifest.shards[0].rows == 61, "the shards were merged, and the index knows"
    with embedsearch.open_store(store) as searcher:
        new = searcher.query(embedsearch.Key("new.png"), 3)
        assert keys(new)[0] == "new.png" and new[0].score == pytest.approx(1.0, abs=1e-5)
        assert keys(new) == keys(searcher.query(embedsearch.Key("new.png"), 61))[:3]
    costly = SearchBudget(latency_s=1e-7, factory="IVF4,SQ8")
    grown = tuning_of(manifest, costly)
    assert due(grown, costly) is Due.ADD
    for seed in range(60, 80):
        paint(photos / f"{seed:03d}.png", seed)
    embedsearch.index(photos, store=store, extractor_factory=extractor, latency_s=1e-7)
    manifest = read_current(store)
    assert manifest.ann is not None and manifest.ann.rows == 81
    for seed in range(80, 84):
        paint(photos / f"{seed:03d}.png", seed)
    said: list[str] = []
    session = Session(notice=said.append)
    embedsearch.index(photos, store=store, extractor_factory=extractor, session=session)
    assert said and said[0].startswith("adding ")
    manifest = read_current(store)
    assert manifest.ann is not None and manifest.ann.trained_rows == 81
    assert check_store(store, read_data=True)[1] == []
    with embedsearch.open_store(store) as searcher:
        for seed in (3, 70, 83):
            assert keys(searcher.query(embedsearch.Key(f"{seed:03d}.png"), 1)) == [
                f"{seed:03d}.png"
            ]


def tuning_of(manifest: Manifest, budget: SearchBudget) -> Manifest:
    """Return the manifest as if it had been measured under this budget."""
    return replace(manifest, search=replace(manifest.search, budget=budget, exact_latency_s=1.0))


def test_an_index_of_dead_rows_is_built_anew(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(60):
        paint(photos / f"{seed:03d}.png", seed)
    embedsearch.index(
        photos, store=store, model="packaged", extractor_factory=extractor, ann="IVF2,SQ8"
    )
    first = read_current(store).ann
    for gone, is_kept in ((range(4), True), (range(4, 20), False)):
        for seed in gone:
            (photos / f"{seed:03d}.png").unlink()
        embedsearch.index(photos, store=store, extractor_factory=extractor)
        ann = read_current(store).ann
        assert ann is not None and first is not None
        assert (ann.name == first.name) is is_kept
        with embedsearch.open_store(store) as searcher:
            hits = searcher.query(unit(0), 60)
        assert keys(hits) and not {f"{seed:03d}.png" for seed in gone} & {*keys(hits)}
        assert len(hits) == read_current(store).live


@pytest.mark.parametrize("harm", ["missing", "damaged", "cut"])
def test_a_lost_index_file(
    folder: Path, stores: dict[str, Path], tmp_path: Path, harm: str
) -> None:
    store = tmp_path / "s.es"
    shutil.copytree(stores["IVF12,SQ8"], store)
    manifest = read_current(store)
    assert manifest.ann is not None
    path = store / manifest.ann.relative
    data = path.read_bytes()
    path.unlink()
    if harm == "missing":
        said: list[str] = []
        with embedsearch.open_store(store, session=Session(notice=said.append)) as searcher:
            hits = searcher.query(unit(3), 20)
        assert [os.fsencode(h.key) for h in hits] == [k for k, _ in oracle(store, unit(3), 20)]
        assert len(said) == 1 and manifest.ann.relative in said[0] and "repair" in said[0]
    else:
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 0x10
        path.write_bytes(bytes(flipped) if harm == "damaged" else data[:-1])
        with pytest.raises(DamagedStore, match="repair"):
            embedsearch.open_store(store)
    problems = check_store(store, read_data=True)[1]
    assert [problem.file for problem in problems] == [manifest.ann.relative]
    assert repair(store) == ["the FAISS files were built again from the shards"]
    assert check_store(store, read_data=True)[1] == []
    mended = read_current(store)
    assert mended.ann is not None and mended.ann.factory == "IVF12,SQ8"
    assert repair(store) == []


def test_an_index_that_cannot_be_built_costs_speed_only(
    folder: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    store = tmp_path / "s.es"
    shutil.copytree(stores["exact"], store)
    said: list[str] = []
    manifest = index(store, folder, ann="IVF4096,SQ8", session=Session(notice=said.append))
    assert manifest.ann is None and not manifest.search.is_reached
    assert any("index IVF4096,SQ8 of 600 images cannot be built" in line for line in said)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(unit(0), 7)) == 7
    for nonsense in ("nonsense", "IVF16,SQ8,RFlat", "IDMap2,Flat", "PQ7", "IVF0,Flat", "NSG32", ""):
        with pytest.raises(UsageError, match=r"^ann "):
            index(store, folder, ann=nonsense)
    assert read_current(store) == manifest


def test_an_interrupted_build_leaves_the_rows(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(50):
        paint(photos / f"{seed:03d}.png", seed)
    said: list[str] = []
    session = Session(notice=said.append, stop=lambda: 2 * any("building" in s for s in said))
    with pytest.raises(Interrupted, match="all 50 images are committed") as caught:
        embedsearch.index(
            photos,
            store=store,
            model="packaged",
            extractor_factory=extractor,
            ann="IVF2,SQ8",
            session=session,
        )
    assert caught.value.exit_code == 130
    assert read_current(store).live == 50 and read_current(store).ann is None
    embedsearch.index(photos, store=store, extractor_factory=extractor, ann="IVF2,SQ8")
    assert read_current(store).ann is not None
    assert check_store(store, read_data=True)[1] == []


def test_the_tidy_run_writes_one_generation(tmp_path: Path, extractor: Callable[..., Any]) -> None:
    """Merged shards, flat files and the index come with one commit."""
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(40):
        paint(photos / f"{seed:03d}.png", seed)
    embedsearch.index(
        photos, store=store, model="packaged", extractor_factory=extractor, ann="IVF1,SQ8"
    )
    assert read_current(store).generation == 2


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(st.sets(st.integers(0, 39)), st.integers(0, 9)), max_size=5))
def test_an_index_follows_rows_through_merges(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[int], int]]
) -> None:
    """Pictures go and come; each that is there is found by the index, under its own name."""
    folder = tmp_path_factory.mktemp("follow")
    photos, store = folder / "photos", folder / "s.es"
    for seed in range(40):
        paint(photos / f"{seed:03d}.png", seed, size=(20, 20))
    embedsearch.index(
        photos, store=store, model="packaged", extractor_factory=counting, ann="IVF2,SQ8"
    )
    fresh = 40
    for gone, new in steps:
        for seed in gone:
            (photos / f"{seed:03d}.png").unlink(missing_ok=True)
        for seed in range(fresh, fresh + new):
            paint(photos / f"{seed:03d}.png", seed, size=(20, 20))
        fresh += new
        if not list(photos.iterdir()):
            return
        embedsearch.index(photos, store=store, extractor_factory=counting)
        ann = read_current(store).ann
        there = sorted(path.name for path in photos.iterdir())
        with embedsearch.open_store(store) as searcher:
            outside = searcher._generations.current._rows.outside
            assert outside is None or int(outside.sum()) <= fresh - 40
            for name in there:
                (hit,) = searcher.query(embedsearch.Key(name), 1)
                assert hit.key == name and hit.score == pytest.approx(1.0, abs=1e-5)
        assert ann is not None or len(there) < 2, "two cells need two rows"
