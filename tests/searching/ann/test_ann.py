"""ANN indexes: chosen by measuring, kept up to date, never wrong about a score or a count."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedsearch
from embedsearch.core.config import IndexConfig, SearchBudget
from embedsearch.core.errors import DamagedStore, Interrupted, UsageError
from embedsearch.core.records import Hit, Neighbors
from embedsearch.core.session import Session
from embedsearch.indexing.upkeep import info, repair
from embedsearch.searching import neighbors, tuning
from embedsearch.searching.ann import candidates
from embedsearch.searching.ann.build import CandidateBuilder, flat_bytes
from embedsearch.searching.ann.search import CandidateIndex
from embedsearch.searching.tuning_due import Due, due
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.manifest import Manifest
from tests.support.extractor import counting
from tests.support.library import paint
from tests.support.oracle import DIM, oracle, unit

KINDS = ["exact", "IVF12,SQ8", "HNSW16,SQ8", "IVF8,RaBitQ4", "IVF8,SQfp16", "PCA64,IVF8,SQ8", "SQ8"]
COUNT = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pictures in two folders, of which some are equal."""
    photos = tmp_path_factory.mktemp("ann") / "photos"
    for seed in range(COUNT):
        paint(photos / "ab"[seed % 2] / f"{seed:03d}.png", seed % 550, size=(16 + seed % 9, 12))
    return photos


@pytest.fixture(scope="module")
def stores(folder: Path) -> dict[str, Path]:
    """The same rows, of which some were deleted, under every kind of index."""
    first = folder.parent / "exact.es"
    embedsearch.index(folder, store=first, model="packaged", extractor_factory=counting)
    made = {}
    for kind in KINDS:
        made[kind] = folder.parent / f"{kind}.es"
        if kind != "exact":
            shutil.copytree(first, made[kind])
        index(made[kind], folder, ann=kind)
        assert (info(made[kind]).to_dict()["search"]) == kind
    return made


def index(store: Path, folder: Path, **options: Any) -> Manifest:
    """Bring a store into step without a network; return its manifest."""

    def nothing_new(*_: object) -> Any:
        raise AssertionError("there is nothing to embed")

    embedsearch.index(folder, store=store, extractor_factory=nothing_new, **options)
    return read_current(store)


def keys(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]


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
    ordered = sorted(whole, key=lambda hit: (-hit.score, hit.key))
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
    row = searcher._opened.generation._rows.vectors(np.array([rng.integers(len(searcher))]))[
        0
    ].astype(np.float32)
    noisy = row + 0.02 * rng.standard_normal(DIM).astype(np.float32)
    return (noisy / np.linalg.norm(noisy)).astype(np.float32)


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
    assert any("no index IVF4096,SQ8 of 600 images" in line for line in said)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(unit(0), 7)) == 7
    for nonsense in ("nonsense", "IVF16,SQ8,RFlat", "IDMap2,Flat", "PQ7", "IVF0,Flat", "NSG32", ""):
        with pytest.raises(UsageError, match="--ann"):
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


def test_budgets_are_checked_and_merged() -> None:
    for wrong in ({"recall": 0.0}, {"recall": 1.5}, {"latency_s": 0.0}, {"memory_bytes": 0}):
        with pytest.raises(UsageError):
            IndexConfig(**wrong)
    before = SearchBudget(recall=0.9, factory="SQ8")
    assert IndexConfig(latency_s=1.0).budget(before) == SearchBudget(0.9, 1.0, factory="SQ8")


def test_bytes_come_in_pieces_and_can_be_left() -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float16)
    pieces = flat_bytes(64, [rows])
    next(pieces)
    pieces.close()  # the thread that writes ends, too
    assert sum(map(len, flat_bytes(64, [rows]))) > rows.nbytes
    builder = CandidateBuilder.trained("IVF4,SQ8", 64, rows[:500].astype(np.float32))
    builder.add(rows)
    found = builder.index().search(rows[:5].astype(np.float32), 10, 4, None)
    assert [len(row) for row in found] == [10] * 5
    mask = np.zeros(len(rows), np.bool_)
    mask[[3, 77]] = True
    assert {*builder.index().search(rows[:1].astype(np.float32), 10, 4, mask)[0]} == {3, 77}
    with pytest.raises(ValueError, match=r"FAISS does not read it"):
        CandidateIndex.open(os.open("/dev/null", os.O_RDONLY), 64, 1)


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
            outside = searcher._opened.generation._rows.outside
            assert outside is None or int(outside.sum()) <= fresh - 40
            for name in there:
                (hit,) = searcher.query(embedsearch.Key(name), 1)
                assert (hit.key, hit.score) == (name, pytest.approx(1.0, abs=1e-5))
        assert ann is not None
