"""Views of a whole store: of one generation, and what brute force finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import embedsearch
from embedsearch.core.config import DuplicateConfig
from embedsearch.core.session import Session
from embedsearch.curation.views import copies_view, groups_view, map_view, outliers_view


def test_views_are_of_the_generation_that_they_name(store: Path) -> None:
    with embedsearch.open_store(store) as searcher:
        generation = searcher.manifest.generation
    session = Session()
    assert {
        copies_view(store, DuplicateConfig(), session).generation,
        groups_view(store, 3, session).generation,
        outliers_view(store, session).generation,
        map_view(store, 20, session).generation,
    } == {generation}


def test_groups_hold_each_image_once(store: Path) -> None:
    groups = groups_view(store, 9, Session()).groups
    rows = np.concatenate([group.rows for group in groups])
    with embedsearch.open_store(store) as searcher:
        assert sorted(rows.tolist()) == [image.row for image in searcher.images(100).images]
        for group in groups:
            keys = [searcher.get(row).key for row in group.rows[:4].tolist()]
            assert [picture.key for picture in group.representatives] == keys
    sizes = [len(group.rows) for group in groups]
    assert sizes == sorted(sizes, reverse=True)


def test_the_oddest_by_brute_force(store: Path) -> None:
    view = outliers_view(store, Session())
    with embedsearch.open_store(store) as searcher:
        rows = [image.row for image in searcher.images(100).images]
        vectors = searcher.embed([embedsearch.Key(row) for row in rows])
        center = searcher.manifest.open_center()
    assert center is not None
    measured = center.measured(vectors)
    cosines = measured @ measured.T
    np.fill_diagonal(cosines, -2)
    means = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
    found = dict(zip(view.rows.tolist(), view.scores.tolist(), strict=True))
    assert np.allclose([found[row] for row in rows], means, atol=2e-3)
    assert view.scores.tolist() == sorted(view.scores.tolist())


def test_a_map_of_a_sample_is_of_the_same_places(store: Path) -> None:
    view = map_view(store, 1000, Session())
    assert view.images == len(view.rows) == 64
    assert view.plane.shape == (64, 2)
    assert (view.plane.min(axis=0) == 0).all() and (view.plane.max(axis=0) == 1).all()
    assert len(map_view(store, 10, Session()).rows) == 10
