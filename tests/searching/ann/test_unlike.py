"""Queries unlike the rows of a store: recognized, searched wider, and measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch.core.config import SearchBudget
from embedsearch.core.session import Session
from embedsearch.searching.ann import unlike
from embedsearch.searching.ann.candidates import Measured, Question
from embedsearch.searching.ann.tuning import tune
from embedsearch.searching.ann.unlike import Wide
from embedsearch.store.current import read_current
from embedsearch.store.info import info
from embedsearch.store.manifest import AnnRecord
from embedsearch.store.writer import StoreWriter
from tests.support.library import run_cli
from tests.support.stores import imported

ROWS, DIM, CENTERS = 12_000, 48, 300

Units = npt.NDArray[np.float32]


def units(rows: npt.NDArray[np.float64]) -> Units:
    scaled: Units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clusters(count: int, seed: int) -> Units:
    """Rows around centers that are the same for every seed; no number is negative."""
    centers = np.abs(np.random.default_rng(0).standard_normal((CENTERS, DIM))) ** 2
    rng = np.random.default_rng(seed)
    near = centers[rng.integers(CENTERS, size=count)]
    return units(np.abs(near + 0.25 * rng.standard_normal((count, DIM))))


@pytest.fixture(scope="module", params=["IVF256,SQ8", "IVF256,RaBitQ4"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlike")
    made = imported(folder, clusters(ROWS, 1), (f"{n:05d}.png" for n in range(ROWS)))
    with StoreWriter(made) as writer:
        assert writer.manifest is not None
        budget = SearchBudget(latency_s=1.0, factory=request.param)
        writer.commit(tune(writer, writer.manifest, budget, Session()))
    return made


def ann_of(store: Path) -> AnnRecord:
    ann = read_current(store).ann
    assert ann is not None
    return ann


def with_ann(store: Path, copy: Path, **changes: object) -> Path:
    """Return a copy of a store whose index has other settings."""
    shutil.copytree(store, copy)
    with StoreWriter(copy) as writer:
        assert writer.manifest is not None
        changed = replace(ann_of(copy), **changes)  # type: ignore[arg-type]
        writer.commit(replace(writer.manifest, ann=changed))
    return copy


def recall(store: Path, queries: Units) -> float:
    with embedsearch.open_store(store) as searcher:
        rows = searcher._generations.current._rows
        near, true = rows.nearest(queries, 10), rows.exact(queries, 10)
    shared = [
        len({*a.ordinals.tolist()} & {*b.ordinals.tolist()})
        for a, b in zip(near, true, strict=True)
    ]
    return sum(shared) / (10 * len(queries))


def test_what_is_far_is_found_too(store: Path, tmp_path: Path) -> None:
    """Noise that no query of the tuning is; rows like those of the store as without it."""
    ann = ann_of(store)
    assert ann.unlike_recall is not None and ann.unlike_latency_s > 0
    assert ann.wide_below > 0.5, "rows held out are nearer than this"
    before = with_ann(store, tmp_path / "before.es", unlike_recall=None)
    wide = with_ann(store, tmp_path / "wide.es", wide_setting=256, wide_rescored=16)
    exact = with_ann(store, tmp_path / "exact.es", wide_setting=0)
    like = clusters(200, 2)
    noise = units(np.random.default_rng(3).standard_normal((100, DIM)))
    assert recall(before, noise) < 0.9
    assert recall(store, noise) >= recall(before, noise)
    assert recall(wide, noise) >= 0.95 and recall(exact, noise) == 1.0
    assert recall(store, like) >= recall(before, like) >= 0.97


def test_info_says_both(store: Path) -> None:
    ann = ann_of(store)
    facts = info(store).to_dict()["search_measured"]
    assert facts["unlike"]["recall_at_10"] == ann.unlike_recall
    assert facts["curve"][-1]["setting"] == ann.setting
    shown = run_cli("info", "--store", store).stdout
    assert f"; of queries unlike the images {ann.unlike_recall:.3f} in " in shown


def test_a_store_of_before_opens_and_searches_as_it_did(store: Path, tmp_path: Path) -> None:
    older = with_ann(store, tmp_path / "older.es", unlike_recall=None)
    values = json.loads(read_current(older).to_bytes())
    kept = {k: v for k, v in values["ann"].items() if not k.startswith(("wide_", "unlike_"))}
    assert len(values["ann"]) - len(kept) == 5
    values["ann"] = kept
    manifest = type(read_current(older)).from_bytes(json.dumps(values).encode())
    assert manifest.ann is not None and manifest.ann.unlike_recall is None
    assert info(older).to_dict()["search_measured"]["unlike"] is None
    assert recall(older, clusters(50, 4)) >= 0.95


def test_the_widest_in_time_is_taken() -> None:
    """Times and recalls of a made index: nothing is measured against a clock."""
    question = Question(np.zeros(2, np.float32), 1, 0.5)
    recalls = {8: 0.5, 16: 0.7, 32: 0.96, 64: 1.0}

    def chosen(limit_s: float, exact_s: float = 0.0) -> Wide:
        patch = pytest.MonkeyPatch()
        patch.setattr(
            unlike,
            "measured",
            lambda answer, setting, _: Measured(setting, recalls[setting], setting / 1000, 0.0),
        )
        like = Measured(8, 0.99, limit_s / 2, 0.0)
        try:
            return unlike.widened(
                *(lambda wide: lambda query: None, [8, 16, 32, 64], like, 0.6),  # type: ignore[arg-type]
                *([[question], [question]],),
                exact_s=exact_s,
                hits_s=0.0,
            )
        finally:
            patch.undo()

    assert (chosen(1.0).setting, chosen(1.0).below) == (32, 0.6)
    assert chosen(0.02).setting == 16, "in time comes first"
    assert chosen(0.001).setting == 8, "the setting of others at the worst"
    assert chosen(0.02, exact_s=0.01).setting == 0 and chosen(0.02, exact_s=0.03).setting == 16
    assert chosen(1.0, exact_s=0.01).setting == 0 and chosen(1.0, exact_s=0.5).setting == 32


def test_queries_made_for_the_tuning_are_far_and_the_same_each_time() -> None:
    rows = clusters(96, 5)
    kinds = unlike.unlike_queries(rows, np.random.default_rng(7))
    again = unlike.unlike_queries(rows, np.random.default_rng(7))
    assert len(kinds) == 4 and all(np.array_equal(a, b) for a, b in zip(kinds, again, strict=True))
    for kind in kinds:
        assert kind.shape == (24, DIM)
        assert np.linalg.norm(kind, axis=1) == pytest.approx(np.ones(24), abs=1e-5)
        assert np.median((kind @ rows.T).max(axis=1)) < 0.95
    assert unlike.limit_of([0.5] * 99 + [0.1]) == 0.5
