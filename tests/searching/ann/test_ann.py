"""ANN indexes: chosen by measuring, never wrong about a score or a count."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import embedsearch
from embedsearch.core.config import IndexConfig, SearchBudget
from embedsearch.core.errors import UsageError
from embedsearch.core.records import Neighbors
from embedsearch.core.session import Session
from embedsearch.searching import neighbors
from embedsearch.searching.ann import candidates, tuning
from embedsearch.searching.ann.build import CandidateBuilder, flat_bytes
from embedsearch.searching.ann.search import CandidateIndex
from embedsearch.store.current import read_current
from embedsearch.store.info import info
from tests.support.indexes import COUNT, KINDS, index, keys
from tests.support.library import paint
from tests.support.oracle import DIM, oracle, unit


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 40),
    k=st.integers(1, 40),
    offset=st.integers(0, 60),
    width=st.sampled_from([None, 0, 20, 23, 99]),
    few=st.sampled_from([0, 4096]),
)
def test_every_index_filter_and_page_agrees_with_brute_force(
    stores: dict[str, Path],
    kind: str,
    seed: int,
    k: int,
    offset: int,
    width: int | None,
    few: int,
) -> None:
    """Counts, scores, order and filters exactly; which rows, for an ANN index, in its recall."""
    where = None if width is None else f"width > {width}"
    everything = oracle(stores[kind], unit(seed), COUNT)
    matching = [
        (key, score) for key, score in everything if width is None or 16 + int(key[2:5]) % 9 > width
    ]
    wanted = matching[offset : offset + k]
    patch = pytest.MonkeyPatch()
    patch.setattr(neighbors, "_FEW_ROWS", few)
    try:
        with embedsearch.open_store(stores[kind]) as searcher:
            hits = searcher.query(unit(seed), k, offset=offset, where=where)
            whole = searcher.query(unit(seed), offset + k, where=where)
    finally:
        patch.undo()
    assert hits == whole[offset:]
    assert len(hits) == len(wanted)
    scores = dict(matching)
    assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(wanted)))
    for hit in hits:
        assert hit.score == pytest.approx(scores[os.fsencode(hit.key)], abs=1e-5)
    ordered = sorted(whole, key=lambda hit: (-hit.ranked_by, hit.key))
    assert keys(whole) == keys(ordered)
    if kind == "exact":
        assert [os.fsencode(hit.key) for hit in hits] == [key for key, _ in wanted]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "exact"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.01])
def test_filtered_recall(stores: dict[str, Path], kind: str, share: float) -> None:
    """A filter costs no neighbor, however few rows it leaves."""
    where = f"(7919 * row) % 1000 < {round(1000 * share)}"
    found = possible = 0
    with (
        embedsearch.open_store(stores[kind]) as searcher,
        embedsearch.open_store(stores["exact"]) as exact,
    ):
        for seed in range(30):
            query = near_row(exact, seed)
            wanted = exact.query(query, 10, where=where)
            hits = searcher.query(query, 10, where=where)
            assert len(hits) == len(wanted)
            found += len({*keys(hits)} & {*keys(wanted)})
            possible += len(wanted)
    assert possible > 100 and found / possible >= 0.95


def near_row(searcher: embedsearch.Searcher, seed: int) -> npt.NDArray[np.float32]:
    """Return a unit vector near some row."""
    rng = np.random.default_rng(seed)
    snapshot = searcher._generations.current._snapshot
    (row,) = snapshot.plain_vectors_of(np.array([rng.integers(len(searcher))])).astype(np.float32)
    noisy = row + 0.02 * rng.standard_normal(DIM).astype(np.float32)
    near: npt.NDArray[np.float32] = noisy / np.linalg.norm(noisy)
    return near.astype(np.float32)


def test_what_is_built_is_chosen_by_measuring(
    folder: Path, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.es"
    shutil.copytree(stores["exact"], store)
    assert index(store, folder, ann="auto").ann is None, "a small store needs no index"
    monkeypatch.setattr(tuning, "_ALWAYS_EXACT_BYTES", 0)
    said: list[str] = []
    session = Session(notice=said.append)
    manifest = index(store, folder, latency_s=1e-9, session=session)
    assert not manifest.search.is_reached, "no index answers in a nanosecond"
    assert said[0].startswith("exact search takes ")
    assert len(said) == 3, said  # every candidate was tried
    manifest = index(store, folder, latency_s=10.0)
    assert manifest.ann is None and manifest.search.is_reached
    assert manifest.search.exact_latency_s > 0
    monkeypatch.setattr(tuning._Tuner, "_exact_latency_s", lambda self: 11.0)
    asked: list[int] = []
    use = neighbors.RowSearch.use

    def watch(self: Any, index: CandidateIndex, *rest: Any) -> None:
        asked.append(len(index))
        use(self, index, *rest)

    monkeypatch.setattr(neighbors.RowSearch, "use", watch)
    manifest = index(store, folder, latency_s=9.0, recall=0.9)
    assert manifest.ann is not None and manifest.ann.factory == "IVF15,SQ8"
    setting, recall, seconds = manifest.search.curve[-1]
    assert setting == manifest.ann.setting and recall >= 0.9 and 0 < seconds < 9
    assert all(before[1] < 0.9 for before in manifest.search.curve[:-2])
    assert manifest.ann.rows == sum(shard.rows for shard in manifest.shards)
    assert asked and all(known == manifest.ann.rows - 300 for known in asked), "300 were held out"
    facts = info(store).to_dict()["search_measured"]
    assert facts["curve"][-1]["recall_at_10"] == recall and facts["reached"]
    assert index(store, folder) == manifest, "nothing is due, the budget is remembered"


def test_of_copies_of_a_picture_any_is_a_right_answer(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    """Of 120 equal rows 10 are wanted: recall counts what is as near, exact search ends."""
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for number in range(600):
        paint(photos / f"{number:03d}.png", number % 5)
    embedsearch.index(
        photos, store=store, model="packaged", extractor_factory=extractor, ann="IVF4,SQ8"
    )
    manifest = read_current(store)
    assert manifest.search.is_reached and manifest.search.curve[-1][1] == 1.0
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(embedsearch.Key("023.png"), 10)
    assert keys(hits) == [f"{number:03d}.png" for number in range(3, 53, 5)]
    assert {hit.score for hit in hits} == {hits[0].score}
    question = candidates.Question(unit(0), wanted=2, least=0.75)
    copies = Neighbors(np.array([7, 8, 9]), np.array([0.75, 0.75, 0.75], np.float32))
    assert question.share(copies) == 1.0
    further = Neighbors(np.array([8, 9]), np.array([0.75, 0.5], np.float32))
    assert question.share(further) == 0.5


def test_candidates_fit_the_memory_and_the_history() -> None:
    names = candidates.factories(1_000_000, 512, SearchBudget(), loses_rows=False)
    assert names == ["IVF4000,SQ8", "HNSW32,SQ8"]
    assert "HNSW32,SQ8" not in candidates.factories(1_000_000, 512, SearchBudget(), loses_rows=True)
    assert "HNSW32,SQ8" not in candidates.factories(
        3_000_000, 512, SearchBudget(), loses_rows=False
    )
    small = SearchBudget(memory_bytes=400 << 20)
    assert candidates.factories(1_000_000, 512, small, loses_rows=False) == ["IVF4000,RaBitQ4"]
    smaller = SearchBudget(memory_bytes=200 << 20)
    assert candidates.factories(1_000_000, 512, smaller, loses_rows=False) == ["IVF4000,RaBitQ"]
    tiny = SearchBudget(memory_bytes=1 << 20)
    assert candidates.factories(1_000_000, 512, tiny, loses_rows=False) == []
    asked = SearchBudget(factory="PQ64")
    assert candidates.factories(10, 512, asked, loses_rows=True) == ["PQ64"]
    for rows in (1, 39, 40, 100, 10_000):
        lists = candidates.list_count(rows)
        assert lists >= 1 and (lists == 1 or 39 * lists <= candidates.training_rows(rows, 512))


def test_budgets_are_checked_and_merged() -> None:
    for wrong in ({"recall": 0.0}, {"recall": 1.5}, {"latency_s": 0.0}, {"memory_bytes": 0}):
        with pytest.raises(UsageError):
            IndexConfig(**wrong)
    before = SearchBudget(recall=0.9, factory="SQ8")
    assert IndexConfig(latency_s=1.0).budget(before) == SearchBudget(0.9, 1.0, factory="SQ8")


def test_bytes_come_in_pieces_and_can_be_left() -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float16)
    pieces = flat_bytes(64, [rows])
    assert isinstance(pieces, Generator)
    next(pieces)
    pieces.close()  # the thread that writes ends, too
    assert sum(map(len, flat_bytes(64, [rows]))) > rows.nbytes
    builder = CandidateBuilder.trained("IVF4,SQ8", 64, rows[:500].astype(np.float32))
    builder.add(rows)
    found = builder.index().search(rows[:5].astype(np.float32), 10, 4, None)
    assert [len(row.positions) for row in found] == [10] * 5
    mask = np.zeros(len(rows), np.bool_)
    mask[[3, 77]] = True
    assert {*builder.index().search(rows[:1].astype(np.float32), 10, 4, mask)[0].positions} == {
        3,
        77,
    }
    with pytest.raises(ValueError, match=r"FAISS cannot read it"):
        CandidateIndex.open(os.open("/dev/null", os.O_RDONLY), 64, 1)
